from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lttune.data.segmentations import PackedSegmentations, pack_segmentations

_NUMBERS = st.one_of(st.integers(-1000, 1000), st.floats(allow_nan=False, allow_infinity=False))
_SIZE = st.lists(st.integers(1, 5000), min_size=2, max_size=2)
_SEGMENTATIONS = st.one_of(
    st.none(),
    st.lists(st.lists(_NUMBERS, max_size=8), max_size=3),
    st.fixed_dictionaries({"size": _SIZE, "counts": st.text("0123abcP", max_size=12)}),
    st.fixed_dictionaries({"size": _SIZE, "counts": st.lists(st.integers(0, 1 << 40), max_size=6)}),
)


@given(st.lists(_SEGMENTATIONS, max_size=6))
def test_what_is_packed_comes_back(segmentations: list[Any]) -> None:
    assert list(PackedSegmentations(pack_segmentations(segmentations))) == segmentations


@pytest.mark.parametrize(
    "odd",
    [
        "text",
        7,
        [["1", "2"]],
        [1, 2, 3],
        [[1.0, True]],
        [[2**60, 1]],
        {"size": [4, 6]},
        {"size": [4, 6], "counts": "ab", "more": 1},
        {"size": ["4", 6], "counts": "ab"},
        {"size": [4, 6], "counts": [-1, 2]},
        {"size": [4, 6], "counts": [1.5]},
        {"size": [4, 6], "counts": "é"},
        {},
    ],
)
def test_other_forms_come_back_as_they_are(odd: object) -> None:
    packed = PackedSegmentations(pack_segmentations([None, odd, [[1.0, 2.0]]]))
    assert packed[1] == odd
    assert type(packed[1]) is type(odd)
    assert packed[2] == [[1.0, 2.0]]


def test_rows_are_counted_from_either_end() -> None:
    packed = PackedSegmentations(pack_segmentations([[[1, 2]], None]))
    assert (len(packed), packed[-2], packed[-1]) == (2, [[1, 2]], None)
    with pytest.raises(IndexError):
        packed[2]
    assert packed.are_present.tolist() == [True, False]


def test_numbers_lie_in_one_array() -> None:
    columns = pack_segmentations([[[1, 2], [3, 4, 5, 6]], {"size": [4, 6], "counts": "ab"}])
    assert columns["segmentation_numbers"].tolist() == [1, 2, 3, 4, 5, 6, 4, 6]
    assert columns["segmentation_numbers"].dtype == np.float64
    assert columns["segmentation_text"].tobytes() == b"ab"
