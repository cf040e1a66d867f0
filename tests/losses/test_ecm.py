import math
from dataclasses import replace

import pytest
import torch

from lttune.errors import InputError
from lttune.losses import build_loss
from lttune.losses.ecm import FG_BG_RATIO, ecm_loss, ecm_statistics

CASES = ("small", "medium", "no_fg", "only_fg", "single_image_class", "extreme")


@pytest.mark.parametrize("case", CASES)
def test_golden_values(golden, assert_golden, case):
    arrays = golden("ecm", case)
    logits = arrays["logits"].requires_grad_()
    ratio = float(arrays["fg_bg_ratio"])

    statistics = ecm_statistics(arrays["class_count"], fg_bg_ratio=ratio)
    value = ecm_loss(logits, arrays["labels"], arrays["class_count"], fg_bg_ratio=ratio)
    value.backward()

    assert_golden(statistics.positive_margin, arrays["pos_w"])
    assert_golden(statistics.negative_margin, arrays["neg_w"])
    assert_golden(statistics.class_weight, arrays["cls_weight"])
    assert_golden(value, arrays["loss"])
    assert_golden(logits.grad, arrays["grad"])


def test_golden_values_of_lvis_in_float64(golden, assert_golden):
    """The published float32 weights are off by up to 17 %; the same formulas in float64 are what we match."""
    arrays = golden("ecm", "lvis")
    logits = arrays["logits"].requires_grad_()

    statistics = ecm_statistics(arrays["class_count"])
    value = ecm_loss(logits, arrays["labels"], arrays["class_count"])
    value.backward()

    assert_golden(statistics.positive_margin, arrays["pos_w"])
    assert_golden(statistics.negative_margin, arrays["neg_w"])
    assert_golden(statistics.class_weight, arrays["cls_weight_f64"], 1e-9)
    assert_golden(value, arrays["loss_f64"], 1e-5)
    assert_golden(logits.grad, arrays["grad_f64"])
    in_float64 = ecm_loss(arrays["logits"].detach().double(), arrays["labels"], arrays["class_count"])
    assert_golden(in_float64, arrays["loss_f64"], 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_golden_scores(golden, assert_golden, frequencies, case):
    arrays = golden("ecm", case)
    counts = arrays["class_count"].tolist()
    loss = build_loss("ecm", num_classes=len(counts), frequencies=frequencies(counts))

    assert_golden(loss.scores(arrays["logits"]), arrays["scores"][:, :-1])


def test_statistics_by_hand():
    # One category of 16 against a background of 256 * 16: ratios 256 and 1/256, fourth roots 4 and 1/4.
    statistics = ecm_statistics(torch.tensor([16]), fg_bg_ratio=256)

    assert statistics.positive_margin.tolist() == pytest.approx([math.log(1.25), math.log(5)])
    assert statistics.negative_margin.tolist() == pytest.approx([math.log(5), math.log(1.25)])
    assert statistics.class_weight.tolist() == pytest.approx([256 * math.log1p(1 / 256), math.log(257) / 256])


def test_background_has_the_same_shift_and_weight_in_every_dataset():
    for counts in ([1], [3, 40], [5, 6, 7000]):
        statistics = ecm_statistics(torch.tensor(counts))
        shift = statistics.positive_margin[-1] - statistics.negative_margin[-1]
        assert shift.item() == pytest.approx(math.log(FG_BG_RATIO) / 4)
        assert statistics.class_weight[-1].item() == pytest.approx(0.3147, abs=5e-5)


def test_slow_loop_from_the_published_score():
    """With p = e^(z+p) / (e^(z+p) + e^(-z+n)) as printed, instead of the closed form."""
    counts = [1, 10, 500]
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 2, 1, 3])

    own = [*counts, 6.3313 * sum(counts)]
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        for column, z in enumerate(row):
            n, others = own[column], sum(own) - own[column]
            root, other_root = n**0.25, others**0.25
            positive, negative = -math.log(other_root / (root + other_root)), -math.log(root / (root + other_root))
            ahead, behind = math.exp(z + positive), math.exp(-z + negative)
            score = ahead / (ahead + behind)
            weight = others / n * math.log(1 + n / others)
            expected -= weight * math.log(score if column == label else 1 - score)

    assert ecm_loss(logits, labels, torch.tensor(counts)).item() == pytest.approx(expected / 5)


def test_weights_stay_below_1_where_float32_would_not():
    weight = ecm_statistics(torch.tensor([1, 1_270_141])).class_weight

    assert (weight < 1).all()
    assert weight[0].item() == pytest.approx(1, abs=1e-6)


def test_category_without_occurrence_counts_as_one():
    never, once = (ecm_statistics(torch.tensor([count, 9])) for count in (0, 1))

    torch.testing.assert_close(never.positive_margin, once.positive_margin)
    torch.testing.assert_close(never.class_weight, once.class_weight)


def test_module_equals_function(frequencies):
    counts = frequencies([2, 30, 400], [5, 31, 900])
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 3, 3])

    instances = build_loss("ecm", num_classes=3, frequencies=counts)(logits, labels)["loss_cls"]
    images = build_loss("ecm", num_classes=3, frequencies=counts, count_source="images")(logits, labels)["loss_cls"]

    torch.testing.assert_close(instances, ecm_loss(logits, labels, counts.instance_count))
    torch.testing.assert_close(images, ecm_loss(logits, labels, counts.image_count))


def test_counts_can_follow_repeat_factor_sampling(frequencies):
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 3, 3])
    repeated = torch.tensor([12.5, 33.0, 900.0], dtype=torch.float64)
    counts = replace(frequencies([2, 30, 400], [5, 31, 900]), repeated_instance_count=repeated)

    loss = build_loss("ecm", num_classes=3, frequencies=counts, count_source="rfs")(logits, labels)["loss_cls"]

    torch.testing.assert_close(loss, ecm_loss(logits, labels, repeated))


def test_counts_that_nobody_made_are_refused(frequencies):
    with pytest.raises(InputError, match=r"loss\.count_source is rfs, but .* no repeated_instance_count; take them"):
        build_loss("ecm", num_classes=1, frequencies=frequencies([3]), count_source="rfs")


def test_extensions_at_0_leave_a_plain_sigmoid(frequencies):
    logits = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 2, 2, 2])
    loss = build_loss(
        "ecm",
        num_classes=2,
        frequencies=frequencies([2, 400]),
        margin_exponent=0.0,
        class_weight_power=0.0,
        logit_factor=1.0,
    )

    target = torch.nn.functional.one_hot(labels, 3).double()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum") / 6
    torch.testing.assert_close(loss(logits, labels)["loss_cls"], expected)


def test_background_can_stay_a_plain_column(frequencies):
    logits = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 2, 2, 2])
    counts = frequencies([2, 400], [3, 81])
    loss = build_loss("ecm", num_classes=2, frequencies=counts, background_as_class=False)

    # Two categories: the others of one are the other, so shifts are (1/4) log(3/81) and its opposite.
    shift = torch.tensor([math.log(3 / 81) / 4, math.log(81 / 3) / 4], dtype=torch.float64)
    weight = torch.tensor([27 * math.log1p(1 / 27), math.log1p(27) / 27, 1], dtype=torch.float64)
    moved = torch.cat([2 * logits[:, :2] + shift, logits[:, 2:]], dim=1)
    target = torch.nn.functional.one_hot(labels, 3).double()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(moved, target, weight, reduction="sum") / 6
    torch.testing.assert_close(loss(logits, labels)["loss_cls"], expected)
