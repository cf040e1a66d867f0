import math

import pytest
import torch

from lttune.losses import build_loss
from lttune.losses.logit_adjustment import log_prior, logit_adjusted_cross_entropy, post_hoc_logits


def test_prior_by_hand():
    # Logarithms 0, log 100 about their mean log 10; a category without occurrence counts as one.
    prior = log_prior(torch.tensor([0, 100]))

    assert prior.tolist() == pytest.approx([-math.log(10), math.log(10), 0])


def test_loss_by_hand():
    # Equal logits: odds are those of the prior, 1/10 : 10 : 1.
    value = logit_adjusted_cross_entropy(torch.zeros(1, 3), torch.tensor([0]), log_prior(torch.tensor([1, 100])))

    assert value.item() == pytest.approx(math.log(111))


def test_slow_loop():
    counts, tau = [1, 10, 300], 0.7
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 3])

    mean = sum(math.log(count) for count in counts) / 3
    odds_factor = [(count / math.exp(mean)) ** tau for count in counts] + [1]
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        odds = [factor * math.exp(z) for factor, z in zip(odds_factor, row, strict=True)]
        expected -= math.log(odds[label] / sum(odds))

    value = logit_adjusted_cross_entropy(logits, labels, log_prior(torch.tensor(counts)), tau=tau)
    assert value.item() == pytest.approx(expected / 5)


def test_training_with_a_shift_learns_what_taking_it_off_at_test_time_gives():
    """A model that fits the shifted loss has, unshifted, the logits of a plain model after the post-hoc step."""
    prior = log_prior(torch.tensor([2, 50, 700]))
    plain = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3])

    adjusted = post_hoc_logits(plain, prior, tau=0.7)

    value = logit_adjusted_cross_entropy(adjusted, labels, prior, tau=0.7)
    torch.testing.assert_close(value, torch.nn.functional.cross_entropy(plain, labels))


def test_strength_0_is_cross_entropy(frequencies):
    loss = build_loss("logit_adjustment", num_classes=2, frequencies=frequencies([1, 500]), tau=0.0)
    logits = torch.tensor([[1.0, 2.0, 0.5]])

    torch.testing.assert_close(
        loss(logits, torch.tensor([1]))["loss_cls"], torch.nn.functional.cross_entropy(logits, torch.tensor([1]))
    )
    torch.testing.assert_close(loss.scores(logits), logits.softmax(dim=1)[:, :2])


def test_post_hoc_strength_raises_rare_scores_only_at_test_time(frequencies):
    counts = frequencies([1, 500])
    plain = build_loss("logit_adjustment", num_classes=2, frequencies=counts, tau=0.0)
    post_hoc = build_loss("logit_adjustment", num_classes=2, frequencies=counts, tau=0.0, post_hoc_tau=1.0)
    logits = torch.zeros(1, 3)

    assert post_hoc(logits, torch.tensor([0])) == plain(logits, torch.tensor([0]))
    assert post_hoc.scores(logits)[0, 0] > plain.scores(logits)[0, 0]
    assert post_hoc.scores(logits)[0, 1] < plain.scores(logits)[0, 1]


def test_counts_are_of_annotations_unless_images_are_asked_for(frequencies):
    counts = frequencies([1, 10], [10, 1000])

    instances = build_loss("logit_adjustment", num_classes=2, frequencies=counts)
    images = build_loss("logit_adjustment", num_classes=2, frequencies=counts, count_source="images")

    assert instances.log_prior.tolist() == pytest.approx([-math.log(10), math.log(10), 0])
    assert images.log_prior.tolist() == pytest.approx([-math.log(10) / 2, math.log(10) / 2, 0])
