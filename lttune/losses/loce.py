"""Equilibrium loss (EBL): softmax cross-entropy with margins that follow each category's running mean score.

Shape letters: N RoIs, C foreground categories, I items of one pass. Logits are (N, C + 1), background last; labels (N,)
int64 in [0, C].
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lttune.losses.base import ClassificationLoss, LossHyperparameters, at_least_float32, require
from lttune.losses.cross_entropy import softmax_cross_entropy, softmax_scores
from lttune.losses.distributed import gather_numbers, gather_rows
from lttune.losses.feature_memory import JITTERS_PER_BOX, FeatureMemory
from lttune.types import CategoryFrequencies

# Mean scores start here, for every column; the published code's value.
INITIAL_MEAN_SCORE = 0.01
# A mean score of 0 would make the loss infinite.
_SMALLEST_MEAN_SCORE = 1e-8


def equilibrium_loss(logits: Tensor, labels: Tensor, mean_score: Tensor, *, margin_exponent: float = 1.0) -> Tensor:
    """Softmax cross-entropy of `z + margin_exponent * log(m)`: competitor j of label y has the margin log(m_j / m_y).

    Args:
        logits: (N, C + 1).
        labels: (N,).
        mean_score: (C + 1,) in [0, 1]; gets no gradient.
        margin_exponent: 1 is the published loss, 0 plain cross-entropy.
    """
    shift = margin_exponent * mean_score.detach().clamp(min=_SMALLEST_MEAN_SCORE).log()
    return softmax_cross_entropy(logits + shift.to(logits.dtype), labels)


def mean_score_items(scores: Tensor, labels: Tensor, instance_ids: Tensor) -> tuple[Tensor, Tensor]:
    """What one pass says about the mean scores.

    Each matched ground truth is one item: its category, and the mean score that its RoIs give to that category. Each
    category among the memory rows is one more item, over all its memory rows.

    Args:
        scores: (N, C + 1) softmax of the logits, without margins.
        labels: (N,).
        instance_ids: (N,) int64 matched ground truth over the batch, -1 background (which says nothing), -2 memory row.

    Returns:
        labels (I,) int64 and scores (I,) of the items.
    """
    rows = (instance_ids != -1).nonzero()[:, 0]
    return _mean_by_item(scores[rows, labels[rows]], labels[rows], instance_ids[rows])


def _mean_by_item(own_scores: Tensor, labels: Tensor, instance_ids: Tensor) -> tuple[Tensor, Tensor]:
    """The same from the score (n,) that each foreground or memory row gives to its own label."""
    # Memory rows are told apart by category, with keys below every ground truth's number.
    keys = torch.where(instance_ids == -2, -2 - labels, instance_ids)
    distinct, item = torch.unique(keys, return_inverse=True)
    num_rows = own_scores.new_zeros(len(distinct)).index_add_(0, item, torch.ones_like(own_scores))
    sums = own_scores.new_zeros(len(distinct)).index_add_(0, item, own_scores)
    item_labels = labels.new_zeros(len(distinct)).index_copy_(0, item, labels)
    return item_labels, sums / num_rows


def update_mean_score(
    mean_score: Tensor, labels: Tensor, scores: Tensor, *, momentum: float = 0.9, background_score: float = 0.01
) -> Tensor:
    """Running means after one pass: a category with n items of average s moves to `a^n m + (1 - a^n) s`.

    Args:
        mean_score: (C + 1,).
        labels: (I,) of the items; -1 is padding.
        scores: (I,) of the items, in [0, 1].
        momentum: a, in [0, 1].
        background_score: what the last entry is set to.

    Returns:
        a new (C + 1,) tensor.
    """
    is_item = labels >= 0
    index = labels.clamp(min=0)
    items = torch.stack([is_item, torch.where(is_item, scores, 0)]).to(mean_score.dtype)
    num_items, sums = mean_score.new_zeros(2, len(mean_score)).index_add_(1, index, items).unbind()
    kept = momentum**num_items
    updated = kept * mean_score + (1 - kept) * sums / num_items.clamp(min=1)
    updated[-1] = background_score
    return updated


@dataclass(frozen=True, kw_only=True)
class LoceHyperparameters(LossHyperparameters):
    """Values of LOCE; the defaults are the published ones.

    Attributes:
        momentum: of the mean scores, per item, in [0, 1).
        background_score: mean score of background, in (0, 1]; its logit is shifted by the logarithm.
        margin_exponent: factor of the log margins, at least 0; an extension, published as 1.
        has_memory: draw extra rows from a feature memory.
        queue_size: features kept per category, a multiple of 16: 16 per ground truth.
        num_drawn_classes: categories drawn per pass, with replacement.
        num_drawn_features: features drawn per drawn category, with replacement.
        jitter_amplitude: largest shift of a box's side in widths or heights of the box, in (0, 0.5).
    """

    momentum: float = 0.9
    background_score: float = 0.01
    margin_exponent: float = 1.0
    has_memory: bool = True
    queue_size: int = 80
    num_drawn_classes: int = 8
    num_drawn_features: int = 4
    jitter_amplitude: float = 1 / 6

    def __post_init__(self) -> None:
        require(0 <= self.momentum < 1, "momentum", self.momentum, "use a value in [0, 1)")
        require(
            0 < self.background_score <= 1,
            "background_score",
            self.background_score,
            "LOCE takes its logarithm, use a value in (0, 1]",
        )
        require(0 <= self.margin_exponent < 100, "margin_exponent", self.margin_exponent, "use a value in [0, 100)")
        require(
            self.queue_size > 0 and self.queue_size % JITTERS_PER_BOX == 0,
            "queue_size",
            self.queue_size,
            f"each ground truth stores {JITTERS_PER_BOX} features, use a multiple of {JITTERS_PER_BOX}",
        )
        for field in ("num_drawn_classes", "num_drawn_features"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "use at least 1")
        require(
            0 < self.jitter_amplitude < 0.5,
            "jitter_amplitude",
            self.jitter_amplitude,
            "a box must keep its corners in order, use a value in (0, 0.5)",
        )


class Loce(ClassificationLoss):
    """Equilibrium loss, with a feature memory as its augmenter.

    Feng et al., "Exploring Classification Equilibrium in Long-Tailed Object Detection", ICCV 2021, arXiv 2108.07507;
    published as fcjian/LOCE 0a0194d. With mean scores m, `L = -1/N sum_i log(m_y e^z_iy / sum_c m_c e^z_ic)`.

    Differences from the published code: the mean scores are a buffer, so that a resumed run keeps them; the loss is
    taken in log space, where the published form turns to NaN at logit gaps of 86; rows are found by `instance_ids`,
    where the published code assumes 512 RoIs per image; a pass without any item changes nothing, where it crashed.

    Without `instance_ids` every foreground row counts as an instance of its own, so the mean scores follow faster.
    """

    Hyperparameters: ClassVar[type[LossHyperparameters]] = LoceHyperparameters
    hyperparameters: LoceHyperparameters
    scope = "global"
    mean_score: Tensor

    def set_up(self, frequencies: CategoryFrequencies) -> None:
        self.register_buffer(
            "mean_score", torch.full((self.num_classes + 1,), INITIAL_MEAN_SCORE, dtype=torch.float64), persistent=True
        )
        values = self.hyperparameters
        if values.has_memory:
            self.augmenter = FeatureMemory(
                self.current_mean_score,
                queue_size=values.queue_size,
                num_drawn_classes=values.num_drawn_classes,
                num_drawn_features=values.num_drawn_features,
                jitter_amplitude=values.jitter_amplitude,
            )

    @property
    def num_warm_images(self) -> int:
        # Each holds at least one instance, which stores 16 features: enough to fill a category's queue.
        return self.hyperparameters.queue_size // JITTERS_PER_BOX

    def current_mean_score(self) -> Tensor:
        """(C + 1,) float64. A method, not the tensor: moving the module to a device replaces its buffers."""
        return self.mean_score

    @torch.no_grad()
    def observe(self, logits: Tensor, labels: Tensor, *, instance_ids: Tensor | None = None) -> None:
        if instance_ids is None:
            instance_ids = torch.arange(len(labels), device=labels.device).where(labels < self.num_classes, -1)
        rows = (instance_ids != -1).nonzero()[:, 0]
        scores = at_least_float32(logits).index_select(0, rows).softmax(dim=1)
        own_scores = scores.gather(1, labels[rows, None])[:, 0]
        # An item may have rows on several ranks: a category's memory rows are dealt out to all of them.
        item_labels, item_scores = _mean_by_item(
            gather_rows(own_scores), gather_rows(labels[rows]), gather_numbers(instance_ids[rows])
        )
        self.mean_score.copy_(
            update_mean_score(
                self.mean_score,
                item_labels,
                item_scores,
                momentum=self.hyperparameters.momentum,
                background_score=self.hyperparameters.background_score,
            )
        )

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        margin_exponent = self.hyperparameters.margin_exponent
        return {"loss_cls": equilibrium_loss(logits, labels, self.mean_score, margin_exponent=margin_exponent)}

    def scores(self, logits: Tensor) -> Tensor:
        return softmax_scores(at_least_float32(logits))
