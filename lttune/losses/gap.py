"""GAP, the ranking loss of ROG: foreground logits against the negatives of all categories, with a prescribed gradient.

Shape letters: N RoIs, C foreground categories, P foreground RoIs. A cell is one (RoI, category) logit; a positive is
the cell of a foreground RoI and its label, and every other cell is a negative. Labels (N,) int64 in [0, C].
"""

from typing import Any

import torch
from torch import Tensor

from lttune.losses.edges import count_edges_reached, true_entries

# A positive that no negative comes near neither moves nor pushes; the published code's value.
_SMALLEST_RANK = 1e-10


def gap_loss(
    logits: Tensor, labels: Tensor, counts: Tensor, *, gamma: float = 1.0, lam: float = 0.1, delta: float = 0.5
) -> Tensor:
    """Mean ranking error of the positives against the negatives of all categories.

    With H the step of half-width delta, a positive k of category m has R_k, the sum of H(s_j - s_k) over the positives
    j of m, and F_k, the same over all negatives. The value is the mean over the categories present, of the mean over
    their positives, of the errors F_k / (R_k + F_k). The gradient is not its derivative but an error-driven update, as
    published: each positive is pulled up by its error times its share in the means, `lam` and its class weight, and
    each negative is pushed down by what it adds to these, so that all cancel. The value holds neither `lam` nor the
    class weights, which are `max(n, 1)^-gamma` of mean 1.

    Takes O(N C) time and memory, without a loop over categories or positives. On a GPU it takes O(N C log P) time, and
    no size or value reaches the host.

    Args:
        logits: (N, C) or wider; columns beyond C get no gradient.
        labels: (N,).
        counts: (C + 1,) RoIs seen of each label, this batch included; 0 counts as 1.
        gamma: power of the inverse counts in the class weights.
        lam: factor of the gradient.
        delta: half-width of the step in logits; 0 is a sharp step.
    """
    value: Tensor = _Gap.apply(logits, labels, counts, gamma, lam, delta)
    return value


class _Gap(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, counts: Tensor, gamma: float, lam: float, delta: float
    ) -> Tensor:
        value, gradient = _gap(logits, labels, counts, gamma=gamma, lam=lam, delta=delta)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return upstream[0] * gradient, None, None, None, None, None


def _gap(
    logits: Tensor, labels: Tensor, counts: Tensor, *, gamma: float, lam: float, delta: float
) -> tuple[Tensor, Tensor]:
    """The value, and the prescribed gradient (shape of logits)."""
    num_classes = len(counts) - 1
    is_foreground = labels < num_classes
    own_column = labels.clamp(max=num_classes - 1)[:, None]
    own_logit = logits.gather(1, own_column)

    zeros = torch.zeros_like(counts, dtype=torch.float64)
    per_class = zeros.index_add(0, labels, is_foreground.double())  # |P_m|
    inverse = counts[:-1].double().clamp(min=1) ** -gamma
    class_weight = inverse / (inverse.sum() + 1e-9) * num_classes  # w_m

    # One step per row k; a background row, where it has to come along, has no weight and its edges at infinity.
    rows = _worth_visiting(is_foreground, largest_share=1.0)
    is_positive, row_labels = is_foreground[rows], labels[rows]
    positives = own_logit[rows, 0].double().where(is_positive, 0)  # s_k
    steps = _Steps(positives, is_positive, delta)
    # Cells that are no negative lie below every edge, where they count for nothing.
    cells = logits.scatter(1, own_column, own_logit.masked_fill(is_foreground[:, None], -torch.inf))
    cells[:, num_classes:] = -torch.inf
    cells = cells.flatten()
    near = _worth_visiting(cells >= steps.lowest_edge, largest_share=0.4)
    negatives = cells if isinstance(near, slice) else cells.index_select(0, near)
    bucket = steps.bucket(negatives)

    share = is_positive / ((per_class > 0).sum() * per_class[row_labels]).clamp(min=1)  # 1 / (K |P_m|)
    false_ahead = steps.sum_over(negatives, bucket)  # F_k
    ahead = false_ahead + _sum_over_own_class(positives, row_labels, delta)  # F_k + R_k
    error = false_ahead / ahead
    pull = lam * share * class_weight[own_column[rows, 0]] * (false_ahead > _SMALLEST_RANK)

    pushes = steps.weighted_sum(negatives, bucket, pull / ahead)
    # Far faster than indexing with brackets, as is `index_select` above.
    gradient = pushes if isinstance(near, slice) else torch.zeros_like(cells).scatter_(0, near, pushes)
    gradient = gradient.view_as(logits)
    gradient[:, num_classes:] = 0
    at_own = gradient.gather(1, own_column)[:, 0]
    at_own[rows] = torch.where(is_positive, (-pull * error).to(gradient.dtype), at_own[rows])
    return (share * error).sum().to(logits.dtype), gradient.scatter_(1, own_column, at_own[:, None])


def _worth_visiting(mask: Tensor, *, largest_share: float) -> Tensor | slice:
    """Index of the true entries, on a CPU where they are at most this share; else of all, which costs no gathering, and
    no wait for their number on a GPU."""
    if mask.device.type != "cpu":
        return slice(None)
    found = true_entries(mask)
    return found if len(found) <= largest_share * len(mask) else slice(None)


class _Steps:
    """The steps H(x - s_k) of all rows k, as functions of x that are linear between sorted breakpoints.

    Args:
        centre: (N,) s_k, float64.
        is_valid: (N,) bool; other rows have no step.
        delta: half-width.
    """

    def __init__(self, centre: Tensor, is_valid: Tensor, delta: float) -> None:
        self._delta = delta
        self._is_valid = is_valid
        self._lower = centre - delta
        # Two edges per row, which a sharp step has at one place.
        edges = torch.cat([self._lower, centre + delta]).masked_fill(~is_valid.repeat(2), torch.inf)
        self._edges, self._order = edges.sort()
        # Bucket b holds the x with exactly b edges at or below them; an edge's step begins in its bucket.
        bucket_of_edge = torch.empty_like(self._order)
        bucket_of_edge[self._order] = torch.arange(1, len(edges) + 1, device=edges.device)
        self._from_lower, self._from_upper = bucket_of_edge.chunk(2)

    @property
    def lowest_edge(self) -> Tensor:
        """0-d; infinite where there is no step."""
        return torch.cat([self._edges, self._edges.new_full((1,), torch.inf)])[0]

    def bucket(self, x: Tensor) -> Tensor:
        return count_edges_reached(x, self._edges)

    def sum_over(self, x: Tensor, bucket: Tensor) -> Tensor:
        """(N,) sum of each row's step over all x."""
        count, total = self._edges.new_zeros(2, len(self._edges) + 1)
        count.index_add_(0, bucket, count.new_ones(()).expand(len(x)))
        total.index_add_(0, bucket, x.double())
        count, total = (values.flip(0).cumsum(0).flip(0) for values in (count, total))
        past = count[self._from_upper]
        rising = total[self._from_lower] - total[self._from_upper]
        num_rising = count[self._from_lower] - past
        return _sum_of_steps(past, rising, num_rising, self._lower, self._delta).clamp(min=0) * self._is_valid

    def weighted_sum(self, x: Tensor, bucket: Tensor, weight: Tensor) -> Tensor:
        """(shape of x) sum over rows of weight (N,) times step; infinite x gives nan."""
        slope, intercept = self._lines(weight)
        return slope.index_select(0, bucket).mul_(x.double()).add_(intercept.index_select(0, bucket)).to(x.dtype)

    def _lines(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(2 N + 1,) slope and intercept of the weighted sum in each bucket."""
        if self._delta == 0:
            slopes = torch.zeros_like(self._edges)
            intercepts = torch.cat([weight, torch.zeros_like(weight)])
        else:
            slope = weight / (2 * self._delta)
            slopes = torch.cat([slope, -slope])
            intercepts = torch.cat([-slope * self._lower, slope * (self._lower + 2 * self._delta)])
        starts = self._edges.new_zeros(1)
        return (
            torch.cat([starts, slopes[self._order].cumsum(0)]),
            torch.cat([starts, intercepts[self._order].cumsum(0)]),
        )


def _sum_over_own_class(centre: Tensor, labels: Tensor, delta: float) -> Tensor:
    """(N,) sum of H(s_j - s_k) over the rows j of k's label, k included."""
    num_rows = len(centre)
    lower = centre - delta
    x = torch.cat([lower, centre + delta, centre])
    # By label, then by value; edges come before equal values, which a sharp step counts.
    order = x.argsort(stable=True)
    order = order[labels.repeat(3)[order].argsort(stable=True)]
    is_value = (order >= 2 * num_rows).double()
    count = is_value.cumsum(0)
    total = (is_value * x[order]).cumsum(0)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(3 * num_rows, device=order.device))
    at_lower, at_upper, _ = place.chunk(3)
    last_place = torch.searchsorted(labels[order % num_rows], labels, right=True) - 1
    past = count[last_place] - count[at_upper]
    rising = total[at_upper] - total[at_lower]
    num_rising = count[at_upper] - count[at_lower]
    return _sum_of_steps(past, rising, num_rising, lower, delta)


def _sum_of_steps(past: Tensor, rising: Tensor, num_rising: Tensor, lower: Tensor, delta: float) -> Tensor:
    """Sum of H from how many values lie past its upper edge, and the sum and number of those between its edges."""
    return past if delta == 0 else past + (rising - lower * num_rising) / (2 * delta)
