"""Plain training: losses batch by batch, one optimiser step each."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from lttune.detectors.augment import MEMORY_ROW
from lttune.detectors.base import Detector
from lttune.engine.features import RoiBatch, RoiSource
from lttune.engine.images import ImageSource
from lttune.engine.jittered import JitteredRois
from lttune.engine.seeds import reseed, stream_seed
from lttune.types import IntArray

# What the detector computes in while it trains.
Autocast = Callable[[], AbstractContextManager[object]]


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
        autocast: around the classifier and the box regressor.
    """

    def __init__(
        self,
        detector: Detector,
        rois: RoiSource,
        jittered: JitteredRois | None,
        *,
        seed: int,
        autocast: Autocast = nullcontext,
    ) -> None:
        self._detector = detector
        self._stage = detector.stages[0]
        self._rois = rois
        self._jittered = jittered
        self._seed = seed
        self._autocast = autocast
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
            losses: dict[str, Tensor] = {}
            for number, (stage, own) in enumerate(zip(self._detector.stages, (rows, *rows.later), strict=True)):
                with self._autocast():
                    logits = stage.classifier(own.features)
                terms = stage.loss(logits, own.labels, instance_ids=own.instance_ids, image_ids=own.image_ids)
                losses |= self._detector.of_stage(number, terms)
            if rows.box_targets is not None and self._detector.trains("box_regressor"):
                with self._autocast():
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
    """Trains whatever part of the detector is not frozen, on images.

    Args:
        detector: with any parts in training.
        source: of the images.
        seed: of the detector's draws.
        device: where the images go.
        autocast: around the detector.
        draws_by_image: whether what is drawn for one image does not depend on the others of its batch.
    """

    def __init__(
        self,
        detector: Detector,
        source: ImageSource,
        *,
        seed: int,
        device: torch.device,
        autocast: Autocast = nullcontext,
        draws_by_image: bool = False,
    ) -> None:
        self._detector = detector
        self._source = source
        self._draws_by_image = draws_by_image
        self._seed = seed
        self._device = device
        self._autocast = autocast
        self._generator = torch.Generator()

    def batches(
        self, order: IntArray, batch_size: int, epoch: int, start: int
    ) -> Generator[dict[str, Tensor], None, None]:
        with closing(self._source.batches(order, batch_size, epoch, start)) as batches:
            for i, (numbers, images, targets) in enumerate(batches, start):
                reseed(self._generator, self._seed, "detector", epoch, i)
                images = [image.to(self._device) for image in images]
                seeds = None
                if self._draws_by_image:
                    # An image may come twice in an epoch, and draws the same then, as its transforms do.
                    seeds = [stream_seed(self._seed, "image", epoch, int(number)) for number in numbers]
                with self._autocast():
                    losses = self._detector.losses(images, targets, generator=self._generator, image_seeds=seeds)
                yield losses
