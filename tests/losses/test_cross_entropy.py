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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sigmoid_equals_torch_over_the_whole_range(dtype):
    logits = torch.linspace(-120, 120, 4001, dtype=dtype).reshape(-1, 1).repeat(1, 3)
    labels, weight = torch.arange(4001) % 3, torch.rand(4001, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()

    values = [
        sigmoid_cross_entropy(ours, labels, weight=weight),
        torch.nn.functional.binary_cross_entropy_with_logits(
            theirs, torch.nn.functional.one_hot(labels, 3).to(dtype), weight, reduction="sum"
        )
        / 4001,
    ]
    slopes = [torch.autograd.grad(value, z)[0] for value, z in zip(values, (ours, theirs), strict=True)]

    torch.testing.assert_close(*values)
    torch.testing.assert_close(*slopes)


def test_sigmoid_takes_a_mask_for_a_weight():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels, mask = torch.tensor([0, 1, 2, 2]), torch.tensor([True, False, True])

    masked, weighted = (sigmoid_cross_entropy(logits, labels, weight=weight) for weight in (mask, mask.float()))

    assert masked == weighted


def test_weight_of_the_softmax_is_a_factor(frequencies):
    logits, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 2])

    once, thrice = (
        build_loss("cross_entropy", num_classes=2, frequencies=frequencies([3, 30]), weight=weight)(logits, labels)
        for weight in (1.0, 3.0)
    )

    assert thrice["loss_cls"] == 3 * once["loss_cls"]


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
