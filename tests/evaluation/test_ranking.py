import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lttune.evaluation.ranking import place_in_group, rank


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from([-2.0, -0.0, 0.0, 1e-45, 0.25, 0.5, 0.1, 3.4e38, 1e300, -1e-300]))
    ),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_by_group_then_score_then_row(rows: list[tuple[int, float]], dtype: type) -> None:
    group = np.array([row[0] for row in rows], np.int64)
    with np.errstate(over="ignore"):
        score = np.nan_to_num(np.array([row[1] for row in rows], dtype))
    expected = sorted(range(len(rows)), key=lambda i: (group[i], -score[i], i))
    assert rank(group, score).tolist() == expected


def test_scores_that_do_not_fit_a_word_are_ranked_all_the_same() -> None:
    # 31 bits of score, 34 of group.
    group, score = np.array([1 << 33, 0, 1 << 33]), np.array([-1.0, 1.0, 2.0], np.float32)
    assert rank(group, score).tolist() == [1, 2, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_place_in_group(dtype: type) -> None:
    score = np.array([0.1, 0.3, 0.2, 0.3, 0.9], dtype)
    assert place_in_group(np.array([2, 0, 2, 0, 2]), score).tolist() == [2, 0, 1, 1, 0]
