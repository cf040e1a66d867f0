"""Adaptive class suppression loss (ACSL): a sigmoid loss whose cells are switched on and off by the current scores.

Shape letters: N RoIs, C foreground categories, G = 3 frequency groups (rare, common, frequent). Logits are (N, C + 1),
background last; labels (N,) int64 in [0, C].
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lttune.losses.base import ClassificationLoss, LossHyperparameters, at_least_float32, require, uniform
from lttune.losses.cross_entropy import sigmoid_cross_entropy, sigmoid_scores
from lttune.types import CategoryFrequencies

Rounding = Literal["truncate", "stochastic"]


def weight_mask(
    logits: Tensor,
    labels: Tensor,
    *,
    score_threshold: float,
    frequency_group: Tensor,
    background_ratios: tuple[float, float, float],
    generator: torch.Generator | None,
    rounding: Rounding = "truncate",
) -> Tensor:
    """Which cells train.

    A foreground RoI trains its own column and every column, background included, whose score reaches the threshold. A
    background RoI trains the background column and the columns of each group for which it was drawn: of all background
    RoIs, a share per group is drawn uniformly, without replacement and independently of the other groups.

    Args:
        logits: (N, C + 1).
        labels: (N,).
        score_threshold: compared (>=) with the sigmoid scores.
        frequency_group: (C,) int64, 0 rare, 1 common, 2 frequent.
        background_ratios: share of background RoIs drawn for rare, common and frequent columns, in [0, 1].
        generator: source of the draws.
        rounding: a share of the background RoIs is seldom whole: `truncate` as published, so that few RoIs may mean
            none; `stochastic` rounds up with the probability of the remainder, so that every ratio acts.

    Returns:
        (N, C + 1) bool.
    """
    is_background = labels == len(frequency_group)
    drawn = _draw_rows(is_background, background_ratios, generator, rounding)
    # The background column needs no group: on background rows it is the RoI's own column, set last.
    group_of_column = F.pad(frequency_group, (0, 1))
    by_group = drawn.index_select(
        0, group_of_column
    ).T.contiguous()  # in the order of logits, which the loss reads fast
    mask = torch.where(is_background[:, None], by_group, logits.detach().sigmoid() >= score_threshold)
    return mask.scatter_(1, labels[:, None], True)


def _draw_rows(
    eligible: Tensor, ratios: tuple[float, float, float], generator: torch.Generator | None, rounding: Rounding
) -> Tensor:
    """(G, N) bool: for each group an independent subset of the eligible rows; no size leaves the device."""
    num_rows, num_groups = len(eligible), len(ratios)
    # One more column of draws than rows: the last one rounds.
    draws = uniform(num_groups, num_rows + 1, generator=generator, device=eligible.device)
    size = torch.tensor(ratios, dtype=torch.float64, device=eligible.device) * eligible.sum()
    if rounding == "stochastic":
        size = size + draws[:, -1]
    # Ineligible rows sort behind every eligible one, and no size exceeds the number of eligible rows.
    order = (draws[:, :-1] + (~eligible).double()).argsort(dim=1)
    is_chosen = torch.arange(1, num_rows + 1, device=eligible.device) <= size[:, None]
    return torch.zeros_like(is_chosen).scatter_(1, order, is_chosen)


def acsl_loss(logits: Tensor, labels: Tensor, weight_mask: Tensor) -> Tensor:
    """Binary cross-entropy summed over the cells that `weight_mask` (N, C + 1) switches on, averaged over all RoIs."""
    return sigmoid_cross_entropy(logits, labels, weight=weight_mask)


@dataclass(frozen=True, kw_only=True)
class AcslHyperparameters(LossHyperparameters):
    """Values of ACSL; the defaults are the published ones.

    Attributes:
        score_threshold: score from which a column that is not the RoI's own is suppressed, in (0, 1).
        background_ratio_rare: share of background RoIs that suppress rare columns, in [0, 1].
        background_ratio_common: the same for common columns.
        background_ratio_frequent: the same for frequent columns; an extension, published as all of them.
        rounding: of ratio times background RoIs; `truncate` as published. With 128 background RoIs every ratio below
            1/128 then draws none, so a search uses `stochastic`.
    """

    score_threshold: float = 0.7
    background_ratio_rare: float = 0.01
    background_ratio_common: float = 0.1
    background_ratio_frequent: float = 1.0
    rounding: Rounding = "truncate"

    def __post_init__(self) -> None:
        require(
            0 < self.score_threshold < 1,
            "score_threshold",
            self.score_threshold,
            "ACSL compares it with a sigmoid score, use a value in (0, 1)",
        )
        for field in ("background_ratio_rare", "background_ratio_common", "background_ratio_frequent"):
            value = getattr(self, field)
            require(0 <= value <= 1, field, value, "it is a share of the background RoIs, use a value in [0, 1]")
        require(self.rounding in ("truncate", "stochastic"), "rounding", self.rounding, "use truncate or stochastic")


class Acsl(ClassificationLoss):
    """Adaptive class suppression loss.

    Wang et al., "Adaptive Class Suppression Loss for Long-Tail Object Detection", CVPR 2021, arXiv 2104.00885;
    published as CASIA-IVA-Lab/ACSL dd84144. With target t and mask w, `L = 1/N sum_i sum_c w_ic bce(z_ic, t_ic)`. Like
    that code, and unlike the paper's formula, the background column takes part and background RoIs follow frequency
    groups instead of the threshold.

    Differences from the published code: background is the last column, not the first; the draws come from `generator`,
    not from NumPy's global one, so that a run can be repeated; shares of background RoIs are of the whole batch unless
    `images_per_process` says otherwise; the published runs had 2.
    """

    Hyperparameters: ClassVar[type[LossHyperparameters]] = AcslHyperparameters
    hyperparameters: AcslHyperparameters
    frequency_group: Tensor

    def set_up(self, frequencies: CategoryFrequencies) -> None:
        self.register_buffer("frequency_group", frequencies.group, persistent=False)

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        values = self.hyperparameters
        mask = weight_mask(
            logits,
            labels,
            score_threshold=values.score_threshold,
            frequency_group=self.frequency_group,
            background_ratios=(
                values.background_ratio_rare,
                values.background_ratio_common,
                values.background_ratio_frequent,
            ),
            generator=self.generator,
            rounding=values.rounding,
        )
        return {"loss_cls": acsl_loss(logits, labels, mask)}

    def scores(self, logits: Tensor) -> Tensor:
        return sigmoid_scores(at_least_float32(logits))
