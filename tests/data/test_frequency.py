from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lttune.data.frequency import category_frequencies, frequency_groups, unique_pairs
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


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4))))
def test_pairs_are_those_of_a_set(pairs: list[tuple[int, int]]) -> None:
    table = np.array(pairs, np.int64).reshape(-1, 2)
    assert unique_pairs(table[:, 0], table[:, 1], 5).tolist() == [list(pair) for pair in sorted(set(pairs))]
