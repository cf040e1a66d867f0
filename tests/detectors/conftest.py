"""A small batch and a small detector."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lttune.detectors import DetectorConfig
from lttune.losses import build_loss
from lttune.losses.base import ClassificationLoss
from lttune.types import CategoryFrequencies, Target

NUM_CLASSES = 5


@pytest.fixture
def batch() -> tuple[list[Tensor], list[Target]]:
    """Two images of different sizes; the first has two instances, the second one."""
    generator = torch.Generator().manual_seed(0)
    images, targets = [], []
    for (height, width), boxes, labels in (
        ((96, 128), [[10.0, 12.0, 50.0, 44.0], [60.0, 30.0, 100.0, 80.0]], [3, 0]),
        ((80, 64), [[8.0, 16.0, 48.0, 60.0]], [1]),
    ):
        image = torch.randint(90, 110, (3, height, width), generator=generator, dtype=torch.uint8)
        masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2), label in zip(masks, boxes, labels, strict=True):
            mask[int(y1) : int(y2), int(x1) : int(x2)] = 1
            image[:, mask.bool()] += 30 * label + 20
        images.append(image)
        targets.append(Target(boxes=torch.tensor(boxes), labels=torch.tensor(labels), masks=masks))
    return images, targets


@pytest.fixture
def make_loss() -> Callable[..., ClassificationLoss]:
    """Gives a loss by name, softmax unless told, over 5 categories."""
    counts = torch.tensor([500, 200, 50, 20, 5])
    frequencies = CategoryFrequencies(
        image_count=counts, instance_count=2 * counts, group=torch.tensor([2, 2, 1, 1, 0])
    )

    def make(name: str = "cross_entropy", **hyperparameters: object) -> ClassificationLoss:
        return build_loss(name, num_classes=NUM_CLASSES, frequencies=frequencies, **hyperparameters)

    return make


@pytest.fixture
def tiny() -> DetectorConfig:
    return DetectorConfig(
        name="tiny_mask_rcnn_fpn",
        class_agnostic_box=True,
        class_agnostic_mask=True,
        num_train_proposals=24,
        num_test_proposals=24,
        num_rois=12,
        positive_fraction=0.5,
    )
