"""What an exported detectron2 configuration instantiates: a detector behind detectron2's own interface, and its data.

The configuration names these functions as `_target_`, so that detectron2's stock `tools/lazyconfig_train_net.py` trains
and evaluates with lttune installed. Arguments are plain values, or omegaconf's containers of them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.utils import comm
from omegaconf import OmegaConf
from torch import Tensor, nn

from lttune.data.frequency import frequency_groups
from lttune.data.sampling import repeat_factors
from lttune.detectors import BACKENDS, resolve_backend
from lttune.detectors.base import Detector, DetectorConfig
from lttune.detectors.scopes import seeded
from lttune.engine import optim
from lttune.engine.assets import Assets, Half
from lttune.engine.config import OptimConfig
from lttune.engine.images import to_file_pixels
from lttune.engine.seeds import stream_seed
from lttune.evaluation.files import evaluate_files
from lttune.losses import build_loss
from lttune.masks import paste, to_rle
from lttune.types import Annotations, CategoryFrequencies, Detections, Target


class DetectorModel(nn.Module):
    """A detector as detectron2 calls its models: dicts in; losses, or dicts with `instances`, out.

    Images are uint8 RGB, so the mapper's `image_format` has to be `RGB`.

    Args:
        detector: what computes.
        max_dets: detections per image.
        seed: of the draws of training. They go on from it, and not from the iteration, as detectron2's own do.
    """

    def __init__(self, detector: Detector, *, max_dets: int, seed: int) -> None:
        super().__init__()
        self.detector = detector
        self.max_dets = max_dets
        self._generator = torch.Generator().manual_seed(stream_seed(seed, "detector") % 2**63)

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        device = next(self.parameters()).device
        images = [own["image"].to(device) for own in batched_inputs]
        if self.training:
            targets = [_target(own["instances"], device) for own in batched_inputs]
            return self.detector.losses(images, targets, generator=self._generator)
        found = self.detector.detect(images, max_dets=self.max_dets)
        return [
            {"instances": _instances(one, image, own["height"], own["width"])}
            for one, image, own in zip(found, images, batched_inputs, strict=True)
        ]


def build_model(
    *,
    method: str,
    loss: Mapping[str, Any],
    detector: Mapping[str, Any],
    image_count: Sequence[int],
    instance_count: Sequence[int],
    parts: str | Sequence[str],
    has_given_weights: bool,
    max_dets: int,
    images_per_process: int | None = None,
    seed: int = 0,
) -> DetectorModel:
    """The detector of a trial, with fresh weights.

    Args:
        method: name of its loss in `lttune.losses.LOSSES`.
        loss: that loss's values.
        detector: fields of a DetectorConfig but `weights`.
        image_count: (C,) training images of each category.
        instance_count: (C,) training annotations of each category.
        parts: what trains; the rest is frozen.
        has_given_weights: whether weights will be loaded into the backbone that its recipe freezes in part.
        max_dets: detections per image.
        images_per_process: of the published run, see `build_loss`.
        seed: of the fresh weights and of training's draws.
    """
    images = torch.tensor(list(image_count), dtype=torch.int64)
    frequencies = CategoryFrequencies(
        image_count=images,
        instance_count=torch.tensor(list(instance_count), dtype=torch.int64),
        group=torch.from_numpy(frequency_groups(images.numpy())),
    )
    # Not None where the recipe for given weights is to be followed; nothing is read from it here.
    config = DetectorConfig(**_plain(detector), weights="given" if has_given_weights else None)
    generator = torch.Generator().manual_seed(stream_seed(seed, "loss") % 2**63)
    with seeded(stream_seed(seed, "model")):
        built = BACKENDS[resolve_backend(config)]()(
            config,
            num_classes=len(images),
            make_loss=lambda: build_loss(
                method,
                num_classes=len(images),
                frequencies=frequencies,
                generator=generator,
                images_per_process=images_per_process,
                **_plain(loss),
            ),
        )
    built.freeze_except(built.parts if parts == "all" else _plain(parts))
    return DetectorModel(built, max_dets=max_dets, seed=seed)


def build_optimizer(params: Sequence[Mapping[str, Any]], *, clip_norm: float | None, **values: Any) -> Any:
    """The optimiser of a trial, which clips the gradient's norm itself, as the stock script has no place for it.

    Args:
        params: what `detectron2.solver.get_default_optimizer_params` gives.
        clip_norm: limit of the global L2 norm; None for no limit.
        values: the other fields of an OptimConfig.
    """
    parameters = [parameter for group in params for parameter in group["params"]]
    optimizer = optim.build_optimizer(parameters, OptimConfig(**values))

    def clip(stepped: torch.optim.Optimizer, *_: Any) -> None:
        # Under mixed precision a fused optimiser gets gradients that are still scaled.
        scale = getattr(stepped, "grad_scale", None)
        optim.clip_gradients(
            parameters, None if clip_norm is None else clip_norm * float(1 if scale is None else scale)
        )

    optimizer.register_step_pre_hook(clip)
    return optimizer


# ---- data


def load_records(*, data: Mapping[str, str], split: str) -> list[dict[str, Any]]:
    """Images with their annotations as detectron2's mappers take them.

    Args:
        data: the fields of an Assets: annotation files and image folders.
        split: `train`, or a half of the validation images.
    """
    assets = Assets(**_plain(data))
    annotations, folder = _annotations(assets, split), assets.train_images if split == "train" else assets.val_images
    records: list[dict[str, Any]] = [
        {
            "file_name": str(Path(folder, name)),
            "image_id": int(image_id),
            "height": int(height),
            "width": int(width),
            "annotations": [],
        }
        for name, image_id, height, width in zip(
            annotations.file_names,
            annotations.image_ids,
            annotations.image_heights,
            annotations.image_widths,
            strict=True,
        )
    ]
    for i, image in enumerate(annotations.annotation_image.tolist()):
        record = records[image]
        own: dict[str, Any] = {
            "bbox": annotations.boxes_xywh[i].tolist(),
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": int(annotations.annotation_category[i]),
        }
        if annotations.segmentations[i] is not None:
            own["segmentation"] = to_rle(annotations.segmentations[i], record["height"], record["width"])
        record["annotations"].append(own)
    return records


def repeat_sampler(
    *, data: Mapping[str, str], threshold: float, rounding: str, seed: int
) -> RepeatFactorTrainingSampler:
    """Repeat factor sampling; factors rounded up make detectron2's sampler repeat whole times, as mmdetection does."""
    factors = repeat_factors(Assets(**_plain(data)).train, threshold=threshold)
    return RepeatFactorTrainingSampler(
        torch.from_numpy(np.ceil(factors) if rounding == "whole" else factors), seed=seed
    )


class LvisEvaluator(DatasetEvaluator):  # type: ignore[misc]
    """lttune's LVIS metrics of what a model finds: those of `lttune evaluate`."""

    def __init__(self, *, data: Mapping[str, str], split: Half, max_dets: int) -> None:
        self._assets, self._split, self._max_dets = Assets(**_plain(data)), split, max_dets
        self._entries: list[dict[str, Any]] = []

    def reset(self) -> None:
        self._entries = []

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        category_ids = self._assets.train.category_ids.tolist()
        for own, output in zip(inputs, outputs, strict=True):
            found = output["instances"].to("cpu")
            corners = found.pred_boxes.tensor.double()
            boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
            masks = found.pred_masks.numpy() if found.has("pred_masks") else [None] * len(found)
            for box, score, label, mask in zip(
                boxes, found.scores.double().tolist(), found.pred_classes.tolist(), masks, strict=True
            ):
                entry = {"image_id": own["image_id"], "category_id": category_ids[label], "score": score, "bbox": box}
                if mask is not None:
                    entry["segmentation"] = _encoded(mask)
                self._entries.append(entry)

    def evaluate(self) -> dict[str, dict[str, float]]:
        gathered = comm.gather(self._entries)
        if not comm.is_main_process():
            return {}
        entries = [entry for part in gathered for entry in part]
        kinds = ("bbox", "segm") if any("segmentation" in entry for entry in entries) else ("bbox",)
        results: dict[str, dict[str, float]] = {}
        with TemporaryDirectory() as folder:
            path = Path(folder, "detections.json")
            path.write_text(json.dumps(entries))
            for kind in kinds:
                annotations = _annotations(self._assets, self._split)
                report, _ = evaluate_files(annotations, path, iou_type=kind, max_dets=self._max_dets)  # type: ignore[arg-type]
                results[kind] = {name.removeprefix(f"{kind}/"): value for name, value in report.metrics.items()}
        return results


def _annotations(assets: Assets, split: str) -> Annotations:
    return assets.train if split == "train" else assets.half(split)  # type: ignore[arg-type]


def _target(instances: Any, device: torch.device) -> Target:
    masks = None
    if instances.has("gt_masks"):
        own = instances.gt_masks
        if isinstance(own, PolygonMasks):
            own = BitMasks.from_polygon_masks(own, *instances.image_size)
        masks = own.tensor.to(device, torch.uint8)
    return Target(
        boxes=instances.gt_boxes.tensor.to(device, torch.float32), labels=instances.gt_classes.to(device), masks=masks
    )


def _instances(found: Detections, image: Tensor, height: int, width: int) -> Any:
    """Detections in pixels of the file."""
    boxes = to_file_pixels(found.boxes.cpu(), image.shape[-2:], height, width)
    instances = Instances((height, width), pred_boxes=Boxes(boxes), scores=found.scores.cpu())
    instances.pred_classes = found.labels.cpu()
    if found.masks is not None:
        instances.pred_masks = paste(found.masks.cpu(), boxes, height, width)
    return instances


def _encoded(mask: Any) -> dict[str, Any]:
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def _plain(value: Any) -> Any:
    """omegaconf's containers as plain ones."""
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
