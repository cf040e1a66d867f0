"""Federated average precision of LVIS, equal to lvis-api, from detections in columns.

Shape letters: N detections, K detections that count, P pairs, C categories, A area ranges, T IoU thresholds.

Two answers differ from lvis-api on purpose: an annotation with id 0 is matched like any other, where lvis-api counts
its match as a false positive, and no detections give 0, where lvis-api raises.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lttune.errors import DataError
from lttune.evaluation.ground_truth import AREA_RANGES, EVALUATED, NOT_EXHAUSTIVE, GroundTruth, Labels
from lttune.evaluation.matching import match
from lttune.evaluation.pairs import IouPairs
from lttune.evaluation.precision import average_precision
from lttune.evaluation.ranking import place_in_group
from lttune.types import GROUP_LETTERS, FloatArray, IntArray

_AREA_SUFFIXES = ("", "s", "m", "l")


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionColumns:
    """Detections of all images, one row each; the order of rows decides between equal scores of an image."""

    image: IntArray  # (N,) number of the image
    category: IntArray  # (N,) number of the category; -1, one the file does not list, only takes part in the cap
    score: npt.NDArray[np.floating]  # (N,)
    area: FloatArray  # (N,) square pixels; a detection whose area is not above 0 only takes part in the cap


@dataclass(frozen=True, kw_only=True, eq=False)
class Metrics:
    """AP and recall as fractions; NaN where a category has no annotation that counts."""

    ap: FloatArray  # (A, T, C) areas all, small, medium, large; thresholds 0.5 to 0.95
    recall: FloatArray  # (A, T, C) the highest recall reached
    frequency_group: IntArray  # (C,)

    @property
    def per_category(self) -> FloatArray:
        """(C,) AP over all areas and thresholds."""
        averages: FloatArray = self.ap[0].mean(axis=0)
        return averages

    def summary(self) -> dict[str, float]:
        """The 13 metrics of lvis-api by name; NaN where no category has one."""
        per_category = self.per_category
        return {
            "AP": _mean(per_category),
            "AP50": _mean(self.ap[0, 0]),
            "AP75": _mean(self.ap[0, 5]),
            **{f"AP{suffix}": _mean(self.ap[i]) for i, suffix in enumerate(_AREA_SUFFIXES) if suffix},
            **{
                f"AP_{letter}": _mean(per_category[self.frequency_group == i]) for i, letter in enumerate(GROUP_LETTERS)
            },
            **{f"AR{suffix}": _mean(self.recall[i]) for i, suffix in enumerate(_AREA_SUFFIXES)},
        }


def evaluate(ground_truth: GroundTruth, columns: DetectionColumns, pairs: IouPairs, *, max_dets: int) -> Metrics:
    """AP and recall of every area range, threshold and category.

    Args:
        ground_truth: the index.
        columns: the detections.
        pairs: their overlaps with annotations, rows counted in `columns`.
        max_dets: detections of an image that count, over all its categories; LVIS takes 300.

    Raises:
        DataError: a score is not finite.
    """
    check_scores(columns.score)
    image, category = columns.image, columns.category
    labels = ground_truth.labels(image, category)
    is_counted = counts(labels, columns.area)
    # Equal scores rank by image, then by row.
    rows = np.flatnonzero(is_counted & within_cap(image, columns.score, max_dets=max_dets))
    rows = rows[np.argsort(image[rows], kind="stable")]
    matches = match(ground_truth, columns.score, pairs.of_rows(is_counted))
    place = np.full(len(image), -1, np.int64)
    place[rows] = np.arange(len(rows))
    ap, recall = average_precision(
        ground_truth,
        matches.renumbered(place),
        category=category[rows],
        score=columns.score[rows],
        wrong_areas=wrong_areas(labels[rows], columns.area[rows]),
    )
    return Metrics(ap=ap, recall=recall, frequency_group=ground_truth.annotations.frequency_group)


def check_scores(score: npt.NDArray[np.floating]) -> None:
    """
    Raises:
        DataError: a score is not finite.
    """
    is_finite = np.isfinite(score)
    if not is_finite.all():
        row = int(np.argmin(is_finite))
        raise DataError(f"detection {row} has score {score[row]}; scores must be finite to be ranked.")


def counts(labels: Labels, area: FloatArray) -> npt.NDArray[np.bool_]:
    """(N,) whether each detection is right or wrong at all: its category labelled in its image, its area above 0."""
    return (labels & EVALUATED > 0) & (area > 0) & np.isfinite(area)


def within_cap(
    image: npt.NDArray[np.integer], score: npt.NDArray[np.floating], *, max_dets: int
) -> npt.NDArray[np.bool_]:
    """(N,) whether each detection is among the best of its image, over all categories."""
    is_within = np.ones(len(image), np.bool_)
    is_crowded = np.bincount(image) > max_dets
    if is_crowded.any():
        rows = np.flatnonzero(is_crowded[image])
        is_within[rows] = place_in_group(image[rows], score[rows]) < max_dets
    return is_within


def wrong_areas(labels: Labels, area: FloatArray) -> npt.NDArray[np.uint8]:
    """(N,) area ranges, as bits, in which each detection that counts is a false positive where it stays unmatched.

    Not where its image may hold more of the category than is annotated, nor where its size is of another range.
    """
    areas = np.zeros(len(area), np.uint8)
    for a, (low, high) in enumerate(AREA_RANGES):
        areas |= ((area >= low) & (area <= high)).view(np.uint8) << np.uint8(a)
    areas[labels & NOT_EXHAUSTIVE > 0] = 0
    return areas


def _mean(values: FloatArray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
