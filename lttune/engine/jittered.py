"""Jittered ground-truth boxes of a frozen trunk: what a feature memory stores of each batch, computed once.

The live path jitters every instance anew in every batch. Here the first instances of each category are jittered once,
by a draw that depends on nothing but the image, and a batch stores the rows of those that are in its images.

Shape letters: K rows of one batch, D box-head width.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lttune.detectors.augment import copies_with_area
from lttune.detectors.base import Detector
from lttune.engine.columns import ColumnWriter, read_columns
from lttune.engine.config import CACHED_JITTER
from lttune.engine.features import BUILD_BATCH, Progress, stored
from lttune.engine.images import ImageSource
from lttune.engine.seeds import reseed
from lttune.errors import InputError
from lttune.losses.base import RoiAugmenter, uniform
from lttune.losses.feature_memory import JITTERS_PER_BOX, FeatureMemory, jitter_boxes
from lttune.types import IntArray, Target

# Of each category. The published memory holds the rows of five instances; eight times as many let it change.
NUM_INSTANCES = 40
# Largest shift of a side, as published.
AMPLITUDE = CACHED_JITTER
# The jitter belongs to the cache and not to a trial, so it does not follow the trial's seed.
_SEED = 0


class JitteredRois:
    """Rows from a cache made by `build_jittered`."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        columns = read_columns(folder)
        self._features = torch.from_numpy(columns["features"])
        self._labels = torch.from_numpy(np.asarray(columns["labels"], np.int64))
        self._box_targets = torch.from_numpy(columns["box_targets"])
        self._offsets = np.concatenate([[0], np.cumsum(columns["num_rows"])]).astype(np.int64)
        self._device = device

    def batch(self, images: Iterable[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Features (K, D) float32, labels (K,) and box targets (K, 4) of these images, in their order; K may be 0."""
        rows = torch.from_numpy(np.concatenate([np.arange(*self._offsets[i : i + 2]) for i in images]))
        features, labels, box_targets = (
            column.index_select(0, rows).to(self._device)
            for column in (self._features, self._labels, self._box_targets)
        )
        return features.float(), labels, box_targets


def open_jittered(augmenter: RoiAugmenter, folder: str | None, device: torch.device) -> JitteredRois:
    """What an augmenter stores, from the cache.

    Raises:
        InputError: the cache does not hold the boxes that the augmenter asks for.
    """
    if folder is None or not isinstance(augmenter, FeatureMemory):
        raise InputError("the loss adds rows of its own, and their boxes are not cached; use `fidelity: full`.")
    assert augmenter.jitter_amplitude == AMPLITUDE  # as a TrainConfig has seen to
    return JitteredRois(Path(folder), device)


def build_jittered(detector: Detector, source: ImageSource, images: IntArray, folder: Path, progress: Progress) -> None:
    """Write the jittered boxes of the first `NUM_INSTANCES` instances of each category.

    Args:
        detector: the frozen model.
        source: the training images.
        images: numbers, ascending, of those that are among the first `NUM_INSTANCES` of any category.
        folder: to write into.
        progress: told of each batch.
    """
    detector.eval()
    device = next(detector.parameters()).device
    room = np.full(detector.num_classes, NUM_INSTANCES)
    num_rows, done = np.zeros(len(source), np.int32), 0
    most_rows = detector.num_classes * NUM_INSTANCES * JITTERS_PER_BOX
    generator = torch.Generator()
    with ColumnWriter(folder) as writer:
        for part in source.uniform_batches(images, BUILD_BATCH):
            loaded = [source.load(int(i)) for i in part]
            boxes, targets = [], []
            for image, (pixels, target) in zip(part.tolist(), loaded, strict=True):
                own = _with_room(target, room)
                height, width = pixels.shape[-2:]
                reseed(generator, _SEED, "jitter", image)
                draws = uniform(4, JITTERS_PER_BOX, generator=generator, device=torch.device("cpu"))
                copies, instance = copies_with_area(
                    jitter_boxes(own.boxes, (height, width), draws, amplitude=AMPLITUDE), len(own.boxes)
                )
                boxes.append(copies)
                targets.append(Target(boxes=own.boxes[instance], labels=own.labels[instance]))
                num_rows[image] = len(copies)
            pooled = detector.box_features([pixels.to(device) for pixels, _ in loaded], boxes)
            for features, own_boxes, target in zip(pooled, boxes, targets, strict=True):
                writer.append(
                    features=stored(features, most_rows),
                    labels=target.labels.numpy().astype(np.int32),
                    box_targets=detector.encode_boxes(target.boxes, own_boxes).numpy(),
                )
            done += len(part)
            progress(done, len(images))
        writer.append(num_rows=num_rows)


def _with_room(target: Target, room: IntArray) -> Target:
    """The instances whose category has room left, which they take."""
    kept = []
    for row, label in enumerate(target.labels.tolist()):
        if room[label] > 0:
            room[label] -= 1
            kept.append(row)
    return Target(boxes=target.boxes[kept], labels=target.labels[kept])
