import math

import pytest
import torch

from lttune.errors import InputError
from lttune.losses import build_loss
from lttune.losses.cross_entropy import (
    gated_sigmoid_scores,
    sigmoid_cross_entropy,
    sigmoid_scores,
    softmax_cross_entropy,
    softmax_scores,
)

CASES = ("small", "medium", "no_fg", "only_fg", "single_image_class", "extreme", "lvis")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "loss"), [("ce", softmax_cross_entropy), ("bce", sigmoid_cross_entropy)])
def test_golden_values(golden, assert_golden, name, loss, case):
    arrays = golden(name, case)
    logits = arrays["logits"].requires_grad_()

    value = loss(logits, arrays["labels"])
    value.backward()

    assert_golden(value, arrays["loss"])
    assert_golden(logits.grad, arrays["grad"])


@pytest.mark.parametrize("case", CASES)
def test_golden_scores(golden, assert_golden, case):
    arrays = golden("bce", case)
    rows = len(arrays["scores"])

    assert_golden(gated_sigmoid_scores(arrays["logits"][:rows]), arrays["scores"][:, :-1])


def test_softmax_by_hand():
    # Odds 1 : 2 : 1 and 3 : 1 : 4, so the true columns have probabilities 1/2 and 1/2.
    logits = torch.tensor([[1.0, 2.0, 1.0], [3.0, 1.0, 4.0]], dtype=torch.float64).log()

    value = softmax_cross_entropy(logits, torch.tensor([1, 2]))

    assert value.item() == pytest.approx(math.log(2))


def test_sigmoid_by_hand():
    # Scores 3/4, 1/2, 1/4; the own column is the first: -log(3/4) - log(1/2) - log(3/4).
    logits = torch.tensor([[math.log(3), 0.0, -math.log(3)]], dtype=torch.float64)

    assert sigmoid_cross_entropy(logits, torch.tensor([0])).item() == pytest.approx(math.log(32 / 9))


def test_slow_loop():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    labels = torch.tensor([0, 4, 2, 2, 4, 3])

    softmax = sigmoid = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        softmax -= math.log(math.exp(row[label]) / sum(math.exp(z) for z in row))
        for column, z in enumerate(row):
            score = 1 / (1 + math.exp(-z))
            sigmoid -= math.log(score if column == label else 1 - score)

    assert softmax_cross_entropy(logits, labels).item() == pytest.approx(softmax / 6)
    assert sigmoid_cross_entropy(logits, labels).item() == pytest.approx(sigmoid / 6)


def test_scores_by_hand():
    logits = torch.tensor([[math.log(3), 0.0, -math.log(3)]], dtype=torch.float64)

    torch.testing.assert_close(sigmoid_scores(logits), torch.tensor([[0.75, 0.5]], dtype=torch.float64))
    torch.testing.assert_close(gated_sigmoid_scores(logits), torch.tensor([[0.5625, 0.375]], dtype=torch.float64))
    torch.testing.assert_close(softmax_scores(logits), torch.tensor([[9 / 13, 3 / 13]], dtype=torch.float64))


def test_prior_is_the_first_score(frequencies):
    loss = build_loss("sigmoid_cross_entropy", num_classes=2, frequencies=frequencies([3, 30]), prior=0.01)

    torch.testing.assert_close(loss.initial_bias().sigmoid(), torch.full((3,), 0.01))
    assert build_loss("sigmoid_cross_entropy", num_classes=2, frequencies=frequencies([3, 30])).initial_bias() is None


def test_gate_of_the_scores_is_optional(frequencies):
    logits = torch.tensor([[1.0, -1.0, 2.0]])
    plain = build_loss("sigmoid_cross_entropy", num_classes=2, frequencies=frequencies([3, 30]), gated_scores=False)

    torch.testing.assert_close(plain.scores(logits), logits[:, :2].sigmoid())


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1, math.nan])
def test_prior_out_of_range(frequencies, prior):
    with pytest.raises(InputError, match=rf"loss\.prior is {prior}; .*\(0, 1\)"):
        build_loss("sigmoid_cross_entropy", num_classes=1, frequencies=frequencies([3]), prior=prior)
