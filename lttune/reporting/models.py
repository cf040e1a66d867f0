"""What only the trained models of a study can tell: AP of each category, and what the best one finds in images.

Both are of the tune half, so that a report is no look at the report half.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lttune.data.draw import draw_annotated
from lttune.engine.assets import Assets, Progress
from lttune.engine.images import ImageSource, to_file_pixels
from lttune.engine.prepare import prepare
from lttune.engine.run import TrainingRun
from lttune.engine.stage1 import best_device
from lttune.errors import LttuneError
from lttune.evaluation.report import headline
from lttune.masks import encode_pasted, rle_areas
from lttune.reporting.records import StudyRecord
from lttune.types import GROUP_LETTERS, Annotations, Detections, IntArray, TrialResult

_NUM_PICTURES = 6
# Small images are enlarged to this width, large ones reduced to the other.
_MIN_WIDTH_PX, _MAX_WIDTH_PX = 320, 640
# AP points between a checkpoint and what its trial recorded that rounding explains.
_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class CategoryPrecision:
    """AP of one category, by `published` (trial 0) and `best`, unless that is trial 0; NaN where it is undefined."""

    name: str
    group: str  # r, c or f
    num_images: int  # of the training set that contain it
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """One image twice: with its annotations, and with as many detections, the surest first."""

    file_name: str
    annotated: Image.Image
    detected: Image.Image


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """What the models of a study gave; `notes` say what is left out and why."""

    categories: tuple[CategoryPrecision, ...] = ()
    pairs: tuple[Pair, ...] = ()
    notes: tuple[str, ...] = ()


def inspect_models(record: StudyRecord, progress: Progress) -> Findings:
    """Evaluate trial 0 and the best trial from their checkpoints, and let the best one look at some images.

    Nothing is trained: where the stage-1 model or a checkpoint is gone, the findings are empty and say so.
    """
    best = record.result.best_trial
    trials = {"published": record.trial(0), **({"best": best} if best and best.number else {})}
    kept = {what: trial for what, trial in trials.items() if trial and record.folder.checkpoint(trial.number).is_file()}
    if best not in kept.values():
        return Findings(notes=("AP of categories and detections are left out: the best trial has no checkpoint.",))
    try:
        assets = prepare(record.config, record.cache, _only_data(progress))
        precisions: dict[str, dict[int, float]] = {}
        notes: list[str] = []
        for done, (what, trial) in enumerate(kept.items()):
            progress("evaluation", done, len(kept))
            run = _restored(record, trial, assets)
            report = run.evaluate(run.judge("tune"))
            precisions[what] = report.per_category["segm" if "segm" in report.per_category else "bbox"]
            notes += _mismatch(trial, headline(report.metrics)["AP"])
        progress("evaluation", len(kept), len(kept))
        pairs = tuple(_pairs(run, Path(assets.val_images)))
    except _NotKeptError as error:
        return Findings(notes=(f"AP of categories and detections are left out: the cache holds {error}.",))
    except (LttuneError, OSError) as error:
        return Findings(notes=(f"AP of categories and detections are left out: {error}",))
    return Findings(categories=_by_category(assets, precisions), pairs=pairs, notes=tuple(notes))


class _NotKeptError(Exception):
    """Something would have to be trained or computed again."""


def _only_data(progress: Progress) -> Progress:
    """Stops, once told of it, any work on more than data: what is half made is thrown away."""

    def tell(what: str, done: int, total: int) -> None:
        if what not in {"data", "annotations"}:
            raise _NotKeptError(f"no {what} of this study")
        progress(what, done, total)

    return tell


def _restored(record: StudyRecord, trial: TrialResult, assets: Assets) -> TrainingRun:
    run = TrainingRun(record.spec.resolve(trial.params), assets, device=best_device(), judged_on=None)
    run.restore(record.folder.checkpoint(trial.number))
    return run


def _mismatch(trial: TrialResult, found: float) -> Iterator[str]:
    recorded = trial.metrics.get("AP", found)
    if abs(found - recorded) > _TOLERANCE:
        yield f"Trial {trial.number} recorded AP {recorded:.2f}; its checkpoint gives {found:.2f} here."


def _by_category(assets: Assets, precisions: dict[str, dict[int, float]]) -> tuple[CategoryPrecision, ...]:
    annotations, frequencies = assets.train, assets.frequencies
    rows = zip(
        annotations.category_ids.tolist(),
        annotations.category_names,
        frequencies.group.tolist(),
        frequencies.image_count.tolist(),
        strict=True,
    )
    return tuple(
        CategoryPrecision(
            name=name,
            group=GROUP_LETTERS[group],
            num_images=count,
            values={what: found[key] for what, found in precisions.items()},
        )
        for key, name, group, count in rows
    )


@torch.no_grad()
def _pairs(run: TrainingRun, images_root: Path) -> Iterator[Pair]:
    annotations, config = run.assets.half("tune"), run.config
    source = ImageSource(annotations, images_root, config.input, seed=None, with_masks=False)
    run.detector.eval()
    for image in sample_images(annotations, _NUM_PICTURES):
        pixels = source.load(image)[0]
        (found,) = run.detector.detect([pixels.to(run.device)], max_dets=config.evaluation.max_dets)
        truth = annotations.subset(np.array([image]))
        with Image.open(images_root / annotations.file_names[image]) as file:
            picture = file.convert("RGB")
        scale = max(1, _MIN_WIDTH_PX // picture.width)
        detected = as_annotations(truth, found, pixels, count=len(truth.annotation_ids))
        yield Pair(
            file_name=annotations.file_names[image],
            annotated=_reduced(draw_annotated(picture, truth, 0, scale=scale)),
            detected=_reduced(draw_annotated(picture, detected, 0, scale=scale)),
        )


def sample_images(annotations: Annotations, num: int) -> list[int]:
    """Images of rare, common and frequent categories in turn, spread over the file, ascending."""
    group = annotations.frequency_group[annotations.annotation_category]
    chosen: list[int] = []
    for number in range(len(GROUP_LETTERS)):
        images = np.setdiff1d(annotations.annotation_image[group == number], chosen)
        share = -(-(num - len(chosen)) // (len(GROUP_LETTERS) - number))
        places = np.linspace(0, len(images) - 1, min(share, len(images))).round().astype(int)
        chosen += images[places].tolist()
    return sorted(chosen)


def as_annotations(truth: Annotations, found: Detections, pixels: torch.Tensor, *, count: int) -> Annotations:
    """The surest detections of the one image of `truth` in the place of its annotations.

    Args:
        pixels: (3, H, W) the image as the detector met it.
        count: how many to keep.
    """
    height, width = int(truth.image_heights[0]), int(truth.image_widths[0])
    boxes = to_file_pixels(found.boxes[:count].cpu(), pixels.shape[-2:], height, width)
    corners = boxes.double().numpy()
    sides = corners[:, 2:] - corners[:, :2]
    masks = None if found.masks is None else encode_pasted(found.masks[:count].cpu(), boxes, height, width)
    num = len(corners)
    ids: IntArray = np.arange(num, dtype=np.int64)
    segmentations: Sequence[object] = [None] * num if masks is None else masks
    return replace(
        truth,
        annotation_ids=ids,
        annotation_image=np.zeros_like(ids),
        annotation_category=found.labels[:count].cpu().numpy().astype(np.int64),
        boxes_xywh=np.concatenate([corners[:, :2], sides], axis=1),
        areas=sides.prod(axis=1) if masks is None else rle_areas(masks).astype(np.float64),
        is_ignored=np.zeros(num, np.bool_),
        segmentations=segmentations,
    )


def _reduced(picture: Image.Image) -> Image.Image:
    picture.thumbnail((_MAX_WIDTH_PX, picture.height))
    return picture
