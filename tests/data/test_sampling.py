import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lttune.data.sampling import repeat_factors, repeat_order, uniform_order
from lttune.types import Annotations

_SEEDS = st.integers(0, 2**32)


@given(st.integers(0, 50), _SEEDS, st.integers(0, 100))
def test_a_uniform_order_is_a_permutation_and_a_function_of_its_arguments(n: int, seed: int, epoch: int) -> None:
    order = uniform_order(n, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(n))
    assert np.array_equal(order, uniform_order(n, seed=seed, epoch=epoch))


def test_orders_differ_between_epochs_and_seeds() -> None:
    orders = [uniform_order(100, seed=s, epoch=e).tolist() for s, e in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({tuple(order) for order in orders}) == 4


def test_repeat_factors_by_hand(make_annotations: Callable[..., Annotations]) -> None:
    # Image 4 has no annotation: four count. f is 3/4 for category 0, 1/4 for 1; category 2 never occurs.
    pairs = [(0, 0), (1, 0), (2, 0), (2, 0), (3, 1)]
    annotations = make_annotations(pairs, num_images=5, num_categories=3)
    factors = repeat_factors(annotations, threshold=0.81)
    frequent, rare = math.sqrt(0.81 / 0.75), math.sqrt(0.81 / 0.25)
    assert factors == pytest.approx([frequent, frequent, frequent, rare, 1.0])
    assert repeat_factors(annotations, threshold=0.5) == pytest.approx([1, 1, 1, math.sqrt(2), 1])


def test_an_image_takes_the_largest_factor_of_its_categories(make_annotations: Callable[..., Annotations]) -> None:
    pairs = [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1)]
    factors = repeat_factors(make_annotations(pairs, num_images=4, num_categories=2), threshold=1.0)
    assert factors == pytest.approx([1, 1, 1, 2])


def test_no_annotations_give_factors_of_one(make_annotations: Callable[..., Annotations]) -> None:
    assert repeat_factors(make_annotations([], num_images=3, num_categories=2), threshold=1e-3).tolist() == [1, 1, 1]


_FACTORS = st.lists(st.floats(1, 5), max_size=20).map(np.array)


@given(_FACTORS, _SEEDS, st.integers(0, 100))
def test_whole_rounding_repeats_by_the_ceiling(factors: np.ndarray, seed: int, epoch: int) -> None:
    order = repeat_order(factors, seed=seed, epoch=epoch, rounding="whole")
    assert np.bincount(order, minlength=len(factors)).tolist() == np.ceil(factors).tolist()
    assert np.array_equal(order, repeat_order(factors, seed=seed, epoch=epoch, rounding="whole"))


@given(_FACTORS, _SEEDS, st.integers(0, 100))
def test_stochastic_rounding_stays_within_one(factors: np.ndarray, seed: int, epoch: int) -> None:
    order = repeat_order(factors, seed=seed, epoch=epoch, rounding="stochastic")
    copies = np.bincount(order, minlength=len(factors))
    assert ((copies == np.floor(factors)) | (copies == np.ceil(factors))).all()
    assert np.array_equal(order, repeat_order(factors, seed=seed, epoch=epoch, rounding="stochastic"))


def test_stochastic_rounding_keeps_the_mean() -> None:
    factors = np.full(10_000, 1.3)
    assert len(repeat_order(factors, seed=0, epoch=0, rounding="stochastic")) == pytest.approx(13_000, abs=200)


def test_repeated_images_are_shuffled() -> None:
    order = repeat_order(np.full(100, 2.0), seed=0, epoch=0, rounding="whole")
    assert order.tolist() != sorted(order.tolist())
    assert order.tolist() != repeat_order(np.full(100, 2.0), seed=0, epoch=1, rounding="whole").tolist()
