import math

import pytest
import torch

from lttune.errors import InputError
from lttune.losses import build_loss
from lttune.losses.acsl import acsl_loss, weight_mask

CASES = ("small", "medium", "no_fg", "only_fg", "single_image_class", "extreme", "lvis")
PUBLISHED_RATIOS = (0.01, 0.1, 1.0)


def published_mask(arrays, generator):
    return weight_mask(
        arrays["logits"],
        arrays["labels"],
        score_threshold=float(arrays["score_thr"]),
        frequency_group=arrays["freq_group"].long(),
        background_ratios=PUBLISHED_RATIOS,
        generator=generator,
    )


@pytest.mark.parametrize("case", [*CASES, "medium_thr0.3", "medium_thr0.9", "bg_heavy"])
def test_golden_values(golden, assert_golden, case):
    arrays = golden("acsl", case)
    logits = arrays["logits"].requires_grad_()

    value = acsl_loss(logits, arrays["labels"], arrays["weight_mask"])
    value.backward()

    assert_golden(value, arrays["loss"])
    assert_golden(logits.grad, arrays["grad"])


@pytest.mark.parametrize("case", [*CASES, "medium_thr0.3", "medium_thr0.9", "bg_heavy"])
def test_golden_masks(golden, case):
    """Foreground rows do not depend on the draws; of background rows the published number has each group on."""
    arrays = golden("acsl", case)
    mask = published_mask(arrays, torch.Generator().manual_seed(0))
    recorded, group = arrays["weight_mask"], arrays["freq_group"]
    is_background = arrays["labels"] == len(group)

    assert torch.equal(mask[~is_background], recorded[~is_background])
    for number in range(3):
        columns = (group == number).nonzero()[:, 0]
        ours, theirs = mask[is_background][:, columns], recorded[is_background][:, columns]
        assert torch.equal(ours.sum(dim=0), theirs.sum(dim=0))
        assert torch.equal(ours.any(dim=1), ours.all(dim=1)) or len(columns) == 0
    assert mask[is_background, -1].all()


def test_draws_are_distributed_as_in_400_published_runs(golden):
    arrays = golden("acsl", "bg_heavy")
    runs = int(arrays["repeats"])
    group, labels = arrays["freq_group"], arrays["labels"]
    is_background = labels == len(group)
    num_background = int(is_background.sum())
    generator = torch.Generator().manual_seed(1)
    masks = [published_mask(arrays, generator) for _ in range(runs)]
    columns = {name: int((group == number).nonzero()[0]) for name, number in (("rare", 0), ("common", 1))}
    drawn = {name: torch.stack([mask[is_background, column] for mask in masks]) for name, column in columns.items()}

    for name, ratio in (("rare", 0.01), ("common", 0.1)):
        size = int(ratio * num_background)
        hits, recorded = drawn[name].sum(dim=0).double(), arrays[f"{name}_row_hits"][is_background]
        assert (drawn[name].sum(dim=1) == size).all()
        assert hits.sum() == recorded.sum()
        # Sums of squared deviations follow a chi-square of n - 1 degrees; 4 standard deviations.
        share = size / num_background
        spread = (
            ((hits - runs * share) ** 2).sum() / (runs * share * (1 - share)) * (num_background - 1) / num_background
        )
        assert abs(spread - (num_background - 1)) < 4 * math.sqrt(2 * (num_background - 1))

    # Independent subsets meet by chance only.
    meetings = (drawn["rare"] & drawn["common"]).sum().double()
    expected = runs * int(0.01 * num_background) * int(0.1 * num_background) / num_background
    assert abs(meetings - expected) < 4 * math.sqrt(expected)
    assert abs(arrays["both_rows_total"] - expected) < 4 * math.sqrt(expected)

    ours = torch.stack([acsl_loss(arrays["logits"], labels, mask) for mask in masks])
    theirs = arrays["loss_repeats"]
    standard_error = math.sqrt(float(ours.var() + theirs.var()) / runs)
    assert abs(ours.mean() - theirs.mean()) < 4 * standard_error


def test_mask_by_hand():
    # Columns: rare, common, frequent, background. Every ratio is 1 or 0, so nothing is left to chance.
    logits = torch.tensor([[2.0, -2.0, 2.0, 2.0], [-2.0, 2.0, -2.0, -2.0], [2.0, 2.0, -2.0, -2.0]])
    labels = torch.tensor([1, 0, 3])

    mask = weight_mask(
        logits,
        labels,
        score_threshold=0.7,
        frequency_group=torch.tensor([0, 1, 2]),
        background_ratios=(0.0, 1.0, 1.0),
        generator=torch.Generator(),
    )

    # sigmoid(2) = 0.88. A background RoI ignores the threshold: its rare column is off although it scores 0.88.
    expected = [[True, True, True, True], [True, True, False, False], [False, True, True, True]]
    assert mask.tolist() == expected
    wanted = sum(
        math.log1p(math.exp(-z if column == label else z))
        for row, label, keep in zip(logits.tolist(), labels.tolist(), expected, strict=True)
        for column, (z, on) in enumerate(zip(row, keep, strict=True))
        if on
    )
    assert acsl_loss(logits, labels, mask).item() == pytest.approx(wanted / 3)


def test_threshold_is_inclusive():
    mask = weight_mask(
        torch.zeros(1, 2),
        torch.tensor([0]),
        score_threshold=0.5,
        frequency_group=torch.tensor([0]),
        background_ratios=PUBLISHED_RATIOS,
        generator=torch.Generator(),
    )

    assert mask.tolist() == [[True, True]]


@pytest.mark.parametrize(("num_background", "sizes"), [(9, (0, 0, 9)), (99, (0, 9, 99)), (100, (1, 10, 100))])
def test_sizes_are_truncated(num_background, sizes):
    mask = weight_mask(
        torch.zeros(num_background + 3, 4),
        torch.tensor([0, 1, 2] + [3] * num_background),
        score_threshold=0.9,
        frequency_group=torch.tensor([0, 1, 2]),
        background_ratios=PUBLISHED_RATIOS,
        generator=torch.Generator().manual_seed(3),
    )

    assert tuple(mask[3:, :3].sum(dim=0).tolist()) == sizes


def test_stochastic_rounding_keeps_the_mean():
    """10 background RoIs at ratio 0.05 draw none when truncated, and one every second time when not."""
    generator = torch.Generator().manual_seed(0)
    sizes = [
        int(
            weight_mask(
                torch.zeros(10, 2),
                torch.ones(10, dtype=torch.int64),
                score_threshold=0.9,
                frequency_group=torch.tensor([0]),
                background_ratios=(0.05, 0.0, 0.0),
                generator=generator,
                rounding="stochastic",
            )[:, 0].sum()
        )
        for _ in range(400)
    ]

    assert set(sizes) == {0, 1}
    assert abs(sum(sizes) - 200) < 4 * math.sqrt(100)


@pytest.mark.parametrize("rounding", ["truncate", "stochastic"])
def test_whole_shares_are_exact(rounding):
    mask = weight_mask(
        torch.zeros(8, 2),
        torch.ones(8, dtype=torch.int64),
        score_threshold=0.9,
        frequency_group=torch.tensor([2]),
        background_ratios=(0.0, 0.0, 1.0),
        generator=torch.Generator().manual_seed(0),
        rounding=rounding,
    )

    assert mask.all()


def test_ratios_reach_their_groups(frequencies):
    loss = build_loss(
        "acsl",
        num_classes=3,
        frequencies=frequencies([1, 50, 500]),
        generator=torch.Generator(),
        background_ratio_rare=1.0,
        background_ratio_common=0.0,
        background_ratio_frequent=0.0,
    )
    logits = torch.zeros(4, 4, requires_grad=True)

    loss(logits, torch.full((4,), 3))["loss_cls"].backward()

    assert (logits.grad != 0).tolist() == [[True, False, False, True]] * 4


def test_shares_are_of_the_background_of_each_process(frequencies):
    """150 background RoIs each of two images: 3 rare draws of the batch, but 1 each of two processes of one image."""
    drawn = {}
    for images_per_process in (None, 1):
        loss = build_loss(
            "acsl",
            num_classes=1,
            frequencies=frequencies([3]),
            generator=torch.Generator().manual_seed(0),
            images_per_process=images_per_process,
        )
        logits = torch.zeros(300, 2, requires_grad=True)
        image_ids = torch.arange(300) % 2
        loss(logits, torch.ones(300, dtype=torch.int64), image_ids=image_ids)["loss_cls"].backward()
        drawn[images_per_process] = [int((logits.grad[image_ids == image, 0] != 0).sum()) for image in (0, 1)]

    assert sum(drawn[None]) == 3
    assert drawn[1] == [1, 1]


def test_training_without_a_generator_is_refused(frequencies):
    loss = build_loss("acsl", num_classes=1, frequencies=frequencies([3]))

    with pytest.raises(InputError, match=r"built without a generator; pass a torch\.Generator"):
        loss(torch.zeros(1, 2), torch.tensor([1]))


def test_message_of_a_bad_threshold(frequencies):
    with pytest.raises(InputError) as caught:
        build_loss("acsl", num_classes=1, frequencies=frequencies([3]), score_threshold=1.2)

    assert str(caught.value) == (
        "loss.score_threshold is 1.2; ACSL compares it with a sigmoid score, use a value in (0, 1)."
    )
