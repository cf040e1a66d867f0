"""The two baselines every long-tail loss is measured against: softmax and sigmoid cross-entropy.

Shape letters: N RoIs, C foreground categories. Logits are (N, C + 1), background last; labels (N,) int64 in [0, C].
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lttune.losses.base import ClassificationLoss, LossHyperparameters, at_least_float32, mean_over_rows, require


def softmax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over RoIs of -log softmax(z)[y], over all C + 1 columns."""
    return mean_over_rows(F.cross_entropy(logits, labels, reduction="none"), len(labels))


def sigmoid_cross_entropy(logits: Tensor, labels: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy summed over all C + 1 columns, background included, and averaged over RoIs.

    Args:
        logits: (N, C + 1).
        labels: (N,).
        weight: factor of each cell, or a mask, broadcast to (N, C + 1); gets no gradient.
    """
    total: Tensor = _SigmoidCrossEntropy.apply(logits, labels, weight)
    return mean_over_rows(total, len(labels))


class _SigmoidCrossEntropy(torch.autograd.Function):
    """Sum of weight (softplus(z) - t z) over all cells; a third of the time of torch's own on a CPU, whose log1p is
    slow, and without a tensor of targets."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(logits, labels, weight)
        # softplus(z) = max(z, 0) - log(sigmoid(|z|)), exact to the rounding of numbers near 1.
        cost = logits.clamp(min=0).sub_(logits.abs().sigmoid_().log_())
        cost.scatter_add_(1, labels[:, None], -logits.gather(1, labels[:, None]))
        return (cost if weight is None else cost.mul_(weight)).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        logits, labels, weight = ctx.saved_tensors
        gradient = logits.sigmoid()
        gradient.scatter_add_(1, labels[:, None], -gradient.new_ones(len(labels), 1))
        return (gradient if weight is None else gradient.mul_(weight)).mul_(upstream), None, None


def softmax_scores(logits: Tensor) -> Tensor:
    """(N, C): softmax over all columns, background dropped."""
    return logits.softmax(dim=1)[:, :-1]


def sigmoid_scores(logits: Tensor) -> Tensor:
    """(N, C): sigmoid of the foreground columns; background is ignored."""
    return logits[:, :-1].sigmoid()


def gated_sigmoid_scores(logits: Tensor) -> Tensor:
    """(N, C): sigmoid of each category times the probability of not being background."""
    return sigmoid_scores(logits) * (-logits[:, -1:]).sigmoid()


@dataclass(frozen=True, kw_only=True)
class SoftmaxCrossEntropyHyperparameters(LossHyperparameters):
    """Values of the softmax baseline.

    Attributes:
        weight: factor of the loss, in [0, 1000]; weighs it against those of boxes and masks, published as 1.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.weight <= 1000, "weight", self.weight, "it is a factor of the loss, use a value in [0, 1000]")


class SoftmaxCrossEntropy(ClassificationLoss):
    """Softmax cross-entropy over C + 1 columns.

    Published as the baseline of LVIS (mmdetection's `CrossEntropyLoss`). Difference: the mean divides by N, where
    mmdetection 2.25 divides by N + 1.2e-7.
    """

    Hyperparameters: ClassVar[type[LossHyperparameters]] = SoftmaxCrossEntropyHyperparameters
    hyperparameters: SoftmaxCrossEntropyHyperparameters
    scope = "global"

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss_cls": self.hyperparameters.weight * softmax_cross_entropy(logits, labels)}

    def scores(self, logits: Tensor) -> Tensor:
        return softmax_scores(at_least_float32(logits))


@dataclass(frozen=True, kw_only=True)
class SigmoidCrossEntropyHyperparameters(LossHyperparameters):
    """Values of the sigmoid baseline.

    Attributes:
        prior: probability that a fresh classifier gives to every column, in (0, 1); None leaves its bias at 0, as
            published, so that the first loss is about 0.69 (C + 1).
        gated_scores: multiply test scores by 1 - sigmoid(background), as published.
    """

    prior: float | None = None
    gated_scores: bool = True

    def __post_init__(self) -> None:
        require(
            self.prior is None or 0 < self.prior < 1, "prior", self.prior, "it is a probability, use a value in (0, 1)"
        )


class SigmoidCrossEntropy(ClassificationLoss):
    """Binary cross-entropy over C + 1 columns: ROG's and ECM's baseline.

    Published in ROG (EricZsy/ROG 1dad3cf, `sigmoid_cross_entropy_loss.py`).
    """

    Hyperparameters: ClassVar[type[LossHyperparameters]] = SigmoidCrossEntropyHyperparameters
    hyperparameters: SigmoidCrossEntropyHyperparameters
    scope = "global"

    def initial_bias(self) -> Tensor | None:
        prior = self.hyperparameters.prior
        return None if prior is None else torch.full((self.num_logits,), math.log(prior) - math.log1p(-prior))

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss_cls": sigmoid_cross_entropy(logits, labels)}

    def scores(self, logits: Tensor) -> Tensor:
        activation = gated_sigmoid_scores if self.hyperparameters.gated_scores else sigmoid_scores
        return activation(at_least_float32(logits))
