"""Plain training: losses batch by batch, one optimiser step each."""

from collections.abc import Generator
from contextlib import closing
from typing import Protocol

import torch
from torch import Tensor

from lttune.detectors.augment import MEMORY_ROW
from lttune.detectors.base import Detector
from lttune.engine.features import RoiBatch, RoiSource
from lttune.engine.images import ImageSource
from lttune.engine.jittered import JitteredRois
from lttune.engine.seeds import reseed
from lttune.types import IntArray


class Learner(Protocol):
    """Turns batches of image numbers into losses."""

    def batches(
        self, order: IntArray, batch_size: int, epoch: int, start: int
    ) -> Generator[dict[str, Tensor], None, None]:
        """The losses of each whole batch of `order` from batch number `start`, computed when asked for."""


class RoiLearner:
    """Trains the classifier, and the box regressor where it is not frozen, on RoI features; nothing else of the
    detector runs.

    Args:
        detector: its classifier's loss may have an augmenter.
        rois: the rows of a batch.
        jittered: what the augmenter stores of a batch; None where there is no augmenter.
        seed: of the augmenter's draws.
    """

    def __init__(self, detector: Detector, rois: RoiSource, jittered: JitteredRois | None, *, seed: int) -> None:
        self._detector = detector
        self._stage = detector.stages[0]
        self._rois = rois
        self._jittered = jittered
        self._seed = seed
        self._generator = torch.Generator()

    def batches(
        self, order: IntArray, batch_size: int, epoch: int, start: int
    ) -> Generator[dict[str, Tensor], None, None]:
        for i in range(start, len(order) // batch_size):
            images = order[i * batch_size : (i + 1) * batch_size]
            rows = self._rois.batch(images, epoch)
            if self._jittered is not None:
                reseed(self._generator, self._seed, "detector", epoch, i)
                rows = self._with_memory(rows, self._jittered.batch(images))
            logits = self._stage.classifier(rows.features)
            losses: dict[str, Tensor] = self._stage.loss(
                logits, rows.labels, instance_ids=rows.instance_ids, image_ids=rows.image_ids
            )
            if rows.box_targets is not None and self._detector.trains("box_regressor"):
                losses["loss_box"] = self._detector.box_loss(rows.features, rows.labels, rows.box_targets)
            yield losses

    def _with_memory(self, rows: RoiBatch, jittered: tuple[Tensor, Tensor, Tensor]) -> RoiBatch:
        """Let the augmenter store the batch's jittered rows, then add the rows it draws."""
        augmenter = self._stage.loss.augmenter
        assert augmenter is not None
        augmenter.update(*jittered)
        features, labels, box_targets = augmenter.sample(self._generator)
        no_image = torch.full_like(labels, -1)
        return RoiBatch(
            features=torch.cat([rows.features, features]),
            labels=torch.cat([rows.labels, labels]),
            instance_ids=torch.cat([rows.instance_ids, torch.full_like(labels, MEMORY_ROW)]),
            image_ids=torch.cat([rows.image_ids, no_image]),
            box_targets=None if rows.box_targets is None else torch.cat([rows.box_targets, box_targets]),
        )


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
