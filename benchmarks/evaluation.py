"""Evaluation of LVIS-shaped data: lttune beside lvis-api and faster-coco-eval, in CPU seconds and peak memory.

    python -m benchmarks.evaluation --images 5000 --mask-images 1000

needs the oracle extra (`pip install "lttune[oracle]"`); faster-coco-eval and detectron2 take part where they are
installed. Every measurement has a process of its own, on one thread. The data are synthetic: 1203 categories (337 rare,
461 common, 405 frequent), about 13 annotations and 297 detections per image, of which about half are in categories that
the image is labelled for.
"""

import argparse
import importlib.util
import math
import multiprocessing
import os
import platform
import re
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pycocotools import mask as coco_mask

from benchmarks.lvis_shaped import DETECTIONS_PER_IMAGE, NUM_CATEGORIES, Scene, make_scene, outlines, write_files
from lttune.data.lvis import load_annotations
from lttune.evaluation import (
    DetectionColumns,
    DetectionStream,
    GroundTruth,
    Metrics,
    box_iou_table,
    evaluate,
    evaluate_files,
    table_pairs,
)
from lttune.masks import encode_pasted, rle_areas

MAX_DETS = 300
LVIS_API_NAMES = {name: name for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")} | {
    "AP_r": "APr",
    "AP_c": "APc",
    "AP_f": "APf",
    "AR": "AR@300",
    "ARs": "ARs@300",
    "ARm": "ARm@300",
    "ARl": "ARl@300",
}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Run:
    """CPU seconds of each part, and metrics by lttune's names."""

    seconds: dict[str, float]
    metrics: dict[str, float] = field(default_factory=dict)
    peak_gb: float = math.nan


def apart(run: Callable[..., Run], *arguments: Any) -> Run:
    """What a function gives in a new process, with the most memory that process held."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_with_peak, run, arguments).result()


def _with_peak(run: Callable[..., Run], arguments: tuple[Any, ...]) -> Run:
    torch.set_num_threads(1)
    ran = run(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Run(seconds=ran.seconds, metrics=ran.metrics, peak_gb=peak / 1e9)


def cpu_seconds(run: Callable[[], T]) -> tuple[float, T]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def boxes_in_columns(scene: Scene, times: int) -> Run:
    scene = scene.repeated(times) if times > 1 else scene
    indexing, truth = cpu_seconds(lambda: GroundTruth(scene.annotations))

    def whole() -> Metrics:
        stream = DetectionStream(truth, iou_type="bbox", max_dets=MAX_DETS)
        stream.add(scene.image, category=scene.category, score=scene.score, boxes_xywh=scene.boxes)
        return stream.result()

    def image_by_image() -> Metrics:
        stream = DetectionStream(truth, iou_type="bbox", max_dets=MAX_DETS)
        for start in range(0, len(scene.image), DETECTIONS_PER_IMAGE):
            rows = slice(start, start + DETECTIONS_PER_IMAGE)
            image, category, score = int(scene.image[start]), scene.category[rows], scene.score[rows]
            stream.add(image, category=category, score=score, boxes_xywh=scene.boxes[rows])
        return stream.result()

    evaluating, metrics = cpu_seconds(whole)
    streaming, _ = cpu_seconds(image_by_image)
    return Run(
        seconds={"index, once per search": indexing, "evaluation": evaluating, "image by image": streaming},
        metrics=metrics.summary(),
    )


def cached_trial(scene: Scene, times: int) -> Run:
    """New scores for boxes whose IoUs are known."""
    truth = GroundTruth(scene.annotations)
    starts = np.arange(0, len(scene.image), DETECTIONS_PER_IMAGE)
    corners = np.concatenate([scene.boxes[:, :2], scene.boxes[:, :2] + scene.boxes[:, 2:]], axis=1)
    tables = [
        box_iou_table(
            corners[start : start + DETECTIONS_PER_IMAGE], truth.boxes_xywh[truth.image_annotations(i)]
        ).ravel()
        for i, start in enumerate(starts.tolist())
    ]
    table = np.tile(np.concatenate(tables), times)
    table_start = np.cumsum([0, *[len(part) for part in tables] * times])[:-1]
    del tables, corners
    scene = scene.repeated(times) if times > 1 else scene
    truth = GroundTruth(scene.annotations)
    proposal = np.arange(len(scene.image)) % DETECTIONS_PER_IMAGE
    area = scene.boxes[:, 2] * scene.boxes[:, 3]

    def trial() -> Metrics:
        pairs = table_pairs(truth, scene.image, scene.category, proposal, tables=table, table_start=table_start)
        columns = DetectionColumns(image=scene.image, category=scene.category, score=scene.score, area=area)
        return evaluate(truth, columns, pairs, max_dets=MAX_DETS)

    seconds, metrics = cpu_seconds(trial)
    return Run(seconds={"evaluation": seconds}, metrics=metrics.summary())


def masks_in_columns(scene: Scene, annotations_path: Path) -> Run:
    rles = outlines(scene.boxes)
    truth = GroundTruth(load_annotations(annotations_path))
    indexing, _ = cpu_seconds(lambda: truth.rles)

    def whole() -> Metrics:
        stream = DetectionStream(truth, iou_type="segm", max_dets=MAX_DETS)
        stream.add(scene.image, category=scene.category, score=scene.score, rles=rles)
        return stream.result()

    evaluating, metrics = cpu_seconds(whole)
    return Run(
        seconds={"masks of annotations, once per search": indexing, "evaluation": evaluating},
        metrics=metrics.summary(),
    )


def lttune_files(annotations_path: Path, detections_path: Path, iou_type: Any) -> Run:
    def whole() -> dict[str, float]:
        report, _ = evaluate_files(load_annotations(annotations_path), detections_path, iou_type=iou_type)
        return report.metrics

    seconds, metrics = cpu_seconds(whole)
    return Run(
        seconds={"from files, with AP_fixed": seconds},
        metrics={name.removeprefix(f"{iou_type}/"): value / 100 for name, value in metrics.items()},
    )


def lvis_api(annotations_path: Path, detections_path: Path, iou_type: str) -> Run:
    # lvis 0.5.3 asks NumPy for a name that it dropped in version 1.24.
    vars(np).setdefault("float", float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lvis import LVIS, LVISEval, LVISResults

    def load() -> Any:
        truth = LVIS(str(annotations_path))
        return LVISEval(truth, LVISResults(truth, str(detections_path), max_dets=MAX_DETS), iou_type)

    loading, evaluator = cpu_seconds(load)
    evaluating, _ = cpu_seconds(evaluator.run)
    results = evaluator.get_results()
    return Run(
        seconds={"evaluation": evaluating, "from files": loading + evaluating},
        # Its -1 says that no annotation counts.
        metrics={o: results[t] if results[t] > -1 else math.nan for o, t in LVIS_API_NAMES.items()},
    )


def faster_coco_eval(annotations_path: Path, detections_path: Path, iou_type: str) -> Run:
    from faster_coco_eval import COCO, COCOeval_faster

    def load() -> Any:
        truth = COCO(str(annotations_path))
        evaluator = COCOeval_faster(truth, truth.loadRes(str(detections_path)), iouType=iou_type, lvis_style=True)
        evaluator.params.maxDets = [MAX_DETS]
        return evaluator

    def judge(evaluator: Any) -> None:
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()

    loading, evaluator = cpu_seconds(load)
    evaluating, _ = cpu_seconds(lambda: judge(evaluator))
    return Run(
        seconds={"evaluation": evaluating, "from files": loading + evaluating},
        metrics={"AP": evaluator.stats_as_dict["AP_all"]},
    )


def encoding(num_masks: int) -> Run:
    """RLEs of 28 x 28 masks pasted into 480 x 640, a hundred at a time as they come from an image."""
    generator = torch.Generator().manual_seed(0)
    height, width = 480, 640
    soft = torch.rand((num_masks, 1, 7, 7), generator=generator)
    masks = torch.nn.functional.interpolate(soft, (28, 28), mode="bilinear")[:, 0]
    size = torch.exp(4 + 0.9 * torch.randn((num_masks, 2), generator=generator)).clamp(4, 320)
    corner = torch.rand((num_masks, 2), generator=generator) * (torch.tensor([width, height]) - size)
    boxes = torch.cat([corner, corner + size], dim=1)
    parts = [slice(start, start + 100) for start in range(0, num_masks, 100)]

    def ours() -> list[Any]:
        return [rle for part in parts for rle in encode_pasted(masks[part], boxes[part], height, width)]

    seconds = {}
    seconds["lttune"], found = cpu_seconds(ours)
    if importlib.util.find_spec("detectron2"):
        from detectron2.layers.mask_ops import paste_masks_in_image

        def theirs() -> list[Any]:
            pasted = (
                mask for part in parts for mask in paste_masks_in_image(masks[part], boxes[part], (height, width))
            )
            return [coco_mask.encode(np.array(mask[:, :, None], order="F", dtype="uint8"))[0] for mask in pasted]

        seconds["detectron2, paste and encode per mask"], others = cpu_seconds(theirs)
        pixels = np.abs(rle_areas(found) - rle_areas(others))
        print(f"encoded masks differ in size by at most {pixels.max()} pixels")
    return Run(seconds=seconds)


def print_run(name: str, run: Run) -> None:
    for part, seconds in run.seconds.items():
        print(f"{name + ', ' + part:<60}{seconds:9.3f} s   peak {run.peak_gb:5.2f} GB")


def print_ratio(what: str, ours: float, theirs: float) -> None:
    print(f"    {what}: {theirs / ours:.0f} times as long")


def print_difference(ours: Run, theirs: Run) -> None:
    shared = [name for name in theirs.metrics if not math.isnan(theirs.metrics[name])]
    difference = max(abs(ours.metrics[name] - theirs.metrics[name]) for name in shared)
    print(f"    {len(shared)} metrics differ by at most {difference:.1e}; AP {ours.metrics['AP']:.12f}")
    if not difference <= 1e-9:
        raise SystemExit("the metrics are not equal")


def compare(name: str, ours: Run, paths: tuple[Path, Path], iou_type: str, *, with_rivals: bool) -> None:
    """Prints lttune's run from columns, its run from files, and the rivals'."""
    print_run(f"lttune, {name}", ours)
    print_run(f"lttune, {name}", apart(lttune_files, *paths, iou_type))
    if not with_rivals:
        return
    official = apart(lvis_api, *paths, iou_type)
    print_run(f"lvis-api, {name}", official)
    print_ratio("its evaluation takes", ours.seconds["evaluation"], official.seconds["evaluation"])
    print_difference(ours, official)
    if importlib.util.find_spec("faster_coco_eval"):
        faster = apart(faster_coco_eval, *paths, iou_type)
        print_run(f"faster-coco-eval, {name}", faster)
        print_ratio("its evaluation takes", ours.seconds["evaluation"], faster.seconds["evaluation"])
        print_ratio("in all it takes", ours.seconds["evaluation"], faster.seconds["from files"])
        print(f"    its AP differs by {abs(faster.metrics['AP'] - official.metrics['AP']):.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluation: lttune beside others, in CPU seconds and peak memory.")
    parser.add_argument("--images", type=int, default=1000, help="images with boxes")
    parser.add_argument("--times", type=int, default=4, help="how often they are repeated for the large run; 0, none")
    parser.add_argument("--mask-images", type=int, default=200, help="images with masks; 0 leaves masks out")
    parser.add_argument("--encode", type=int, default=3000, help="masks to encode; 0 leaves encoding out")
    parser.add_argument("--without-rivals", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # Children inherit it before they load anything.
    os.environ["OMP_NUM_THREADS"] = "1"
    with_rivals = not arguments.without_rivals
    scene = make_scene(np.random.default_rng(arguments.seed), arguments.images)
    print(f"machine: {machine()}")
    print(
        f"data: {arguments.images} images, {len(scene.annotations.annotation_ids)} annotations, {len(scene.image)} "
        f"detections, {NUM_CATEGORIES} categories, seed {arguments.seed}"
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "annotations.json", Path(folder) / "detections.json"
        write_files(scene, *paths)
        ours = apart(boxes_in_columns, scene, 1)
        compare(f"{arguments.images} images, boxes", ours, paths, "bbox", with_rivals=with_rivals)
        if arguments.times:
            name = f"lttune, {arguments.times * arguments.images} images, "
            print_run(f"{name}boxes", apart(boxes_in_columns, scene, arguments.times))
            print_run(f"{name}cached trial", apart(cached_trial, scene, arguments.times))
        if arguments.mask_images:
            scene = make_scene(np.random.default_rng(arguments.seed), arguments.mask_images)
            write_files(scene, *paths, rles=outlines(scene.boxes))
            ours = apart(masks_in_columns, scene, paths[0])
            compare(f"{arguments.mask_images} images, masks", ours, paths, "segm", with_rivals=with_rivals)
    if arguments.encode:
        print_run(f"{arguments.encode} masks encoded", apart(encoding, arguments.encode))


def machine() -> str:
    cpu_info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpu_info.read_text()) if cpu_info.exists() else []
    cpu = names[0] if names else platform.machine()
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}"


if __name__ == "__main__":
    main()
