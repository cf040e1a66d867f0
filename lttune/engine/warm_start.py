"""The class-balanced pass that fills a loss's running scores and feature memory before training begins."""

import logging
from contextlib import closing

import numpy as np
import torch

from lttune.detectors.base import Detector
from lttune.engine.loop import Learner
from lttune.types import Annotations, IntArray

logger = logging.getLogger(__name__)


def class_balanced_order(categories: IntArray, images: IntArray, *, num_images: int) -> IntArray:
    """The first `num_images` images of each category, one category after the other.

    A category of fewer images repeats them in turn; one without images is left out.

    Args:
        categories: (A,) of the annotations.
        images: (A,) where they lie.
    """
    pairs = np.unique(np.stack([categories, images], axis=1), axis=0)
    _, first, counts = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    rows = first[:, None] + np.arange(num_images) % counts[:, None]
    order: IntArray = pairs[rows.ravel(), 1]
    return order


@torch.no_grad()
def warm_start(detector: Detector, learner: Learner, annotations: Annotations, *, epoch: int) -> None:
    """Show each stage's loss the images it asks for, one category per batch; no parameter moves.

    The detector is left frozen.

    Args:
        epoch: of the random streams; one that training does not reach, so that the pass draws for itself.
    """
    num_images = max(stage.loss.num_warm_images for stage in detector.stages)
    if num_images == 0:
        return
    # Frozen parts stay in evaluation mode; the losses, which are no part, still move their statistics.
    detector.freeze_except(())
    detector.train()
    order = class_balanced_order(annotations.annotation_category, annotations.annotation_image, num_images=num_images)
    with closing(learner.batches(order, num_images, epoch, 0)) as batches:
        for _ in batches:
            pass
    held = sum(stage.loss.state_bytes for stage in detector.stages)
    logger.info("Mean scores and feature memory hold %.1f MB.", held / 1e6)
