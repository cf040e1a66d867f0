from collections.abc import Callable
from itertools import product
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lttune.data.lvis import annotations_from_document
from lttune.data.split import SPLIT_SALT, Halves, split_halves
from lttune.types import Annotations

Make = Callable[..., Annotations]
Pairs = list[tuple[int, int]]

_NUM_CATEGORIES = 6


@st.composite
def _sets(draw: st.DrawFn, max_images: int = 30) -> tuple[int, Pairs, Pairs]:
    """Number of images, positive pairs and negative pairs."""
    num_images = draw(st.integers(1, max_images))
    pairs = st.lists(st.tuples(st.integers(0, num_images - 1), st.integers(0, _NUM_CATEGORIES - 1)), max_size=40)
    return num_images, draw(pairs), draw(pairs)


def _split(make: Make, num_images: int, positive: Pairs, negative: Pairs) -> Halves:
    return split_halves(make(positive, num_images=num_images, num_categories=_NUM_CATEGORIES, negative=negative))


def _num_lacking(is_report: np.ndarray, positive: Pairs) -> int:
    """Categories with two or more positive images that have none in one half."""
    counts = np.zeros((_NUM_CATEGORIES, 2), int)
    for image, category in set(positive):
        counts[category, int(is_report[image])] += 1
    return int(((counts.sum(axis=1) >= 2) & (counts.min(axis=1) == 0)).sum())


@given(_sets())
def test_halves_partition_the_images(make_annotations: Make, given_set: tuple[int, Pairs, Pairs]) -> None:
    halves = _split(make_annotations, *given_set)
    assert sorted([*halves.tune.tolist(), *halves.report.tolist()]) == list(range(given_set[0]))
    assert np.array_equal(halves.tune, np.sort(halves.tune))
    assert np.array_equal(halves.report, np.sort(halves.report))


@given(_sets(), st.randoms(use_true_random=False))
def test_the_order_of_annotations_changes_nothing(
    make_annotations: Make, given_set: tuple[int, Pairs, Pairs], random: Random
) -> None:
    num_images, positive, negative = given_set
    halves = _split(make_annotations, num_images, positive, negative)
    shuffled = _split(make_annotations, num_images, random.sample(positive * 2, 2 * len(positive)), negative)
    assert np.array_equal(halves.tune, shuffled.tune)


@given(_sets(max_images=9))
def test_halves_share_every_category_that_they_can(make_annotations: Make, given_set: tuple[int, Pairs, Pairs]) -> None:
    num_images, positive, _ = given_set
    halves = _split(make_annotations, *given_set)
    is_report = np.isin(np.arange(num_images), halves.report)
    lacking = _num_lacking(is_report, positive)
    if lacking:
        every_split = (np.array(bits) for bits in product((0, 1), repeat=num_images))
        assert min(_num_lacking(split, positive) for split in every_split) > 0


def test_a_category_dealt_to_one_half_is_mended(make_annotations: Make) -> None:
    # Dealing alone leaves category 1 or 4 in one half.
    positive = [(0, 2), (0, 4), (1, 0), (1, 1), (1, 4), (2, 1)]
    halves = _split(make_annotations, 4, positive, [])
    assert _num_lacking(np.isin(np.arange(4), halves.report), positive) == 0


@given(_sets())
def test_halves_differ_by_a_few_images(make_annotations: Make, given_set: tuple[int, Pairs, Pairs]) -> None:
    halves = _split(make_annotations, *given_set)
    assert abs(len(halves.tune) - len(halves.report)) <= 3


@given(_sets(), st.lists(st.sampled_from([0.0, 50.0]), min_size=40, max_size=40))
def test_only_categories_with_an_area_count(
    make_annotations: Make, given_set: tuple[int, Pairs, Pairs], areas: list[float]
) -> None:
    num_images, positive, negative = given_set
    areas = areas[: len(positive)]
    annotations = make_annotations(
        positive, num_images=num_images, num_categories=_NUM_CATEGORIES, negative=negative, areas=areas
    )
    halves = split_halves(annotations)
    for images, categories in ((halves.tune, halves.tune_categories), (halves.report, halves.report_categories)):
        pairs = zip(positive, areas, strict=True)
        assert categories.tolist() == sorted({c for (i, c), area in pairs if area > 0 and i in images})
    both = set(halves.tune_categories.tolist()) & set(halves.report_categories.tolist())
    assert halves.both_categories.tolist() == sorted(both)


@pytest.mark.parametrize("seed", range(20))
def test_halves_of_dense_sets_are_level(make_annotations: Make, seed: int) -> None:
    # Images of many categories are dealt by what the categories lack, which alone lets the sizes drift apart.
    generator = np.random.default_rng(seed)
    categories = np.minimum(generator.geometric(0.15, 450) - 1, 2 * _NUM_CATEGORIES - 1)
    labels = list(zip(generator.integers(0, 90, 450).tolist(), categories.tolist(), strict=True))
    positive = [(i, c) for i, c in labels if c < _NUM_CATEGORIES]
    negative = sorted({(i, c - _NUM_CATEGORIES) for i, c in labels if c >= _NUM_CATEGORIES})
    halves = _split(make_annotations, 90, positive, negative)
    assert len(halves.tune) == len(halves.report)


def test_levelling_takes_no_category_from_a_half(make_annotations: Make) -> None:
    # The image that would even out all labels best is the only one of category 2 in its half.
    positive, negative = [(0, 2), (2, 2)], [(0, 0), (0, 4), (0, 5), (1, 5), (2, 1), (3, 4)]
    halves = _split(make_annotations, 4, positive, negative)
    assert halves.both_categories.tolist() == [2]
    assert len(halves.tune) == 2


def test_ignored_annotations_do_not_count(document: dict[str, Any]) -> None:
    annotations = annotations_from_document(document, "file.json")
    halves = split_halves(annotations)
    # Of image 10's two annotations, that of category 9 (number 2) is ignored; of image 20's, one has no area.
    by_image = [halves.tune_categories, halves.report_categories]
    if 1 in halves.tune:
        by_image.reverse()
    assert [categories.tolist() for categories in by_image] == [[0], [2]]


def test_the_split_depends_on_image_ids_only_through_their_ranks(make_annotations: Make) -> None:
    splits = {
        tuple(split_halves(make_annotations([], num_images=12, num_categories=1, image_ids=ids)).tune.tolist())
        for ids in (list(range(12)), list(range(100, 112)), list(range(500, 512)))
    }
    assert len(splits) == 3


def test_a_recorded_split_stays(make_annotations: Make) -> None:
    # A change here needs a new SPLIT_SALT: scores of studies on different halves cannot be compared.
    positive = [(i, c) for i in range(20) for c in range(_NUM_CATEGORIES) if (i * 7 + c * 3) % 5 == 0]
    negative = [(i, c) for i in range(20) for c in range(_NUM_CATEGORIES) if (i * 7 + c * 3) % 5 == 1]
    halves = _split(make_annotations, 20, positive, negative)
    assert SPLIT_SALT == "lttune-split-1"
    assert halves.tune.tolist() == [2, 3, 5, 7, 11, 13, 14, 15, 16, 19]


def test_frequent_categories_are_dealt_evenly(make_annotations: Make) -> None:
    generator = np.random.default_rng(0)
    num_images, num_categories = 400, 60
    positive = [
        (int(i), c) for c in range(num_categories) for i in generator.choice(num_images, 2 + 2 * c, replace=False)
    ]
    annotations = make_annotations(positive, num_images=num_images, num_categories=num_categories)
    halves = split_halves(annotations)
    assert abs(len(halves.tune) - len(halves.report)) <= 2
    assert len(halves.both_categories) == num_categories
    in_tune = np.isin(annotations.annotation_image, halves.tune)
    counts = np.stack([np.bincount(annotations.annotation_category[in_tune == side]) for side in (True, False)])
    assert (np.abs(counts[0] - counts[1]) <= 2 + 0.25 * counts.sum(axis=0)).all()
