"""Logit adjustment: softmax cross-entropy with logits shifted by the log frequency of their category.

Shape letters: N RoIs, C foreground categories. Logits are (N, C + 1), background last; labels (N,) int64 in [0, C].
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lttune.losses.base import ClassificationLoss, LossHyperparameters, at_least_float32, require
from lttune.losses.cross_entropy import softmax_cross_entropy, softmax_scores
from lttune.types import CategoryFrequencies


def log_prior(class_count: Tensor) -> Tensor:
    """(C + 1,) float64 log frequency of each category about its mean; background gets 0.

    Args:
        class_count: (C,) occurrences of each category; 0 counts as 1.
    """
    log_count = class_count.double().clamp(min=1).log()
    return torch.cat([log_count - log_count.mean(), log_count.new_zeros(1)])


def logit_adjusted_cross_entropy(logits: Tensor, labels: Tensor, log_prior: Tensor, *, tau: float = 1.0) -> Tensor:
    """Softmax cross-entropy of `z + tau * log_prior`; with tau 1 it is the balanced softmax."""
    return softmax_cross_entropy(logits + (tau * log_prior).to(logits.dtype), labels)


def post_hoc_logits(logits: Tensor, log_prior: Tensor, *, tau: float = 1.0) -> Tensor:
    """(N, C + 1) logits of a model trained without adjustment, as they enter the softmax at test time: `z - tau *
    log_prior`."""
    return logits - (tau * log_prior).to(logits.dtype)


@dataclass(frozen=True, kw_only=True)
class LogitAdjustmentHyperparameters(LossHyperparameters):
    """Values of logit adjustment.

    Attributes:
        tau: strength in training, in [0, 100]; 1 is consistent for balanced error.
        post_hoc_tau: strength at test time, in [0, 100]; 0 does nothing. Train with one and test with the other at 0.
        count_source: annotations, or images, of each category.
    """

    tau: float = 1.0
    post_hoc_tau: float = 0.0
    count_source: Literal["instances", "images"] = "instances"

    def __post_init__(self) -> None:
        for field in ("tau", "post_hoc_tau"):
            value = getattr(self, field)
            require(0 <= value <= 100, field, value, "it multiplies log frequencies, use a value in [0, 100]")
        require(
            self.count_source in ("instances", "images"), "count_source", self.count_source, "use instances or images"
        )


class LogitAdjustment(ClassificationLoss):
    """Logit adjustment, in training, at test time, or both.

    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, arXiv 2007.07314: its loss, the
    cross-entropy of `z + tau log(prior)`, and its post-hoc rule, `z - tau log(prior)`. With tau 1 the loss is also that
    of Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020, arXiv 2007.10740.

    Both speak of images with one label. Difference: detection has background, which is no category of the data; it
    keeps its logit, and the categories' log frequencies are taken about their mean, so that the sum of shifts is zero
    and none is preferred to background as a whole.
    """

    Hyperparameters: ClassVar[type[LossHyperparameters]] = LogitAdjustmentHyperparameters
    hyperparameters: LogitAdjustmentHyperparameters
    scope = "global"
    log_prior: Tensor

    def set_up(self, frequencies: CategoryFrequencies) -> None:
        uses_images = self.hyperparameters.count_source == "images"
        count = frequencies.image_count if uses_images else frequencies.instance_count
        self.register_buffer("log_prior", log_prior(count), persistent=False)

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        tau = self.hyperparameters.tau
        return {"loss_cls": logit_adjusted_cross_entropy(logits, labels, self.log_prior, tau=tau)}

    def scores(self, logits: Tensor) -> Tensor:
        tau = self.hyperparameters.post_hoc_tau
        return softmax_scores(post_hoc_logits(at_least_float32(logits), self.log_prior, tau=tau))
