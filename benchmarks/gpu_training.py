"""Images per second and peak memory of lttune's training loop against detectron2's own trainers.

    python -m benchmarks.gpu_training [--device cuda] [--short-px 800] [--batch 16] [--iters 50]

Mask R-CNN R50-FPN with 1203 categories and softmax cross-entropy on synthetic images, both from one file of random
weights, so that both keep the statistics of their normalisations and the first stages as in a real run; once in
float32 against `SimpleTrainer` and once in float16 with scaled losses against `AMPTrainer`. Both have their images in
memory. The two take turns, `--rounds` times, and the best round of each counts. Needs detectron2 and, at its real
size, a GPU; a tiny size on a CPU shows that it works:

    python -m benchmarks.gpu_training --device cpu --short-px 128 --batch 2 --iters 2
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from lttune.data.lvis import LvisDataset
from lttune.detectors.base import DetectorConfig
from lttune.engine.assets import Assets
from lttune.engine.config import (
    DataConfig,
    OptimConfig,
    Precision,
    Recipe,
    SamplerConfig,
    ScheduleConfig,
    SplitPaths,
    Stage1Config,
    TrainConfig,
)
from lttune.engine.run import TrainingRun
from lttune.losses.cross_entropy import SoftmaxCrossEntropy

NUM_CLASSES, NUM_INSTANCES = 1203, 7
# Of an image's long side to its short one, as at LVIS's usual 1333 x 800.
ASPECT = 5 / 3
WARM_UP = 5
Step = Callable[[], object]


def write_data(folder: Path, num_images: int, short_px: int) -> Path:
    """Noise with boxes that are their own masks; gives the annotation file."""
    rng = np.random.default_rng(0)
    height, width = short_px, round(short_px * ASPECT)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(num_images):
        name = f"{number}.png"
        pixels = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / name)
        sides = {"height": height, "width": width}
        images.append(
            {"id": number, "file_name": name, **sides, "neg_category_ids": [], "not_exhaustive_category_ids": []}
        )
        for _ in range(NUM_INSTANCES):
            w, h = rng.uniform(0.1, 0.5, 2) * (width, height)
            x, y = rng.uniform(0, 1, 2) * (width - w, height - h)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": int(rng.integers(1, NUM_CLASSES + 1)),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    categories = [{"id": c, "name": f"c{c}", "frequency": "f"} for c in range(1, NUM_CLASSES + 1)]
    path = folder / "train.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def ours(config: TrainConfig, assets: Assets, device: torch.device) -> Step:
    """A step of our loop, as a trial makes it."""
    run = TrainingRun(config, assets, device=device, judged_on=None)
    return lambda: run.advance(max_iters=1)


def theirs(config: TrainConfig, assets: Assets, device: torch.device) -> Step:
    """A step of detectron2's trainer on its own model."""
    from detectron2.engine import AMPTrainer, SimpleTrainer
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    from lttune.detectors.detectron2.recipe import build_cfg

    cfg = build_cfg(config.detector, NUM_CLASSES)
    cfg.MODEL.DEVICE = device.type
    model = build_model(cfg)
    assert config.detector.weights is not None
    model.load_state_dict(torch.load(config.detector.weights, weights_only=True)["model"], strict=False)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, config.optim.lr, config.optim.momentum, fused=True)
    images = detectron2_images(assets)
    kind = AMPTrainer if config.precision == "fp16" else SimpleTrainer
    trainer = kind(model, endless(images, config.schedule.batch_size), optimizer)
    storage = EventStorage()

    def step() -> None:
        with storage:
            trainer.run_step()

    return step


def detectron2_images(assets: Assets) -> list[dict[str, Any]]:
    """The training images as detectron2 wants them."""
    from detectron2.structures import BitMasks, Boxes, Instances

    dataset = LvisDataset(assets.train, Path(assets.train_images))
    found = []
    for pixels, target in (dataset[i] for i in range(len(dataset))):
        assert target.masks is not None
        instances = Instances(tuple(pixels.shape[-2:]))
        instances.gt_boxes, instances.gt_classes = Boxes(target.boxes), target.labels
        instances.gt_masks = BitMasks(target.masks)
        found.append({"image": pixels.flip(0), "instances": instances})
    return found


def endless(images: list[dict[str, Any]], batch_size: int) -> Iterator[list[dict[str, Any]]]:
    start = 0
    while True:
        yield [images[(start + i) % len(images)] for i in range(batch_size)]
        start += batch_size


def seconds_of(step: Step, iters: int, device: torch.device) -> float:
    """Of so many steps, when the device has done them."""
    synchronize(device)
    began = time.perf_counter()
    for _ in range(iters):
        step()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return float(psutil.Process().memory_info().rss) / 1e9


def compare(config: TrainConfig, assets: Assets, device: torch.device, *, iters: int, rounds: int) -> dict[str, Any]:
    """Images per second and peak memory of both; only one of them is in memory at a time."""
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    peaks = dict.fromkeys(rates, 0.0)
    for _ in range(rounds):
        for name, make in (("ours", ours), ("theirs", theirs)):
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            step = make(config, assets, device)
            seconds_of(step, min(WARM_UP, iters), device)
            rates[name].append(iters * config.schedule.batch_size / seconds_of(step, iters, device))
            peaks[name] = max(peaks[name], peak_gb(device))
            del step
    best = {name: max(found) for name, found in rates.items()}
    return {"images_per_second": best, "peak_gb": peaks, "ratio": best["ours"] / best["theirs"]}


def config_for(paths: SplitPaths, precision: Precision, *, weights: str, batch: int) -> TrainConfig:
    optim = OptimConfig(lr=1e-7)  # random weights without normalisation by batch diverge at more
    schedule = ScheduleConfig(epochs=10_000, batch_size=batch, warmup_iters=1000)
    return TrainConfig(
        method="cross_entropy",
        loss=SoftmaxCrossEntropy.Hyperparameters(),
        data=DataConfig(train=paths, val=paths),
        detector=DetectorConfig(name="mask_rcnn_r50_fpn", backend="detectron2", weights=weights),
        stage1=Stage1Config(optim=optim, schedule=schedule),
        optim=optim,
        schedule=schedule,
        recipe=Recipe(parts="all", fidelity="full", start="weights"),
        fidelity="full",
        # Each image comes as often as a category of its own makes it: epochs are longer than the images are many.
        sampler=SamplerConfig(name="repeat", threshold=1.0),
        precision=precision,
    )


def write_weights(path: Path) -> None:
    """A random detectron2 model, as a file of the zoo would hold it."""
    from detectron2.modeling import build_model

    from lttune.detectors.detectron2.recipe import build_cfg

    config = DetectorConfig(name="mask_rcnn_r50_fpn", backend="detectron2", weights=str(path))
    torch.manual_seed(0)
    torch.save({"model": build_model(build_cfg(config, NUM_CLASSES)).state_dict()}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Our training loop against detectron2's trainers.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--short-px", type=int, default=800)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--iters", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    if find_spec("detectron2") is None:
        sys.exit("benchmarks.gpu_training compares with detectron2, which is not installed; see docs/detectron2.md.")
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks.gpu_training needs a GPU, and torch sees none; try a tiny size with --device cpu.")
    warnings.filterwarnings("ignore")  # detectron2 uses parts of torch that are deprecated
    # detectron2 trains in half precision on GPUs alone.
    precisions: tuple[Precision, ...] = ("float32", "fp16") if device.type == "cuda" else ("float32",)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        annotations = write_data(folder, options.batch * 4, options.short_px)
        write_weights(folder / "random.pth")
        paths = SplitPaths(annotations=str(annotations), images=str(folder))
        assets = Assets(
            train_annotations=paths.annotations,
            train_images=paths.images,
            val_annotations=paths.annotations,
            val_images=paths.images,
        )
        for precision in precisions:
            config = config_for(paths, precision, weights=str(folder / "random.pth"), batch=options.batch)
            found[precision] = compare(config, assets, device, iters=options.iters, rounds=options.rounds)
    if options.json:
        print(json.dumps({"device": name, "torch": torch.__version__, **found}))
        return
    print(f"{name}, torch {torch.__version__}: R50-FPN, {options.short_px} px, batch {options.batch}")
    print(f"{'':10}{'images per second':>30}{'peak memory, GB':>26}")
    print(f"{'':10}{'lttune':>11}{'detectron2':>12}{'ratio':>7}{'lttune':>13}{'detectron2':>13}")
    for kind, row in found.items():
        rate, peak = row["images_per_second"], row["peak_gb"]
        print(
            f"{kind:10}{rate['ours']:11.2f}{rate['theirs']:12.2f}{row['ratio']:7.3f}"
            f"{peak['ours']:13.2f}{peak['theirs']:13.2f}"
        )


if __name__ == "__main__":
    main()
