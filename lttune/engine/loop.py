"""Plain training: losses batch by batch, one optimiser step each."""

from collections.abc import Generator
from contextlib import closing
from typing import Protocol

import torch
from torch import Tensor

from lttune.detectors.base import Detector
from lttune.engine.features import RoiSource
from lttune.engine.images import ImageSource
from lttune.engine.seeds import reseed
from lttune.types import IntArray


class Learner(Protocol):
    """Turns batches of image numbers into losses."""

    def batches(
        self, order: IntArray, batch_size: int, epoch: int, start: int
    ) -> Generator[dict[str, Tensor], None, None]:
        """The losses of each whole batch of `order` from batch number `start`, computed when asked for."""


class ClassifierLearner:
    """Trains the classification stages on RoI features; nothing else of the detector runs."""

    def __init__(self, detector: Detector, rois: RoiSource) -> None:
        self._stage = detector.stages[0]
        self._rois = rois

    def batches(
        self, order: IntArray, batch_size: int, epoch: int, start: int
    ) -> Generator[dict[str, Tensor], None, None]:
        for i in range(start, len(order) // batch_size):
            rows = self._rois.batch(order[i * batch_size : (i + 1) * batch_size], epoch)
            logits = self._stage.classifier(rows.features)
            losses: dict[str, Tensor] = self._stage.loss(logits, rows.labels, instance_ids=rows.instance_ids)
            yield losses


class DetectorLearner:
    """Trains whatever part of the detector is not frozen, on images."""

    def __init__(self, detector: Detector, source: ImageSource, *, seed: int, device: torch.device) -> None:
        self._detector = detector
        self._source = source
        self._seed = seed
        self._device = device
        self._generator = torch.Generator()

    def batches(
        self, order: IntArray, batch_size: int, epoch: int, start: int
    ) -> Generator[dict[str, Tensor], None, None]:
        with closing(self._source.batches(order, batch_size, epoch, start)) as batches:
            for i, (_, images, targets) in enumerate(batches, start):
                reseed(self._generator, self._seed, "detector", epoch, i)
                images = [image.to(self._device) for image in images]
                yield self._detector.losses(images, targets, generator=self._generator)
