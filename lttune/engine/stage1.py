"""The stage-1 model, a plain softmax baseline trained once, and the features of its trunk."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lttune.detectors.base import Detector
from lttune.engine.assets import Assets, Progress
from lttune.engine.config import Recipe, TrainConfig
from lttune.engine.features import build_test_features, build_train_features
from lttune.engine.images import ImageSource
from lttune.engine.jittered import NUM_INSTANCES, build_jittered
from lttune.engine.run import TrainingRun
from lttune.engine.warm_start import class_balanced_order
from lttune.engine.weights import save_weights
from lttune.errors import CacheError
from lttune.losses.cross_entropy import SoftmaxCrossEntropy

logger = logging.getLogger(__name__)

# A killed stage 1 loses this much training, or fifty times what saving takes where that is longer.
_SAVE_EVERY_S, _SAVE_SHARE = 2.0, 50
_SLICE_S = 0.5


def stage1_config(config: TrainConfig) -> TrainConfig:
    """The run that makes the stage-1 model of a setting: everything trains, by softmax cross-entropy."""
    return replace(
        config,
        method="cross_entropy",
        loss=SoftmaxCrossEntropy.Hyperparameters(),
        own_loss=None,
        optim=config.stage1.optim,
        schedule=config.stage1.schedule,
        sampler=config.stage1.sampler,
        recipe=Recipe(parts="all", fidelity="full"),
        fidelity="full",
        seed=config.stage1.seed,
    )


def train_stage1(config: TrainConfig, assets: Assets, weights: Path, partial: Path, progress: Progress) -> None:
    """Train the stage-1 model, or go on where a killed process left it.

    Args:
        weights: where the model is written.
        partial: where the unfinished run is kept.
    """
    run = TrainingRun(stage1_config(config), assets, device=best_device(), judged_on=None)
    if partial.exists():
        try:
            run.restore(partial)
        except CacheError as error:
            logger.warning("%s Stage 1 begins again.", error)
    total = run.config.schedule.epochs * run.steps_per_epoch
    saved, pause = run.seconds, _SAVE_EVERY_S
    progress("stage 1", run.step, total)
    while not run.is_finished:
        run.advance(max_seconds=_SLICE_S)
        progress("stage 1", min(run.step, total), total)
        if run.seconds - saved > pause:
            began = time.monotonic()
            run.save(partial)
            saved, pause = run.seconds, max(_SAVE_EVERY_S, _SAVE_SHARE * (time.monotonic() - began))
    save_weights(run.detector, weights)


def build_features(config: TrainConfig, assets: Assets, folder: Path, progress: Progress) -> None:
    """Write the features of the training images and of both validation halves into `folder`."""
    detector = frozen_detector(config, assets)
    sizes = {"train": assets.train.num_images, **{half: assets.half(half).num_images for half in ("tune", "report")}}
    total, done = sum(sizes.values()), 0

    def part(before: int) -> Callable[[int, int], None]:
        return lambda images, _: progress("features", before + images, total)

    source = ImageSource(assets.train, Path(assets.train_images), config.input, seed=None, with_masks=False)
    build_train_features(detector, source, folder / "train", part(done))
    done += sizes["train"]
    for half in ("tune", "report"):
        source = ImageSource(assets.half(half), Path(assets.val_images), config.input, seed=None, with_masks=False)
        build_test_features(detector, source, assets.ground_truth(half), folder / half, part(done))
        done += sizes[half]


def build_memory(config: TrainConfig, assets: Assets, folder: Path, progress: Progress) -> None:
    """Write the jittered boxes that feature memories store into `folder`."""
    train = assets.train
    source = ImageSource(train, Path(assets.train_images), config.input, seed=None, with_masks=False)
    order = class_balanced_order(train.annotation_category, train.annotation_image, num_images=NUM_INSTANCES)
    build_jittered(
        frozen_detector(config, assets),
        source,
        np.unique(order),
        folder,
        lambda images, total: progress("memory", images, total),
    )


def frozen_detector(config: TrainConfig, assets: Assets) -> Detector:
    """The stage-1 model as it is, in evaluation mode."""
    run = TrainingRun(stage1_config(config), assets, device=best_device(), judged_on=None)
    run.detector.freeze_except(())
    return run.detector.eval()


def best_device() -> torch.device:
    """The first GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
