"""Federated loss: binary cross-entropy over a few categories per call, all that occur and some drawn by frequency.

Shape letters: N RoIs, C foreground categories. Logits are (N, C + 1), background last; labels (N,) int64 in [0, C].
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lttune.losses.base import (
    ClassificationLoss,
    LossHyperparameters,
    at_least_float32,
    mean_over_rows,
    require,
    uniform,
)
from lttune.losses.cross_entropy import sigmoid_scores
from lttune.types import CategoryFrequencies


def federated_classes(
    labels: Tensor, class_weight: Tensor, *, num_classes: int, generator: torch.Generator | None
) -> Tensor:
    """Which categories train: those among the labels, and others drawn without replacement until there are enough.

    Args:
        labels: (N,).
        class_weight: (C,) each category's weight in the draw; 0 is never drawn.
        num_classes: how many to reach; more where more categories occur.
        generator: source of the draw.

    Returns:
        (C,) bool.
    """
    size = len(class_weight)
    occurs = torch.zeros(size + 1, dtype=torch.bool, device=labels.device).index_fill_(0, labels, True)[:size]
    # Exponential clocks of these rates ring in the order of a weighted draw without replacement.
    draws = uniform(size, generator=generator, device=labels.device)
    clocks = torch.where(occurs, -1, -torch.log1p(-draws) / class_weight)
    first = clocks.topk(min(num_classes, size), largest=False)
    drawn = torch.zeros_like(occurs).scatter_(0, first.indices, first.values.isfinite())
    return drawn | occurs


def federated_loss(logits: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """Binary cross-entropy of all RoIs summed over the columns of `classes` (C,) bool, averaged over RoIs; the
    background column does not train."""
    columns = classes.nonzero()[:, 0]
    target = (labels[:, None] == columns).to(logits.dtype)
    total = F.binary_cross_entropy_with_logits(logits.index_select(1, columns), target, reduction="sum")
    return mean_over_rows(total, len(labels))


@dataclass(frozen=True, kw_only=True)
class FederatedHyperparameters(LossHyperparameters):
    """Values of the federated loss; the defaults are detectron2's.

    Attributes:
        num_sample_cats: categories that train per call, at least 1.
        frequency_power: power of a category's image count in the draw, in [0, 10].
    """

    num_sample_cats: int = 50
    frequency_power: float = 0.5

    def __post_init__(self) -> None:
        require(self.num_sample_cats >= 1, "num_sample_cats", self.num_sample_cats, "use at least 1")
        require(0 <= self.frequency_power <= 10, "frequency_power", self.frequency_power, "use a value in [0, 10]")


class Federated(ClassificationLoss):
    """Federated loss.

    Zhou et al., "Probabilistic two-stage detection", 2021, arXiv 2103.07461; published in detectron2 as
    `USE_FED_LOSS` with `USE_SIGMOID_CE`.

    Difference: background among the labels does not count as one of the categories, which detectron2 counts, so that
    the number of foreground categories does not depend on whether a batch has background.
    """

    Hyperparameters: ClassVar[type[LossHyperparameters]] = FederatedHyperparameters
    hyperparameters: FederatedHyperparameters
    class_weight: Tensor

    def set_up(self, frequencies: CategoryFrequencies) -> None:
        images = frequencies.image_count.double()
        # A category without images has nothing to say, even at power 0, where 0^0 would be 1.
        weight = torch.where(images > 0, images**self.hyperparameters.frequency_power, 0)
        self.register_buffer("class_weight", weight, persistent=False)

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        classes = federated_classes(
            labels, self.class_weight, num_classes=self.hyperparameters.num_sample_cats, generator=self.generator
        )
        return {"loss_cls": federated_loss(logits, labels, classes)}

    def scores(self, logits: Tensor) -> Tensor:
        return sigmoid_scores(at_least_float32(logits))
