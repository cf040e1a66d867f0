import math

import pytest
import torch

from lttune.losses import build_loss
from lttune.losses.seesaw import seesaw_loss

CASES = ("small", "medium", "no_fg", "only_fg", "single_image_class", "extreme")


def check_golden(arrays, variant):
    p, q, eps = arrays[f"hyper{variant}"].tolist()
    logits = arrays["logits"].requires_grad_()
    tolerance = 1e-10 if logits.dtype == torch.float64 else 1e-5

    terms = seesaw_loss(logits, arrays["labels"], arrays["cum_after"], p=p, q=q, eps=eps)
    sum(terms.values()).backward()

    assert set(terms) == {"loss_objectness", "loss_classes"}
    for name, value in terms.items():
        torch.testing.assert_close(value, arrays[f"{name}{variant}"], rtol=tolerance, atol=0)
    largest = arrays[f"grad{variant}"].abs().max()
    assert (logits.grad - arrays[f"grad{variant}"]).abs().max() <= tolerance * largest


@pytest.mark.parametrize("variant", ["", "_v1", "_v2", "_v3"])
@pytest.mark.parametrize("case", CASES)
def test_golden_values(golden, case, variant):
    check_golden(golden("seesaw", case), variant)


def test_golden_values_of_lvis(golden):
    check_golden(golden("seesaw", "lvis"), "")


@pytest.mark.parametrize("case", [*CASES, "lvis"])
def test_golden_scores(golden, assert_golden, frequencies, case):
    arrays = golden("seesaw", case)
    num_classes, rows = len(arrays["cum_after"]) - 1, len(arrays["scores"])
    loss = build_loss("seesaw", num_classes=num_classes, frequencies=frequencies([1] * num_classes))

    assert_golden(loss.scores(arrays["logits"][:rows]), arrays["scores"][:, :-1])


def test_by_hand():
    # Raw odds 1 : 3. The rival has a quarter of the counts (mitigation 1/2 at p = 1/2) and thrice the score
    # (compensation 9 at q = 2), so odds become 1 : 3 * 9 / 2 and the true category has 2 / 29.
    logits = torch.tensor([[1.0, 3.0, 3.0, 1.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64).log()

    terms = seesaw_loss(logits, torch.tensor([0, 2]), torch.tensor([8, 2, 7]), p=0.5, q=2.0)

    assert terms["loss_classes"].item() == pytest.approx(math.log(29 / 2) / 2)
    assert terms["loss_objectness"].item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_slow_loop():
    generator = torch.Generator().manual_seed(0)
    num_classes, p, q, eps = 4, 0.8, 2.0, 0.2
    logits = 2 * torch.randn(6, num_classes + 2, dtype=torch.float64, generator=generator)
    labels, counts = torch.tensor([0, 1, 3, 2, 4, 4]), [100, 20, 3, 0, 500]

    classes = objectness = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        foreground, background = math.exp(row[-2]), math.exp(row[-1])
        objectness -= math.log((background if label == num_classes else foreground) / (foreground + background))
        if label == num_classes:
            continue
        odds = [math.exp(z) for z in row[:num_classes]]
        score = [value / sum(odds) for value in odds]
        rivals = 0.0
        for j in range(num_classes):
            if j != label:
                ratio = max(counts[j], 1) / max(counts[label], 1)
                mitigation = ratio**p if ratio < 1 else 1
                ratio = score[j] / max(score[label], eps)
                compensation = ratio**q if ratio > 1 else 1
                rivals += mitigation * compensation * odds[j]
        classes -= math.log(odds[label] / (odds[label] + rivals))

    terms = seesaw_loss(logits, labels, torch.tensor(counts), p=p, q=q, eps=eps)

    assert terms["loss_classes"].item() == pytest.approx(classes / 6)
    assert terms["loss_objectness"].item() == pytest.approx(objectness / 6)


def test_gradient_is_the_derivative_while_factors_are_constant():
    """Compensation follows the scores without a gradient, so finite differences hold at q = 0."""
    logits = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels, counts = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([9, 3, 0, 50])

    assert torch.autograd.gradcheck(lambda z: sum(seesaw_loss(z, labels, counts, q=0.0).values()), logits)


def test_p_and_q_of_0_leave_cross_entropy():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 2, 1])

    classes = seesaw_loss(logits, labels, torch.tensor([9, 3, 1, 5]), p=0, q=0)["loss_classes"]

    torch.testing.assert_close(classes, torch.nn.functional.cross_entropy(logits[:, :3], labels))


def test_counts_are_of_rois_and_include_the_batch(frequencies):
    loss = build_loss("seesaw", num_classes=2, frequencies=frequencies([3, 30]))
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 2])

    terms = loss(logits, labels)

    assert loss.counts.tolist() == [2, 1, 1]
    assert loss.counts.dtype == torch.int64
    assert terms == seesaw_loss(logits, labels, torch.tensor([2, 1, 1]))


def test_without_objectness_background_is_one_more_category(frequencies):
    # Raw odds 1 : 3 : 4 of two categories and background. Of the first row (label 0) the rival has a quarter of the
    # counts (mitigation 1/2) and thrice the score (9), background more counts (1) and four times the score (16):
    # 1 : 27/2 : 64. Of the second (background) categories have fewer counts, (8/32)^p and (2/32)^p, and lower scores.
    loss = build_loss("seesaw", num_classes=2, frequencies=frequencies([3, 30]), objectness=False, p=0.5).eval()
    loss.counts.copy_(torch.tensor([8, 2, 32]))
    logits = torch.tensor([[1.0, 3.0, 4.0]] * 2, dtype=torch.float64).log()

    terms = loss(logits, torch.tensor([0, 2]))

    assert loss.num_logits == 3
    expected = (math.log(1 + 27 / 2 + 64) + math.log((4 + 1 / 2 + 3 / 4) / 4)) / 2
    assert {name: value.item() for name, value in terms.items()} == pytest.approx({"loss_cls": expected})
    torch.testing.assert_close(loss.scores(logits[:1]), torch.tensor([[1 / 8, 3 / 8]], dtype=torch.float64))


def test_counts_of_the_dataset_stay(frequencies):
    loss = build_loss("seesaw", num_classes=2, frequencies=frequencies([3, 30], [4, 50]), count_source="dataset")

    loss(torch.zeros(2, 4), torch.tensor([0, 2]))

    assert loss.counts.tolist() == [4, 50, 54]
    assert "counts" not in loss.state_dict()
