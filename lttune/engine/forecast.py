"""What a search will cost before it starts: GPU hours of stage 1, and bytes of caches and checkpoints.

Projections lean to the high side: their purpose is to stop what nobody meant to start.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lttune.data.glyphs import GlyphConfig
from lttune.detectors.base import DetectorConfig
from lttune.engine.cache import size_text
from lttune.engine.config import TrainConfig
from lttune.engine.features import FLOAT32_BYTES
from lttune.errors import InputError

# Above this, stage 1 has to be asked for.
FREE_GPU_HOURS = 1.0
# GPU seconds per megapixel of training images, forwards and backwards, by backbone: detectron2's published times per
# iteration of 16 images on 8 V100 (Faster R-CNN R50-FPN 0.210 s, R101-FPN 0.286 s, X101-FPN 0.638 s) on images of
# some 800 x 1067 pixels. A newer GPU takes less. The tiny detector's are seconds of one core.
_SECONDS_PER_MEGAPIXEL = {"tiny": 1.0, "r50": 0.125, "r101": 0.17, "x101": 0.38}
# A mask head (0.261 s against 0.210 s), and three box heads.
_MASK_FACTOR, _CASCADE_FACTOR = 1.25, 1.5
_LONG_TO_SHORT = 4 / 3
# Parameters without the classifier: published models, and the tiny one.
_PARAMETERS = {"tiny": 1.2e6, "r50": 41e6, "r101": 60e6, "x101": 100e6}
_MASK_PARAMETERS, _CASCADE_PARAMETERS = 2.6e6, 28e6
_WIDTH = {"tiny": 256}
_PUBLISHED_WIDTH = 1024
# LVIS v1 has 12.7 annotations per image, v0.5 has 12.1; glyph images have fewer.
_ANNOTATIONS_PER_IMAGE = 13
# PNG files of the glyphs: line drawings on noise.
_GLYPH_BYTES_PER_PIXEL = 1.5
_FLOAT = 4
# What is remembered of a mask.
_MASK_BYTES = 28
_CASCADE_STAGES = 3


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """Numbers of images and categories of a setting."""

    num_train: int
    num_val: int
    num_categories: int

    @staticmethod
    def of_glyphs(glyphs: GlyphConfig) -> "DataSize":
        return DataSize(
            num_train=glyphs.num_train_images,
            num_val=glyphs.num_val_images,
            num_categories=glyphs.num_categories,
        )


def stage1_gpu_hours(config: TrainConfig, data: DataSize) -> float:
    """GPU hours that the stage-1 schedule will take."""
    schedule = config.stage1.schedule
    num_images = schedule.epochs * (schedule.epoch_images or data.num_train)
    seconds = _of_backbone(_SECONDS_PER_MEGAPIXEL, config.detector) * _megapixels(config)
    seconds *= _MASK_FACTOR if config.detector.has_masks else 1
    seconds *= _CASCADE_FACTOR if config.detector.is_cascade else 1
    return num_images * seconds / 3600


def refuse_long_stage1(config: TrainConfig, data: DataSize) -> None:
    """Raise InputError where stage 1 would be long and nobody asked for it."""
    hours = stage1_gpu_hours(config, data)
    if hours > FREE_GPU_HOURS and not config.stage1.build:
        raise InputError(
            f"stage 1 of this setting is projected to take {hours:,.0f} GPU hours, {FREE_GPU_HOURS:g} is free; name a "
            "model with --set stage1.checkpoint=PATH, or say --build-stage1."
        )


def stage1_bytes(config: TrainConfig, data: DataSize) -> int:
    """Of the stage-1 model, and of the unfinished one beside it with its optimiser."""
    parameters = _parameters(config.detector, data)
    return int(parameters * _FLOAT * (1 + 1 + _optimiser_states(config.stage1.optim.name)))


def glyph_bytes(glyphs: GlyphConfig) -> int:
    """Of generated images and their annotations."""
    images = glyphs.num_train_images + glyphs.num_val_images
    return int(images * glyphs.size_px**2 * _GLYPH_BYTES_PER_PIXEL)


def feature_bytes(config: TrainConfig, data: DataSize) -> int:
    """Of the features of the training images and of both validation halves."""
    detector = config.detector
    stages = _CASCADE_STAGES if detector.is_cascade else 1
    width = _of_width(detector)
    train_rows = data.num_train * (detector.num_train_proposals + _ANNOTATIONS_PER_IMAGE)
    test_rows = data.num_val * detector.num_test_proposals
    # Labels and instances; boxes.
    train_row = stages * (width * _item_bytes(train_rows * width) + 8) + 16
    if detector.has_class_agnostic_heads:
        # Areas and the tables of IoUs, in float64.
        tables = (2 if detector.has_masks else 1) * (8 + 8 * _ANNOTATIONS_PER_IMAGE)
        test_row = stages * width * _item_bytes(test_rows * width // 2) + 16 + tables
        masks = 0
    else:
        # Features from which boxes are regressed are not rounded; area and IoUs of masks are remembered.
        item_bytes = _item_bytes(test_rows * width // 2) if detector.class_agnostic_box else _FLOAT
        test_row = stages * width * item_bytes + 16
        masks = data.num_val * config.evaluation.max_dets * _MASK_BYTES if detector.has_masks else 0
    return train_rows * train_row + test_rows * test_row + masks


def memory_bytes(config: TrainConfig, data: DataSize) -> int:
    """Of the jittered boxes that feature memories store."""
    from lttune.engine.jittered import NUM_INSTANCES
    from lttune.losses.feature_memory import JITTERS_PER_BOX

    instances = min(NUM_INSTANCES * data.num_categories, data.num_train * _ANNOTATIONS_PER_IMAGE)
    width = _of_width(config.detector)
    most = NUM_INSTANCES * data.num_categories * JITTERS_PER_BOX * width
    return instances * JITTERS_PER_BOX * (width * _item_bytes(most) + 20)


def checkpoint_bytes(config: TrainConfig, data: DataSize) -> int:
    """Of one trial's checkpoint: what trains, with its optimiser; of a trial, the newest alone is kept."""
    recipe, width = config.recipe, _of_width(config.detector)
    parts = recipe.cached_parts if config.fidelity == "cached" else recipe.parts
    if parts == "all" or not set(parts) <= {"classifier", "box_regressor"}:
        trained = _parameters(config.detector, data)
    else:
        boxes = 1 if config.detector.class_agnostic_box else data.num_categories
        trained = width * (data.num_categories + 2) + ("box_regressor" in parts) * width * 4 * boxes
        trained *= _CASCADE_STAGES if config.detector.is_cascade else 1
    return int(trained * _FLOAT * (1 + _optimiser_states(config.optim.name)))


def refuse_full_disk(needed: Sequence[tuple[Path, int]]) -> None:
    """Raise InputError where what a search writes does not fit.

    Args:
        needed: folders, which need not exist yet, and the bytes that each will take; those on one disk add up.
    """
    disks: dict[int, tuple[Path, int]] = {}
    for folder, num_bytes in needed:
        place = next(path for path in (folder, *folder.parents) if path.exists())
        known, total = disks.get(place.stat().st_dev, (place, 0))
        disks[place.stat().st_dev] = (known, total + num_bytes)
    for place, num_bytes in disks.values():
        free = shutil.disk_usage(place).free
        if num_bytes > free:
            raise InputError(
                f"the search is projected to write {size_text(num_bytes)}, and the disk of {place} has "
                f"{size_text(free)} free; make room (lttune cache prune), choose another --out, or train on images "
                "(--set fidelity=full), which writes no features."
            )


def _megapixels(config: TrainConfig) -> float:
    glyphs, short = config.data.glyphs, config.input.short_px
    if short:
        return max(short) * min(max(short) * _LONG_TO_SHORT, config.input.max_long_px) / 1e6
    return (glyphs.size_px**2 if glyphs else 640 * 480) / 1e6


def _of_backbone(table: dict[str, float], detector: DetectorConfig) -> float:
    """The value of a detector's backbone; of one that is not known, the largest."""
    return next((value for name, value in table.items() if name in detector.name), max(table.values()))


def _of_width(detector: DetectorConfig) -> int:
    return next((value for name, value in _WIDTH.items() if name in detector.name), _PUBLISHED_WIDTH)


def _parameters(detector: DetectorConfig, data: DataSize) -> float:
    parameters = _of_backbone(_PARAMETERS, detector) + _of_width(detector) * (data.num_categories + 2)
    parameters += _MASK_PARAMETERS if detector.has_masks and "tiny" not in detector.name else 0
    return parameters + (_CASCADE_PARAMETERS if detector.is_cascade else 0)


def _optimiser_states(name: str) -> int:
    return 2 if name == "adamw" else 1


def _item_bytes(num_values: float) -> int:
    """As `lttune.engine.features.stored` keeps them."""
    return 4 if num_values * 4 <= FLOAT32_BYTES else 2
