"""Seesaw loss: a softmax whose negatives weigh less for rarer categories and more where they win wrongly.

Shape letters: N RoIs, P RoIs that take part, C foreground categories. Logits are (N, C + 2): C categories, then
foreground and background; labels (N,) int64 in [0, C].
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lttune.losses.base import ClassificationLoss, LossHyperparameters, at_least_float32, mean_over_rows, require
from lttune.losses.cross_entropy import softmax_scores
from lttune.losses.distributed import count_over_ranks
from lttune.types import CategoryFrequencies


def seesaw_loss(
    logits: Tensor, labels: Tensor, cumulative_counts: Tensor, *, p: float = 0.8, q: float = 2.0, eps: float = 1e-2
) -> dict[str, Tensor]:
    """Both terms, each a sum over its RoIs divided by the number of all RoIs.

    Args:
        logits: (N, C + 2).
        labels: (N,).
        cumulative_counts: (C + 1,) RoIs seen of each label, this batch included; 0 counts as 1.
        p: mitigation power of the ratio of counts; 0 has none.
        q: compensation power of the ratio of scores; 0 has none.
        eps: smallest score of the true category in that ratio.

    Returns:
        `loss_objectness`, two-way cross-entropy of all RoIs, and `loss_classes`, of foreground RoIs.
    """
    num_rois = len(labels)
    is_background = (labels == logits.shape[1] - 2).long()
    objectness = F.cross_entropy(logits[:, -2:], is_background, reduction="none")
    foreground = (is_background == 0).nonzero()[:, 0]
    class_logits, class_labels = logits[foreground, :-2], labels[foreground]
    classes = seesaw_cross_entropy(class_logits, class_labels, cumulative_counts[:-1], p=p, q=q, eps=eps)
    return {
        "loss_objectness": mean_over_rows(objectness, num_rois),
        "loss_classes": mean_over_rows(classes, num_rois),
    }


def seesaw_cross_entropy(
    logits: Tensor, labels: Tensor, counts: Tensor, *, p: float = 0.8, q: float = 2.0, eps: float = 1e-2
) -> Tensor:
    """(P,) the softmax cross-entropy of each RoI, its negatives weighted.

    Args:
        logits: (P, K) of whichever K columns compete.
        labels: (P,) in [0, K).
        counts: (K,) of each column; 0 counts as 1.
        p, q, eps: see `seesaw_loss`.
    """
    shift = _seesaw_shift(logits.detach(), labels, counts, p=p, q=q, eps=eps)
    return F.cross_entropy(logits + shift, labels, reduction="none")


def _seesaw_shift(logits: Tensor, labels: Tensor, counts: Tensor, *, p: float, q: float, eps: float) -> Tensor:
    """(P, K) log of mitigation times compensation, which adds to the logits; 0 at each RoI's own label."""
    log_counts = counts.clamp(min=1).double().log()
    mitigation = (log_counts - log_counts[labels, None]).clamp(max=0).to(logits.dtype)
    log_scores = logits.log_softmax(dim=1)
    own_log_score = log_scores.gather(1, labels[:, None]).clamp(min=math.log(eps))
    compensation = (log_scores - own_log_score).clamp(min=0)
    return p * mitigation + q * compensation


@dataclass(frozen=True, kw_only=True)
class SeesawHyperparameters(LossHyperparameters):
    """Values of Seesaw; the defaults are the published ones.

    Attributes:
        p: mitigation power, in [0, 100].
        q: compensation power, in [0, 100].
        eps: smallest score of the true category when scores are compared, in (0, 1).
        objectness: tell foreground from background by two columns of their own, as published. Otherwise logits are
            (N, C + 1) and background is one more category: it competes in the softmax of every RoI, its own RoIs
            train the same loss, and it has a count like any other.
        count_source: `online` counts the RoIs of training as they come, as published; `dataset` takes the annotations
            of each category, from the start, and for background, which has none, as many as all of them.
    """

    p: float = 0.8
    q: float = 2.0
    eps: float = 1e-2
    objectness: bool = True
    count_source: Literal["online", "dataset"] = "online"

    def __post_init__(self) -> None:
        require(0 <= self.p <= 100, "p", self.p, "it is the power of a ratio of counts, use a value in [0, 100]")
        require(0 <= self.q <= 100, "q", self.q, "it is the power of a ratio of scores, use a value in [0, 100]")
        require(0 < self.eps < 1, "eps", self.eps, "it is the floor of a score, use a value in (0, 1)")
        require(self.count_source in ("online", "dataset"), "count_source", self.count_source, "use online or dataset")


class Seesaw(ClassificationLoss):
    """Seesaw loss, with its objectness branch unless that is switched off.

    Wang et al., "Seesaw Loss for Long-Tailed Instance Segmentation", CVPR 2021, arXiv 2008.10032; published in
    mmdetection and in EricZsy/ROG 1dad3cf, `seesaw_loss.py`. Each foreground RoI with label i has
    `-log(e^z_i / (e^z_i + sum_j M_ij K_ij e^z_j))`, mitigation `M = min(1, n_j / n_i)^p` from counts and compensation
    `K = max(1, s_j / max(s_i, eps))^q` from scores, which get no gradient.

    Differences from the published code: counts are int64, exact beyond 2^24; factors stay logarithms, so nothing
    overflows and no (C, C) matrix is built; a batch without foreground gives a zero that still has a gradient. The
    published code has no loss without objectness branch, although its authors report one: that variant is our reading.
    """

    Hyperparameters: ClassVar[type[LossHyperparameters]] = SeesawHyperparameters
    hyperparameters: SeesawHyperparameters
    counts: Tensor

    def set_up(self, frequencies: CategoryFrequencies) -> None:
        self.counts_online = self.hyperparameters.count_source == "online"
        counts = torch.zeros(self.num_classes + 1, dtype=torch.int64)
        if not self.counts_online:
            counts[:-1] = frequencies.instance_count
            counts[-1] = counts[:-1].sum()
        self.register_buffer("counts", counts, persistent=self.counts_online)

    @property
    def num_logits(self) -> int:
        return self.num_classes + (2 if self.hyperparameters.objectness else 1)

    def observe(self, logits: Tensor, labels: Tensor, *, instance_ids: Tensor | None = None) -> None:
        if self.counts_online:
            self.counts += count_over_ranks(labels, len(self.counts))

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        values = self.hyperparameters
        if values.objectness:
            return seesaw_loss(logits, labels, self.counts, p=values.p, q=values.q, eps=values.eps)
        per_row = seesaw_cross_entropy(logits, labels, self.counts, p=values.p, q=values.q, eps=values.eps)
        return {"loss_cls": mean_over_rows(per_row, len(labels))}

    def scores(self, logits: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        if not self.hyperparameters.objectness:
            return softmax_scores(logits)
        return logits[:, :-2].softmax(dim=1) * logits[:, -2:].softmax(dim=1)[:, :1]
