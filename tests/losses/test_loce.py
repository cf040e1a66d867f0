import copy
import math
from itertools import pairwise

import pytest
import torch

from lttune.losses import build_loss
from lttune.losses.loce import equilibrium_loss, mean_score_items, update_mean_score

CASES = ("small", "medium", "no_fg", "only_fg", "single_image_class", "extreme", "lvis")


@pytest.mark.parametrize("case", CASES)
def test_golden_values(golden, assert_golden, case):
    arrays = golden("ebl", case)
    logits = arrays["logits"].requires_grad_()

    value = equilibrium_loss(logits, arrays["labels"], arrays["mean_score"])
    value.backward()

    assert_golden(value, arrays["loss"])
    assert_golden(logits.grad, arrays["grad"])


@pytest.mark.parametrize("case", ["small", "medium", "padded", "alpha_0.5_bg_0.1", "alpha_0.99", "lvis"])
def test_golden_trajectory_of_the_mean_scores(golden, assert_golden, case):
    arrays = golden("loce_mean_score", case)
    mean_score = arrays["trajectory"][0]

    steps = pairwise(arrays["offsets"].tolist())
    for (start, end), expected in zip(steps, arrays["trajectory"][1:], strict=True):
        mean_score = update_mean_score(
            mean_score,
            arrays["labels"][start:end],
            arrays["scores"][start:end],
            momentum=float(arrays["alpha"]),
            background_score=float(arrays["bg_score"]),
        )
        assert_golden(mean_score, expected)


def test_golden_pass_of_two_images_and_a_memory(golden, assert_golden):
    arrays = golden("loce_mean_score", "full")
    num_rows, num_classes = len(arrays["logits"]), arrays["logits"].shape[1] - 1
    labels, instance_ids = torch.full((num_rows,), num_classes), torch.full((num_rows,), -1)
    num_instances = 0
    for image in (0, 1):
        instances, categories = arrays[f"pos_gt_inds_img{image}"], arrays[f"gt_labels_img{image}"]
        rows = slice(image * int(arrays["rois_per_image"]), image * int(arrays["rois_per_image"]) + len(instances))
        labels[rows] = categories[instances]
        instance_ids[rows] = instances + num_instances
        num_instances += len(categories)
    labels[-len(arrays["memory_labels"]) :] = arrays["memory_labels"]
    instance_ids[-len(arrays["memory_labels"]) :] = -2

    item_labels, item_scores = mean_score_items(arrays["logits"].softmax(dim=1), labels, instance_ids)
    mean_score = update_mean_score(arrays["mean_before"], item_labels, item_scores)

    ours = sorted(zip(item_labels.tolist(), item_scores.tolist(), strict=True))
    theirs = sorted(zip(arrays["item_labels"].tolist(), arrays["item_scores"].tolist(), strict=True))
    assert [label for label, _ in ours] == [label for label, _ in theirs]
    assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], rel=1e-10)
    assert_golden(mean_score, arrays["mean_after"])


def test_loss_by_hand():
    # Odds after the means: 0.5 * 2 : 0.25 * 4 : 1 * 1, so the true column has probability 1/3.
    logits = torch.tensor([[2.0, 4.0, 1.0]], dtype=torch.float64).log()
    mean_score = torch.tensor([0.5, 0.25, 1.0], dtype=torch.float64)

    assert equilibrium_loss(logits, torch.tensor([1]), mean_score).item() == pytest.approx(math.log(3))


def test_slow_loop():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 5, dtype=torch.float64, generator=generator)
    mean_score = torch.rand(5, dtype=torch.float64, generator=generator)
    labels = torch.tensor([0, 1, 1, 4, 3, 2, 4])

    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        # Competitor j is ahead by the margin log(m_j / m_y).
        rivals = sum(math.exp(z + math.log(mean_score[j] / mean_score[label])) for j, z in enumerate(row) if j != label)
        expected -= math.log(math.exp(row[label]) / (math.exp(row[label]) + rivals))

    assert equilibrium_loss(logits, labels, mean_score).item() == pytest.approx(expected / 7)


def test_margin_exponent_0_is_cross_entropy():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 2])

    value = equilibrium_loss(logits, labels, torch.tensor([0.1, 0.9, 0.01]), margin_exponent=0)

    torch.testing.assert_close(value, torch.nn.functional.cross_entropy(logits, labels))


def test_mean_score_of_0_stays_finite():
    value = equilibrium_loss(torch.zeros(1, 2), torch.tensor([0]), torch.zeros(2))

    assert value.item() == pytest.approx(math.log(2))


def test_items_by_hand():
    scores = torch.tensor([[0.5, 0.1, 0.4], [0.7, 0.1, 0.2], [0.2, 0.3, 0.5], [0.9, 0.1, 0.0], [0.3, 0.6, 0.1]])
    labels = torch.tensor([0, 0, 2, 0, 1])
    # Two RoIs of ground truth 5, one of background, two memory rows of different categories.
    item_labels, item_scores = mean_score_items(scores, labels, torch.tensor([5, 5, -1, -2, -2]))

    items = sorted(zip(item_labels.tolist(), item_scores.tolist(), strict=True))
    assert items == [(0, pytest.approx(0.6)), (0, pytest.approx(0.9)), (1, pytest.approx(0.6))]


def test_update_by_hand():
    mean_score = torch.tensor([0.5, 0.2, 0.7])
    labels, scores = torch.tensor([0, -1, 0]), torch.tensor([0.4, 0.9, 0.8])

    updated = update_mean_score(mean_score, labels, scores, momentum=0.9, background_score=0.05)

    # Two items of average 0.6: 0.81 * 0.5 + 0.19 * 0.6.
    torch.testing.assert_close(updated, torch.tensor([0.519, 0.2, 0.05]))
    assert mean_score[2] == 0.7


def test_no_item_changes_nothing_but_background():
    mean_score = torch.tensor([0.5, 0.2, 0.01])
    empty = torch.zeros(0)

    torch.testing.assert_close(update_mean_score(mean_score, empty.long(), empty), mean_score)


def test_mean_scores_move_before_the_loss_of_their_pass(frequencies):
    loss = build_loss("loce", num_classes=2, frequencies=frequencies([3, 30]), momentum=0.5)
    logits = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    score = logits.softmax(dim=1)[0, 0]

    value = loss(logits, torch.tensor([0]), instance_ids=torch.tensor([0]))["loss_cls"]

    expected = torch.stack([0.5 * 0.01 + 0.5 * score, torch.tensor(0.01), torch.tensor(0.01)])
    torch.testing.assert_close(loss.mean_score, expected.double())
    torch.testing.assert_close(value, equilibrium_loss(logits, torch.tensor([0]), expected))


def test_margin_exponent_reaches_the_loss(frequencies):
    loss = build_loss("loce", num_classes=2, frequencies=frequencies([3, 30]), margin_exponent=0.0)
    loss.mean_score.copy_(torch.tensor([0.9, 0.1, 0.01]))
    logits = torch.tensor([[1.0, 0.0, -1.0]])

    value = loss(logits, torch.tensor([0]))["loss_cls"]

    torch.testing.assert_close(value, torch.nn.functional.cross_entropy(logits, torch.tensor([0])))


def test_observe_moves_in_evaluation_mode(frequencies):
    loss = build_loss("loce", num_classes=2, frequencies=frequencies([3, 30])).eval()

    loss.observe(torch.zeros(1, 3), torch.tensor([1]))

    assert loss.mean_score.tolist() == pytest.approx([0.01, 0.9 * 0.01 + 0.1 / 3, 0.01])


def test_memory_reads_the_mean_scores_of_its_own_loss(frequencies):
    loss = build_loss("loce", num_classes=3, frequencies=frequencies([3, 30, 300]))
    other = copy.deepcopy(loss)
    for each in (loss, other):
        rows = torch.arange(3)
        each.augmenter.update(torch.eye(3), rows, torch.zeros(3, 4))
    # Only category 1 scores badly, as far as this loss knows.
    loss.mean_score.copy_(torch.tensor([1e6, 1e-6, 1e6, 0.01]))
    loss.double()

    _, labels, _ = loss.augmenter.sample(torch.Generator().manual_seed(0))
    _, other_labels, _ = other.augmenter.sample(torch.Generator().manual_seed(0))

    assert set(labels.tolist()) == {1}
    assert len(set(other_labels.tolist())) > 1


def test_memory_is_optional(frequencies):
    assert build_loss("loce", num_classes=1, frequencies=frequencies([3]), has_memory=False).augmenter is None


def test_images_before_training_fill_a_queue(frequencies):
    loss = build_loss("loce", num_classes=1, frequencies=frequencies([3]))
    assert loss.num_warm_images == 5
    assert build_loss("loce", num_classes=1, frequencies=frequencies([3]), queue_size=32).num_warm_images == 2
