"""A setting for a user's own data, written as a YAML file that says why each value is what it is."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
import numpy.typing as npt

from lttune.data.frequency import MAX_COMMON, MAX_RARE, category_frequencies, groups_of
from lttune.engine.config import SplitPaths
from lttune.errors import DataError
from lttune.types import Annotations

# The published recipes train at 16 images per batch, for 12 epochs of LVIS's or COCO's 100,000 images, with images of
# a short side of 480 px enlarged to at most 800.
_LR, _LR_BATCH_SIZE, _LR_EPOCHS = 0.02, 16, 12
_SHORT_PX, _LONG_PX, _ENLARGED = 800, 1333, 800 / 480
_SHORTEST_PX, _STEP_PX = 320, 32
# Mask R-CNN R50 at 800 x 1333 px takes about 3 GB per image.
_BATCH_SIZE = 4
# Small sets are visited more often: at least so many iterations, but no image more than 72 times.
_MIN_ITERS, _MAX_EPOCHS = 7500, 72
# COCO's detections per image, and LVIS's for its 1203 categories.
_FEW_DETS, _MANY_DETS, _LVIS_CATEGORIES = 100, 300, 1203
_MAX_NAMED = 10

_TEXT = Template("""\
# $description: written by `lttune init`; every value may be changed.
#
#   lttune search acsl --on $file
#
description: $description
data:
  train:
    annotations: $train_annotations
    images: $train_images
  val:
    annotations: $val_annotations
    images: $val_images
  num_train_images: $num_train_images
  # Most training images of a rare and of a common category, LVIS's $rare and $common by default:
  # $groups.
  max_rare: $max_rare
  max_common: $max_common
# $why_detector
# Boxes and masks that do not depend on the category let a trial train on cached features, in a fraction of the time.
# detector.weights is a file of ImageNet weights of the backbone, or of a whole detector; without one stage 1 starts
# from random values, for which its schedule is far too short.
detector:
  name: $detector
  class_agnostic_box: true
  class_agnostic_mask: true
  weights: $weights
# Half of the images have a short side of up to $median_px px, which is enlarged as 480 px are to 800 in the published
# recipes. A flip is wrong where a mirrored object is of another category: letters, traffic signs, left and right.
input: {short_px: $short_px, max_long_px: $long_px, flip: 0.5}
# Learning rates are for 16 images and scaled linearly to the batch: $batch_size images train at $scaled_lr. Give
# batch_size what the GPU's memory allows, and leave the rates alone.
lr_batch_size: $lr_batch_size
# $why_epochs
stage1:
  optim: {name: sgd, lr: $lr, weight_decay: 1e-4, momentum: 0.9, clip_norm: 35}
  schedule: {epochs: $epochs, batch_size: $batch_size, drop_epochs: $drops, warmup_iters: $warmup, warmup_ratio: 1e-3}
  seed: 0
# Stage 2 trains the classifier on the frozen stage-1 model.
optim: {name: sgd, lr: $lr, weight_decay: 1e-4, momentum: 0.9, clip_norm: 35}
schedule: {epochs: 12, batch_size: $batch_size, drop_epochs: [8, 11], warmup_iters: $warmup, warmup_ratio: 1e-3}
# Where more trains, images pass the whole detector; those of rare categories are repeated.
full:
  optim: {name: sgd, lr: $lr, weight_decay: 1e-4, momentum: 0.9, clip_norm: 35}
  schedule: {epochs: $epochs, batch_size: $batch_size, drop_epochs: $drops, warmup_iters: $warmup, warmup_ratio: 1e-3}
  sampler: {name: repeat, threshold: 1e-3, rounding: stochastic}
# COCO counts 100 detections per image for 80 categories, LVIS 300 for 1203; with more, rare categories would not have
# to compete for a place.
evaluation: {max_dets: $max_dets, every_epochs: 12}
resources: {cpus: $cpus, gpus: $gpus, slice_s: 60}
""")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The text of a setting, and what its user should know of the data, a line each."""

    text: str
    warnings: tuple[str, ...]


def draft_setting(
    train: Annotations,
    val: Annotations,
    paths: tuple[SplitPaths, SplitPaths],
    *,
    file: Path,
    weights: str | None = None,
    max_rare: int = MAX_RARE,
    max_common: int = MAX_COMMON,
    has_gpu: bool,
) -> Draft:
    """A setting that fits the data.

    Args:
        train: the full training annotations.
        val: the whole validation set; a search halves it.
        paths: of both.
        file: where the setting will lie, as the text names it.
        weights: initial weights of the detector.
        max_rare: most training images of a rare category.
        max_common: most training images of a common one.
        has_gpu: whether a trial gets a GPU.

    Raises:
        DataError: the two list different categories, or one lists no image.
        InputError: the limits are not ascending from 0.
    """
    for annotations in (train, val):
        if not annotations.num_images:
            raise DataError(f"{annotations.source}: lists no image; give annotations with images.")
    groups = groups_of(val, train, max_rare=max_rare, max_common=max_common)
    rare, common, frequent = np.bincount(groups, minlength=3).tolist()
    num_unmasked = sum(int((~_has_mask(a)).sum()) for a in (train, val))
    detector = "faster_rcnn_r50_fpn" if num_unmasked else "mask_rcnn_r50_fpn"
    why_detector = "Some annotations have no mask, so boxes alone." if num_unmasked else "Every annotation has a mask."
    epochs = _num_epochs(train.num_images)
    short_px, long_px, median_px = _sizes(train)
    C = train.num_categories
    text = _TEXT.substitute(
        description=f"{C} categories, {train.num_images} + {val.num_images} images",
        file=file,
        train_annotations=_inline(paths[0].annotations),
        train_images=_inline(paths[0].images),
        val_annotations=_inline(paths[1].annotations),
        val_images=_inline(paths[1].images),
        num_train_images=train.num_images,
        rare=MAX_RARE,
        common=MAX_COMMON,
        max_rare=max_rare,
        max_common=max_common,
        groups=f"{rare} rare, {common} common, {frequent} frequent categories",
        detector=detector,
        why_detector=why_detector,
        weights=_inline(weights),
        short_px=short_px,
        long_px=long_px,
        median_px=median_px,
        lr=_LR,
        lr_batch_size=_LR_BATCH_SIZE,
        batch_size=_BATCH_SIZE,
        scaled_lr=_LR * _BATCH_SIZE / _LR_BATCH_SIZE,
        epochs=epochs,
        why_epochs=_why_epochs(train.num_images, epochs),
        # The rate drops after two thirds and eleven twelfths of the run.
        drops=[round(epochs * 2 / 3), round(epochs * 11 / 12)],
        warmup=min(500, max(1, epochs * train.num_images // _BATCH_SIZE // 10)),
        max_dets=min(_MANY_DETS, max(_FEW_DETS, round(_MANY_DETS * C / _LVIS_CATEGORIES))),
        cpus=2,
        gpus=int(has_gpu),
    )
    return Draft(text=text, warnings=tuple(_warnings(train, val, num_unmasked, weights, has_gpu)))


def _inline(value: str | None) -> str:
    """A value as YAML on one line, which JSON is."""
    return json.dumps(value, ensure_ascii=False)


def _has_mask(annotations: Annotations) -> npt.NDArray[np.bool_]:
    """(A,) whether an annotation has a segmentation; files of boxes often hold empty lists."""
    return np.fromiter((bool(s) for s in annotations.segmentations), np.bool_, len(annotations.annotation_ids))


def _num_epochs(num_images: int) -> int:
    """A multiple of the published 12."""
    wanted = math.ceil(_MIN_ITERS * _BATCH_SIZE / num_images / _LR_EPOCHS) * _LR_EPOCHS
    return min(_MAX_EPOCHS, max(_LR_EPOCHS, wanted))


def _why_epochs(num_images: int, epochs: int) -> str:
    iterations = epochs * num_images // _BATCH_SIZE
    if epochs == _LR_EPOCHS:
        return f"The published 12 epochs are {iterations} iterations here."
    return f"The published 12 epochs would be few iterations on {num_images} images; {epochs} are {iterations}."


def _sizes(train: Annotations) -> tuple[list[int], int, int]:
    """Short sides in training, the longest side, and the median of the files' short sides."""
    median = int(np.median(np.minimum(train.image_heights, train.image_widths)))
    largest = min(_SHORT_PX, max(_SHORTEST_PX, round(median * _ENLARGED / _STEP_PX) * _STEP_PX))
    smallest = round(largest * 0.8 / _STEP_PX) * _STEP_PX
    return list(range(smallest, largest + 1, _STEP_PX)), round(largest * _LONG_PX / _SHORT_PX), median


def _warnings(train: Annotations, val: Annotations, num_unmasked: int, weights: str | None, has_gpu: bool) -> list[str]:
    lines = []
    if num_unmasked:
        total = len(train.annotation_ids) + len(val.annotation_ids)
        lines.append(f"{num_unmasked} of {total} annotations have no mask, so the detector finds boxes alone.")
    trained = category_frequencies(train).image_count.numpy() > 0
    judged = category_frequencies(val).image_count.numpy() > 0
    for chosen, what in (
        (~trained, f"listed, but absent from {train.source}: never trained"),
        (trained & ~judged, f"trained, but absent from {val.source}: never judged"),
    ):
        names = [train.category_names[i] for i in np.flatnonzero(chosen)]
        if names:
            more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
            lines.append(f"{len(names)} categories are {what}: {', '.join(names[:_MAX_NAMED])}{more}.")
    if weights is None:
        lines.append("The detector starts from random values; give weights with --weights FILE.")
    if not has_gpu:
        lines.append("There is no GPU here, so resources.gpus is 0; on a CPU this detector takes seconds per image.")
    return lines
