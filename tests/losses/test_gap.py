import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lttune.losses import gap
from lttune.losses.gap import gap_loss

CASES = ("small", "medium", "no_fg", "only_fg", "single_image_class", "extreme")
PUBLISHED = {"gamma": 1.0, "lam": 0.1, "delta": 0.5}


def step(difference, delta):
    """H: a ramp of half-width delta, or a sharp step that counts equality."""
    return float(difference >= 0) if delta == 0 else min(max(difference / (2 * delta) + 0.5, 0.0), 1.0)


def slow_gap(logits, labels, counts, *, gamma, lam, delta):
    """Value and gradient by loops over categories, positives and negatives, straight from the definition."""
    num_classes = len(counts) - 1
    cells, rows = logits[:, :num_classes].tolist(), labels.tolist()
    inverse = [(1 / max(float(count), 1)) ** gamma for count in counts[:-1]]
    weight = [value / (sum(inverse) + 1e-9) * num_classes for value in inverse]
    negatives = [(i, c) for i, label in enumerate(rows) for c in range(num_classes) if c != label]
    present = sorted({label for label in rows if label < num_classes})
    value, gradient = 0.0, torch.zeros_like(logits)
    for m in present:
        own = [i for i, label in enumerate(rows) if label == m]
        share = 1 / (len(present) * len(own))
        for k in own:
            true_ahead = sum(step(cells[j][m] - cells[k][m], delta) for j in own)
            ahead = [step(cells[i][c] - cells[k][m], delta) for i, c in negatives]
            false_ahead = sum(ahead)
            value += share * false_ahead / (true_ahead + false_ahead)
            if false_ahead > 1e-10:
                pull = lam * weight[m] * share / (true_ahead + false_ahead)
                gradient[k, m] -= pull * false_ahead
                for (i, c), amount in zip(negatives, ahead, strict=True):
                    gradient[i, c] += pull * amount
    return value, gradient


def value_and_gradient(logits, labels, counts, **values):
    logits = logits.detach().clone().requires_grad_()
    value = gap_loss(logits, labels, counts, **values)
    value.backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize("variant", ["", "_v1", "_v2"])
@pytest.mark.parametrize("case", CASES)
def test_golden_values(golden, case, variant):
    arrays = golden("rog_gap", case)
    values = dict(zip(PUBLISHED, arrays[f"hyper{variant}"].tolist(), strict=True))

    value, gradient = value_and_gradient(arrays["logits"], arrays["labels"], arrays["count_after"], **values)

    torch.testing.assert_close(value, arrays[f"loss{variant}"], rtol=1e-10, atol=1e-12)
    largest = arrays[f"grad{variant}"].abs().max()
    assert (gradient - arrays[f"grad{variant}"]).abs().max() <= 1e-10 * largest


def test_golden_values_of_lvis(golden, assert_golden):
    arrays = golden("rog_gap", "lvis")

    value, gradient = value_and_gradient(arrays["logits"], arrays["labels"], arrays["count_after"], **PUBLISHED)

    assert_golden(value, arrays["loss"])
    assert_golden(gradient, arrays["grad"])


def test_by_hand():
    # One positive at 1 among negatives at 2, 0.75 and -5, and a background logit that takes no part.
    logits = torch.tensor([[1.0, 2.0, 9.0], [0.75, -5.0, 9.0]], dtype=torch.float64)
    labels, counts = torch.tensor([0, 2]), torch.tensor([1, 0, 1])

    value, gradient = value_and_gradient(logits, labels, counts, **PUBLISHED)

    # R = 0.5 (itself), F = 1 + 0.25; both weights are 1, one category, one positive.
    assert value.item() == pytest.approx(1.25 / 1.75)
    expected = 0.1 * torch.tensor([[-1.25, 1.0, 0], [0.25, 0, 0]], dtype=torch.float64) / 1.75
    torch.testing.assert_close(gradient, expected)


def test_sharp_step_by_hand():
    # Two positives of one category, at 1 and 2; the negative at 1 counts against the first: it is not below it.
    logits = torch.tensor([[1.0, 1.0, 0], [2.0, 0.5, 0]], dtype=torch.float64)
    labels, counts = torch.tensor([0, 0]), torch.tensor([2, 0, 0])

    value, gradient = value_and_gradient(logits, labels, counts, gamma=0.0, lam=1.0, delta=0.0)

    # R = 2 and 1, F = 1 and 0.
    assert value.item() == pytest.approx(0.5 * (1 / 3))
    torch.testing.assert_close(gradient, torch.tensor([[-1 / 6, 1 / 6, 0], [0, 0, 0]], dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 6)),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    grid=st.booleans(),
    gamma=st.floats(0, 2),
    lam=st.floats(0, 3),
    delta=st.sampled_from([0.0, 0.05, 0.5, 3.0]),
)
def test_equals_the_slow_loop(seed, shape, scale, grid, gamma, lam, delta):
    num_rows, num_classes = shape
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(num_rows, num_classes + 1, dtype=torch.float64, generator=generator)
    if grid:  # ties between positives, negatives and edges
        logits = logits.round()
    labels = torch.randint(num_classes + 1, (num_rows,), generator=generator)
    counts = torch.randint(20, (num_classes + 1,), generator=generator) + labels.bincount(minlength=num_classes + 1)

    value, gradient = value_and_gradient(logits, labels, counts, gamma=gamma, lam=lam, delta=delta)
    expected, expected_gradient = slow_gap(logits, labels, counts, gamma=gamma, lam=lam, delta=delta)

    assert value.item() == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9 * max(lam, 1e-3))


@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_visiting_all_rows_and_cells_gives_the_same(monkeypatch, delta):
    """As a GPU does, which must not wait to learn which are worth it."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 9, dtype=torch.float64, generator=generator)
    logits[:, 3:] -= 6
    labels = torch.tensor([0, 1, 1, 2, 2, 2] + [7] * 34)
    counts = labels.bincount(minlength=8)
    visited = []
    sparse = gap._worth_visiting

    def record(mask, **limits):
        visited.append(sparse(mask, **limits))
        return visited[-1]

    monkeypatch.setattr(gap, "_worth_visiting", record)
    value, gradient = value_and_gradient(logits, labels, counts, **{**PUBLISHED, "delta": delta})
    monkeypatch.setattr(gap, "_worth_visiting", lambda mask, **limits: slice(None))
    dense_value, dense_gradient = value_and_gradient(logits, labels, counts, **{**PUBLISHED, "delta": delta})

    assert all(isinstance(index, torch.Tensor) for index in visited)
    torch.testing.assert_close(value, dense_value, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient, dense_gradient, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("shift", [0.0, -7.0], ids=["every cell is near", "few are"])
@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_many_cells_equal_plain_arithmetic_to_1e_9(shift, delta):
    """As many as take the fast search; each positive against all cells, without sorting."""
    generator = torch.Generator().manual_seed(0)
    num_rows, num_classes = 300, 400
    logits = shift + torch.randn(num_rows, num_classes + 1, dtype=torch.float64, generator=generator)
    labels = torch.cat([torch.randint(12, (40,), generator=generator), torch.full((260,), num_classes)])
    logits[torch.arange(40), labels[:40]] -= shift
    counts = labels.bincount(minlength=num_classes + 1)

    def step(difference):
        return (difference >= 0).double() if delta == 0 else (difference / (2 * delta) + 0.5).clamp(0, 1)

    is_negative = (labels[:, None] != torch.arange(num_classes)).double()
    weight = 1 / counts[:-1].clamp(min=1).double()
    weight *= num_classes / (weight.sum() + 1e-9)
    expected, num_present = torch.zeros_like(logits), len(labels[:40].unique())
    for k, label in enumerate(labels[:40].tolist()):
        score, own = logits[k, label], logits[labels == label, label]
        ahead = is_negative * step(logits[:, :-1] - score)
        total = ahead.sum() + step(own - score).sum()
        pull = 0.1 * weight[label] / (num_present * len(own))
        if ahead.sum() > 1e-10:
            expected[:, :-1] += pull * ahead / total
            expected[k, label] -= pull * ahead.sum() / total

    _, gradient = value_and_gradient(logits, labels, counts, **{**PUBLISHED, "delta": delta})

    assert (gradient - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (299, 0)], ids=["positive", "negative", "of background"])
def test_what_is_no_number_makes_no_other_error(place):
    logits = torch.randn(300, 301, generator=torch.Generator().manual_seed(0))
    logits[place] = torch.nan
    labels = torch.tensor([0, 1, 2, *[300] * 297])

    gap_loss(logits.requires_grad_(), labels, labels.bincount(minlength=301)).backward()


def test_off_the_cpu_nothing_waits_for_a_value():
    """Tensors of the meta device have shapes and no values: whoever asks for one gets an error."""
    logits = torch.zeros(40, 9, device="meta", requires_grad=True)
    labels, counts = torch.zeros(40, dtype=torch.int64, device="meta"), torch.zeros(9, device="meta")

    gap_loss(logits, labels, counts).backward()

    assert logits.grad.shape == (40, 9)


def test_gradients_of_positives_and_negatives_cancel():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, 8, dtype=torch.float64, generator=generator)
    labels = torch.randint(8, (30,), generator=generator)

    _, gradient = value_and_gradient(logits, labels, labels.bincount(minlength=8), **PUBLISHED)

    assert gradient.abs().sum() > 0.01
    assert gradient.sum().abs() < 1e-15


def test_positive_that_no_negative_comes_near_does_not_move():
    # The negative reaches 1e-11 up the ramp, which the published code takes for nothing.
    logits = torch.tensor([[0.0, -0.5 + 1e-11, 0]], dtype=torch.float64)

    value, gradient = value_and_gradient(logits, torch.tensor([0]), torch.tensor([1, 0, 0]), **PUBLISHED)

    assert 0 < value < 1e-10
    assert (gradient == 0).all()


def test_value_knows_neither_lam_nor_class_weights_and_upstream_multiplies():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 6, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.randint(6, (20,), generator=generator)
    counts = torch.tensor([1, 5, 50, 2, 7, 90])

    value = gap_loss(logits, labels, counts, gamma=1.0, lam=0.1, delta=0.5)
    other = gap_loss(logits, labels, counts, gamma=0.0, lam=9.0, delta=0.5)
    (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
    (tripled,) = torch.autograd.grad(3 * value, logits)

    assert value.item() == other.item()
    torch.testing.assert_close(tripled, 3 * gradient)


def test_wider_logits_get_no_gradient_beyond_the_categories():
    logits = torch.randn(10, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 5, 5, 5, 5])

    _, gradient = value_and_gradient(logits, labels, torch.ones(6), **PUBLISHED)

    assert (gradient[:, :5] != 0).any()
    assert (gradient[:, 5:] == 0).all()
