import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lttune.losses.feature_memory import FeatureMemory, class_probabilities, draw_classes, jitter_boxes
from lttune.types import Target


@pytest.fixture
def memory():
    """Of three categories, of which the second scores worst by far."""
    mean_score = torch.tensor([0.9, 1e-4, 0.9, 0.01])
    return FeatureMemory(lambda: mean_score, queue_size=16)


def rows(label, numbers):
    """Rows of one category whose features and targets are their numbers."""
    numbers = torch.tensor(numbers, dtype=torch.float32)
    return numbers[:, None].repeat(1, 5), torch.full((len(numbers),), label), numbers[:, None].repeat(1, 4)


@pytest.mark.parametrize("case", ["small", "medium", "zeros", "lvis"])
def test_golden_probabilities_and_draws(golden, assert_golden, case):
    arrays = golden("mfs_probability", case)

    probabilities = class_probabilities(arrays["mean_score"])

    assert_golden(probabilities, arrays["probability"])
    assert torch.equal(draw_classes(probabilities, arrays["uniforms"]), arrays["selected"].long())


def test_golden_jitter(golden, assert_golden):
    arrays = golden("mfs_probability", "jitter")
    height, width = arrays["img_hw"].tolist()

    assert_golden(jitter_boxes(arrays["boxes"], (height, width), arrays["uniforms"]), arrays["proposals"])


def test_probabilities_by_hand():
    probabilities = class_probabilities(torch.tensor([0.5, 0.25, 0.01], dtype=torch.float64))

    torch.testing.assert_close(probabilities, torch.tensor([1 / 3, 2 / 3], dtype=torch.float64), rtol=1e-6, atol=0)


def test_draws_by_hand():
    drawn = draw_classes(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.9, 0.1, 0.5, 0.3]))

    assert drawn.tolist() == [0, 1, 1, 2]


def test_draw_above_the_rounded_total_is_the_last_category():
    assert draw_classes(torch.tensor([0.5, 0.499]), torch.tensor([0.9999])).tolist() == [1]


def test_jitter_by_hand():
    box = torch.tensor([[10.0, 20.0, 22.0, 44.0]])  # 12 wide, 24 high

    boxes = jitter_boxes(box, (100, 100), torch.ones(4, 16), amplitude=1 / 6)

    assert boxes[0].tolist() == [8.0, 16.0, 20.0, 40.0]
    assert boxes[1].tolist() == [8.0, 16.0, 20.0, 48.0]
    assert boxes[-1].tolist() == [12.0, 24.0, 24.0, 48.0]


@settings(max_examples=30, deadline=None)
@given(
    corner=st.tuples(st.floats(0, 90), st.floats(0, 90)),
    size=st.tuples(st.floats(1, 60), st.floats(1, 60)),
    seed=st.integers(0, 99),
    amplitude=st.floats(0.01, 0.49),
)
def test_jittered_boxes_stay_in_the_image_and_keep_their_corners_in_order(corner, size, seed, amplitude):
    box = torch.tensor([[*corner, corner[0] + size[0], corner[1] + size[1]]], dtype=torch.float64)
    uniforms = torch.rand(4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    boxes = jitter_boxes(box, (120, 110), uniforms, amplitude=amplitude)

    assert boxes.shape == (16, 4)
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([109, 119, 109, 119])).all()
    assert (boxes[:, 2:] >= boxes[:, :2]).all()


def test_boxes_share_their_draws_within_an_image(memory):
    boxes = torch.tensor([[10.0, 10.0, 30.0, 30.0], [40.0, 40.0, 60.0, 60.0]])
    targets = [Target(boxes=boxes, labels=torch.tensor([0, 1])), Target(boxes=boxes[:0], labels=torch.zeros(0).long())]

    first, second = memory.boxes(targets, [(90, 90), (90, 90)], torch.Generator().manual_seed(0))

    assert first.shape == (32, 4)
    assert second.shape == (0, 4)
    torch.testing.assert_close(first[16:] - first[:16], torch.full((16, 4), 30.0))


def test_oldest_rows_give_way(memory):
    memory.update(*rows(1, range(10)))
    memory.update(*rows(1, range(10, 20)))

    features, labels, box_targets = memory.sample(torch.Generator().manual_seed(0))

    assert memory.num_stored == {1: 16}
    assert set(memory.state_dict()["1.features"][:, 0].tolist()) == set(range(4, 20))
    assert set(labels.tolist()) == {1}
    assert set(features[:, 0].tolist()) <= set(range(4, 20))
    assert torch.equal(features[:, :4], box_targets)


def test_more_rows_than_places_at_once_is_as_one_by_one(memory):
    other = FeatureMemory(lambda: torch.ones(4), queue_size=16)
    memory.update(*rows(1, range(3)))
    memory.update(*rows(1, range(3, 40)))
    for number in range(40):
        other.update(*rows(1, [number]))

    for name, tensor in memory.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_categories_without_rows_give_none(memory):
    memory.update(*rows(0, [1.0]))

    features, labels, box_targets = memory.sample(torch.Generator().manual_seed(0))

    assert (len(features), len(labels), len(box_targets)) == (0, 0, 0)
    assert features.shape == (0, 5)


def test_memory_before_any_row(memory):
    features, labels, box_targets = memory.sample(torch.Generator())

    assert len(features) == len(labels) == len(box_targets) == 0


def test_number_of_drawn_rows():
    memory = FeatureMemory(lambda: torch.ones(3), queue_size=16, num_drawn_classes=5, num_drawn_features=3)
    memory.update(*rows(0, [1.0]))
    memory.update(*rows(1, [2.0, 3.0]))

    features, labels, _ = memory.sample(torch.Generator().manual_seed(0))

    assert len(features) == 15
    assert ((features[:, 0] == 1) == (labels == 0)).all()


def test_categories_are_drawn_by_their_mean_scores():
    memory = FeatureMemory(
        lambda: torch.tensor([0.1, 0.3, 0.01]), queue_size=16, num_drawn_classes=4000, num_drawn_features=1
    )
    memory.update(*rows(0, [1.0]))
    memory.update(*rows(1, [1.0]))

    _, labels, _ = memory.sample(torch.Generator().manual_seed(0))

    # Odds 3 : 1; 4 standard deviations.
    assert abs(int((labels == 0).sum()) - 3000) < 4 * math.sqrt(4000 * 0.75 * 0.25)


def test_memory_grows_with_the_categories_seen():
    memory = FeatureMemory(lambda: torch.ones(1204))
    assert memory.num_bytes == 0

    memory.update(torch.zeros(2, 1024), torch.tensor([3, 900]), torch.zeros(2, 4))

    assert memory.num_bytes == 2 * 80 * (1024 + 4) * 4


def test_stored_features_carry_no_graph(memory):
    features, labels, box_targets = rows(1, [1.0])
    memory.update(features.requires_grad_(), labels, box_targets)

    assert not memory.sample(torch.Generator())[0].requires_grad


def test_saved_memory_continues_as_before(memory):
    other = FeatureMemory(lambda: torch.tensor([0.9, 1e-4, 0.9, 0.01]), queue_size=16)
    memory.update(*rows(1, range(20)))
    other.update(*rows(2, [7.0]))

    other.load_state_dict({name: tensor.clone() for name, tensor in memory.state_dict().items()})
    for each in (memory, other):
        each.update(*rows(1, [20, 21, 22]))
    drawn, other_drawn = (each.sample(torch.Generator().manual_seed(0)) for each in (memory, other))

    assert other.num_stored == {1: 16}
    assert all(torch.equal(a, b) for a, b in zip(drawn, other_drawn, strict=True))
