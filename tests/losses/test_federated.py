import math

import pytest
import torch

from lttune.errors import InputError
from lttune.losses import build_loss
from lttune.losses.federated import federated_classes, federated_loss


def draw(labels, weight, num_classes, generator):
    return federated_classes(torch.tensor(labels), torch.tensor(weight), num_classes=num_classes, generator=generator)


def test_all_that_occur_and_as_many_as_asked_for():
    generator = torch.Generator().manual_seed(0)

    for _ in range(20):
        classes = draw([4, 9, 10, 10, 4], [1.0] * 10, 5, generator)
        assert classes[[4, 9]].all()
        assert classes.sum() == 5


def test_more_that_occur_than_asked_for():
    classes = draw([0, 1, 2, 3], [1.0] * 6, 2, torch.Generator().manual_seed(0))

    assert classes.tolist() == [True] * 4 + [False] * 2


def test_categories_without_images_are_never_drawn():
    classes = draw([3], [0.0, 1.0, 0.0], 3, torch.Generator().manual_seed(0))

    assert classes.tolist() == [False, True, False]


def test_one_that_occurs_needs_no_weight():
    assert draw([0], [0.0, 0.0], 1, torch.Generator()).tolist() == [True, False]


def test_fewer_categories_than_asked_for():
    assert draw([2, 2], [1.0, 2.0], 50, torch.Generator()).tolist() == [True, True]


def test_draws_follow_the_weights_without_replacement():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw([3], [1.0, 2.0, 5.0], 2, generator) for _ in range(4000)])

    # Of weights 1, 2, 5 without replacement the one left out is the first with 5/8 * 2/3 + 2/8 * 5/6, and so on.
    left_out = (~drawn).double().mean(dim=0)
    expected = [5 / 8 * 2 / 3 + 2 / 8 * 5 / 6, 5 / 8 * 1 / 3 + 1 / 8 * 5 / 7, 1 / 8 * 2 / 7 + 2 / 8 * 1 / 6]
    assert sum(expected) == pytest.approx(1)
    for ours, share in zip(left_out.tolist(), expected, strict=True):
        assert abs(ours - share) < 4 * math.sqrt(share * (1 - share) / 4000)


def test_loss_by_hand():
    # Scores 3/4, 1/2 and 1/4; the second column and background are out: -log(3/4), and -log(1/4) for the other row.
    logits = torch.tensor([[math.log(3), 0.0, -math.log(3)]] * 2, dtype=torch.float64)

    value = federated_loss(logits, torch.tensor([0, 2]), torch.tensor([True, False]))

    assert value.item() == pytest.approx(math.log(16 / 3) / 2)


def test_slow_loop():
    logits = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels, classes = torch.tensor([0, 3, 4, 4, 1]), [True, True, False, True]

    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        for column in range(4):
            if classes[column]:
                score = 1 / (1 + math.exp(-row[column]))
                expected -= math.log(score if column == label else 1 - score)

    assert federated_loss(logits, labels, torch.tensor(classes)).item() == pytest.approx(expected / 5)


def test_weights_are_powers_of_image_counts(frequencies):
    counts = frequencies([0, 4, 100])

    square_roots = build_loss("federated", num_classes=3, frequencies=counts)
    equal = build_loss("federated", num_classes=3, frequencies=counts, frequency_power=0.0)

    assert square_roots.class_weight.tolist() == [0, 2, 10]
    assert equal.class_weight.tolist() == [0, 1, 1]


def test_training_without_a_generator_is_refused(frequencies):
    loss = build_loss("federated", num_classes=1, frequencies=frequencies([3]))

    with pytest.raises(InputError, match="built without a generator"):
        loss(torch.zeros(1, 2), torch.tensor([1]))
