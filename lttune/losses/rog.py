"""ROG: a ranking loss, GAP, on top of any other classification loss.

Shape letters: N RoIs, C foreground categories. Logits are as wide as the other loss wants them, categories
first; labels (N,) int64 in [0, C].
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lttune.errors import InputError, did_you_mean
from lttune.losses.acsl import Acsl, AcslHyperparameters
from lttune.losses.base import ClassificationLoss, LossHyperparameters, require
from lttune.losses.cross_entropy import (
    SigmoidCrossEntropy,
    SigmoidCrossEntropyHyperparameters,
    SoftmaxCrossEntropy,
    SoftmaxCrossEntropyHyperparameters,
)
from lttune.losses.distributed import count_over_ranks
from lttune.losses.ecm import Ecm, EcmHyperparameters
from lttune.losses.federated import Federated, FederatedHyperparameters
from lttune.losses.gap import gap_loss
from lttune.losses.loce import Loce, LoceHyperparameters
from lttune.losses.logit_adjustment import LogitAdjustment, LogitAdjustmentHyperparameters
from lttune.losses.seesaw import Seesaw, SeesawHyperparameters
from lttune.types import CategoryFrequencies

__all__ = ["Rog", "RogHyperparameters", "gap_loss"]

_OBJECT_LOSSES: dict[str, type[ClassificationLoss]] = {
    "acsl": Acsl,
    "cross_entropy": SoftmaxCrossEntropy,
    "ecm": Ecm,
    "federated": Federated,
    "loce": Loce,
    "logit_adjustment": LogitAdjustment,
    "seesaw": Seesaw,
    "sigmoid_cross_entropy": SigmoidCrossEntropy,
}


@dataclass(frozen=True, kw_only=True)
class RogHyperparameters(LossHyperparameters):
    """Values of ROG; the defaults are those of the published 1x configuration.

    Attributes:
        gamma: power of the inverse counts in GAP's class weights, in [0, 10]; 0 weights all categories alike.
        lam: factor of GAP's gradient, in [0, 1000].
        step: `smooth` rises over 2 delta, as published; `sharp` counts what scores at least as high, and uses no delta.
        delta: half-width of GAP's step in logits, in [0, 1000]; 0 is the sharp step, too.
        count_momentum: what the counts are multiplied by before a batch is added, in (0, 1]; an extension, published
            as 1.
        object_loss: the loss GAP is put on; of the groups that follow, the one of its name is used.
    """

    gamma: float = 1.0
    lam: float = 0.1
    step: Literal["smooth", "sharp"] = "smooth"
    delta: float = 0.5
    count_momentum: float = 1.0
    object_loss: str = "sigmoid_cross_entropy"
    acsl: AcslHyperparameters = field(default_factory=AcslHyperparameters)
    cross_entropy: SoftmaxCrossEntropyHyperparameters = field(default_factory=SoftmaxCrossEntropyHyperparameters)
    ecm: EcmHyperparameters = field(default_factory=EcmHyperparameters)
    federated: FederatedHyperparameters = field(default_factory=FederatedHyperparameters)
    loce: LoceHyperparameters = field(default_factory=LoceHyperparameters)
    logit_adjustment: LogitAdjustmentHyperparameters = field(default_factory=LogitAdjustmentHyperparameters)
    seesaw: SeesawHyperparameters = field(default_factory=SeesawHyperparameters)
    sigmoid_cross_entropy: SigmoidCrossEntropyHyperparameters = field(
        default_factory=SigmoidCrossEntropyHyperparameters
    )

    def __post_init__(self) -> None:
        require(0 <= self.gamma <= 10, "gamma", self.gamma, "it is the power of inverse counts, use a value in [0, 10]")
        require(0 <= self.lam <= 1000, "lam", self.lam, "it scales GAP's gradient, use a value in [0, 1000]")
        require(self.step in ("smooth", "sharp"), "step", self.step, "use smooth or sharp")
        require(0 <= self.delta <= 1000, "delta", self.delta, "it is a width in logits, use a value in [0, 1000]")
        require(0 < self.count_momentum <= 1, "count_momentum", self.count_momentum, "use a value in (0, 1]")
        if self.object_loss not in _OBJECT_LOSSES:
            raise InputError(
                f"loss.object_loss is {self.object_loss}; ROG ranks on top of a classification loss."
                f"{did_you_mean(str(self.object_loss), list(_OBJECT_LOSSES))}"
            )


class Rog(ClassificationLoss):
    """GAP on top of another classification loss, which keeps its width, activation, statistics and augmenter.

    Zhang et al., "Reconciling Object-Level and Global-Level Objectives for Long-Tail Detection", ICCV 2023, pages 18982
    to 18992; published as EricZsy/ROG 1dad3cf, `gap_loss.py` and `rog_convfc_bbox_head.py`. The paper's text was not
    open to us: the prescribed gradient is the code's.

    Differences from the published code: sorted breakpoints and prefix sums replace the loops over categories and
    positives, with equal results, in float64; the term is there in every batch, zero with a gradient where there is no
    foreground, so that all processes report the same terms; delta can be changed.
    """

    Hyperparameters: ClassVar[type[LossHyperparameters]] = RogHyperparameters
    hyperparameters: RogHyperparameters
    counts: Tensor

    def set_up(self, frequencies: CategoryFrequencies) -> None:
        name = self.hyperparameters.object_loss
        self.object_loss = _OBJECT_LOSSES[name](
            num_classes=self.num_classes,
            frequencies=frequencies,
            hyperparameters=getattr(self.hyperparameters, name),
            generator=self.generator,
            images_per_process=self.images_per_process,
        )
        self.augmenter = self.object_loss.augmenter
        self.register_buffer("counts", torch.zeros(self.num_classes + 1, dtype=torch.float64))

    @property
    def num_logits(self) -> int:
        return self.object_loss.num_logits

    @property
    def num_warm_images(self) -> int:
        return self.object_loss.num_warm_images

    def initial_bias(self) -> Tensor | None:
        return self.object_loss.initial_bias()

    def forward(
        self, logits: Tensor, labels: Tensor, *, instance_ids: Tensor | None = None, image_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        # The other loss has a scope of its own, so it is called apart.
        terms: dict[str, Tensor] = self.object_loss(logits, labels, instance_ids=instance_ids, image_ids=image_ids)
        return {**terms, **super().forward(logits, labels, instance_ids=instance_ids, image_ids=image_ids)}

    def observe(self, logits: Tensor, labels: Tensor, *, instance_ids: Tensor | None = None) -> None:
        self.counts.mul_(self.hyperparameters.count_momentum).add_(count_over_ranks(labels, len(self.counts)))

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        values = self.hyperparameters
        delta = 0.0 if values.step == "sharp" else values.delta
        return {"loss_rank": gap_loss(logits, labels, self.counts, gamma=values.gamma, lam=values.lam, delta=delta)}

    def scores(self, logits: Tensor) -> Tensor:
        return self.object_loss.scores(logits)
