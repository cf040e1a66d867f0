from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lttune.data.frequency import category_frequencies, frequency_groups, groups_of, unique_pairs
from lttune.errors import DataError, InputError
from lttune.types import Annotations


def test_groups_change_after_10_and_100_images() -> None:
    counts = np.array([0, 1, 10, 11, 100, 101, 5000])
    assert frequency_groups(counts).tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_images_and_instances_are_counted(make_annotations: Callable[..., Annotations]) -> None:
    pairs = [(0, 1), (0, 1), (2, 1), (1, 0)]
    frequencies = category_frequencies(make_annotations(pairs, num_images=3, num_categories=3))
    assert frequencies.image_count.tolist() == [1, 2, 0]
    assert frequencies.instance_count.tolist() == [1, 3, 0]
    assert frequencies.group.tolist() == [0, 0, 0]


def test_no_annotations_are_no_error(make_annotations: Callable[..., Annotations]) -> None:
    frequencies = category_frequencies(make_annotations([], num_images=2, num_categories=2))
    assert frequencies.image_count.tolist() == [0, 0]


def test_instances_are_counted_as_often_as_their_image_is_shown(make_annotations: Callable[..., Annotations]) -> None:
    # Category 0 lies in all three images and 1 in the last, which is shown sqrt(0.75 / (1/3)) = 1.5 times.
    pairs = [(0, 0), (1, 0), (2, 0), (2, 0), (2, 1)]
    annotations = make_annotations(pairs, num_images=3, num_categories=3)
    repeated = category_frequencies(annotations, repeat_threshold=0.75).repeated_instance_count
    assert repeated is not None
    assert repeated.tolist() == pytest.approx([5.0, 1.5, 0])
    # At LVIS's threshold nothing in so small a set is rare.
    unrepeated = category_frequencies(annotations).repeated_instance_count
    assert unrepeated is not None
    assert unrepeated.tolist() == [4, 1, 0]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4))))
def test_pairs_are_those_of_a_set(pairs: list[tuple[int, int]]) -> None:
    table = np.array(pairs, np.int64).reshape(-1, 2)
    assert unique_pairs(table[:, 0], table[:, 1], 5).tolist() == [list(pair) for pair in sorted(set(pairs))]


def test_limits_of_the_groups_are_open(make_annotations: Callable[..., Annotations]) -> None:
    counts = np.array([0, 3, 4, 8, 9])
    assert frequency_groups(counts, max_rare=3, max_common=8).tolist() == [0, 0, 1, 1, 2]
    annotations = make_annotations([(0, 0), (1, 0), (0, 1)], num_images=2, num_categories=2)
    assert category_frequencies(annotations, max_rare=1, max_common=5).group.tolist() == [1, 0]


@pytest.mark.parametrize("limits", [(10, 10), (11, 10), (-1, 10)])
def test_limits_must_ascend(limits: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"groups end at {limits[0]} and {limits[1]} images; use two ascending"):
        frequency_groups(np.array([1]), max_rare=limits[0], max_common=limits[1])


def test_groups_come_from_the_training_annotations(make_annotations: Callable[..., Annotations]) -> None:
    train = make_annotations([(i, 0) for i in range(12)], num_images=12, num_categories=2)
    val = make_annotations([(0, 0)], num_images=1, num_categories=2)
    assert groups_of(val, train).tolist() == [1, 0]
    with pytest.raises(DataError, match="both files must list the same category ids"):
        groups_of(make_annotations([], num_images=1, num_categories=3), train)
