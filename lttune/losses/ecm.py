"""Effective class-margin loss (ECM): a sigmoid loss whose margins and weights follow from each category's frequency.

Shape letters: N RoIs, C foreground categories. Logits are (N, C + 1), background last; labels (N,) int64 in [0, C].
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from lttune.errors import InputError
from lttune.losses.base import ClassificationLoss, LossHyperparameters, at_least_float32, require
from lttune.losses.cross_entropy import gated_sigmoid_scores, sigmoid_cross_entropy
from lttune.types import CategoryFrequencies

# Background RoIs per foreground RoI, measured by the authors on Mask R-CNN.
FG_BG_RATIO = 6.3313

CountSource = Literal["instances", "images", "rfs"]


@dataclass(frozen=True, kw_only=True, eq=False)
class EcmStatistics:
    """What ECM knows of each column, background last."""

    positive_margin: Tensor  # (C + 1,) float64, -log of the margin of positives
    negative_margin: Tensor  # (C + 1,) float64, -log of the margin of negatives
    class_weight: Tensor  # (C + 1,) float64 in (0, 1)


def ecm_statistics(
    class_count: Tensor, *, fg_bg_ratio: float = FG_BG_RATIO, margin_exponent: float = 0.25
) -> EcmStatistics:
    """Margins and weights from counts, in float64.

    Args:
        class_count: (C,) occurrences of each category; 0 counts as 1, which keeps the margins finite.
        fg_bg_ratio: background RoIs per foreground RoI, despite its name, which is the published one.
        margin_exponent: power of the counts in the margins.
    """
    foreground = class_count.double().clamp(min=1)
    count = torch.cat([foreground, fg_bg_ratio * foreground.sum()[None]])
    return _statistics(count, margin_exponent)


def _statistics(count: Tensor, margin_exponent: float) -> EcmStatistics:
    # A single category without background would have no others.
    others_per_own = (count.sum() - count).clamp(min=1) / count
    return EcmStatistics(
        positive_margin=(others_per_own**-margin_exponent).log1p(),
        negative_margin=(others_per_own**margin_exponent).log1p(),
        class_weight=others_per_own * (1 / others_per_own).log1p(),
    )


def ecm_loss(logits: Tensor, labels: Tensor, class_count: Tensor, *, fg_bg_ratio: float = FG_BG_RATIO) -> Tensor:
    """The published loss: weighted binary cross-entropy of `2 z + positive_margin - negative_margin`, over all C + 1
    columns, averaged over RoIs.

    Args:
        logits: (N, C + 1).
        labels: (N,).
        class_count: (C,) training annotations of each category.
        fg_bg_ratio: see `ecm_statistics`.
    """
    statistics = ecm_statistics(class_count, fg_bg_ratio=fg_bg_ratio)
    shift = (statistics.positive_margin - statistics.negative_margin).to(logits.dtype)
    return sigmoid_cross_entropy(2 * logits + shift, labels, weight=statistics.class_weight.to(logits.dtype))


@dataclass(frozen=True, kw_only=True)
class EcmHyperparameters(LossHyperparameters):
    """Values of ECM; the defaults are the published ones, and all but `fg_bg_ratio` are extensions.

    Attributes:
        fg_bg_ratio: background RoIs per foreground RoI, above 0.
        margin_exponent: power of the counts in the margins, in [0, 10]; 0 has no margins.
        logit_factor: factor of the logits in training, above 0.
        class_weight_power: power of the class weights, in [0, 10]; 0 weights all columns alike.
        count_source: `instances` counts a category's annotations, `images` its images, and `rfs` its annotations, each
            as often as repeat factor sampling (threshold 0.001) shows its image. The published count file is named
            after images but holds annotations.
        background_as_class: give background its own margin and weight, as published; otherwise it trains by plain
            binary cross-entropy and the other categories' counts leave it out.
    """

    fg_bg_ratio: float = FG_BG_RATIO
    margin_exponent: float = 0.25
    logit_factor: float = 2.0
    class_weight_power: float = 1.0
    count_source: CountSource = "instances"
    background_as_class: bool = True

    def __post_init__(self) -> None:
        require(0 < self.fg_bg_ratio < 1e6, "fg_bg_ratio", self.fg_bg_ratio, "use a value above 0 and below 1e6")
        require(0 <= self.margin_exponent <= 10, "margin_exponent", self.margin_exponent, "use a value in [0, 10]")
        require(0 < self.logit_factor <= 100, "logit_factor", self.logit_factor, "use a value in (0, 100]")
        require(
            0 <= self.class_weight_power <= 10, "class_weight_power", self.class_weight_power, "use a value in [0, 10]"
        )
        require(
            self.count_source in get_args(CountSource),
            "count_source",
            self.count_source,
            "use instances, images or rfs",
        )


def _count(frequencies: CategoryFrequencies, source: CountSource) -> Tensor:
    if source == "images":
        return frequencies.image_count
    if source == "instances":
        return frequencies.instance_count
    if frequencies.repeated_instance_count is None:
        raise InputError(
            "loss.count_source is rfs, but the category frequencies hold no repeated_instance_count; take them from "
            "lttune.data.frequency.category_frequencies, or use instances."
        )
    return frequencies.repeated_instance_count


class Ecm(ClassificationLoss):
    """Effective class-margin loss.

    Cho and Krähenbühl, "Long-tail Detection with Effective Class-Margins", ECCV 2022, arXiv 2301.09724; published as
    janghyuncho/ECM-Loss a637240. With counts n, counts of all others o and weights `v = o/n log(1 + n/o)`,
    `L = 1/N sum_i sum_c v_c bce(2 z_ic + 1/4 log(n_c / o_c), t_ic)`.

    Differences from the published code: the ratio of exponentials is a sigmoid of `2 z + positive - negative margin`,
    which stays finite beyond logits of 44; class weights come from float64 and `log1p`, where float32 cancellation
    gave rare categories weights up to 11 % too large; a category without occurrence counts as one, where it was NaN.
    At test time neither the factor nor the margins apply, as published.
    """

    Hyperparameters: ClassVar[type[LossHyperparameters]] = EcmHyperparameters
    hyperparameters: EcmHyperparameters
    scope = "global"
    shift: Tensor
    factor: Tensor
    weight: Tensor

    def set_up(self, frequencies: CategoryFrequencies) -> None:
        values = self.hyperparameters
        count, exponent = _count(frequencies, values.count_source), values.margin_exponent
        if values.background_as_class:
            statistics = ecm_statistics(count, fg_bg_ratio=values.fg_bg_ratio, margin_exponent=exponent)
        else:
            statistics = _statistics(count.double().clamp(min=1), exponent)
        shift = statistics.positive_margin - statistics.negative_margin
        factor = torch.full_like(shift, values.logit_factor)
        weight = statistics.class_weight**values.class_weight_power
        if not values.background_as_class:
            plain = shift.new_ones(1)
            shift, factor, weight = (
                torch.cat([shift, 0 * plain]),
                torch.cat([factor, plain]),
                torch.cat([weight, plain]),
            )
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("factor", factor, persistent=False)
        self.register_buffer("weight", weight, persistent=False)

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        shift, factor, weight = (values.to(logits.dtype) for values in (self.shift, self.factor, self.weight))
        return {"loss_cls": sigmoid_cross_entropy(factor * logits + shift, labels, weight=weight)}

    def scores(self, logits: Tensor) -> Tensor:
        return gated_sigmoid_scores(at_least_float32(logits))
