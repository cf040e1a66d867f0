"""AP and recall from matched detections.

Shape letters: K detections that count, D matched ones, C categories, A area ranges, T IoU thresholds, E true positives.
"""

import numpy as np
import numpy.typing as npt

from lttune.evaluation.ground_truth import RECALLS, GroundTruth
from lttune.evaluation.matching import AREA_WORDS, NUM_AREAS, NUM_THRESHOLDS, Matches, Words
from lttune.evaluation.ranking import rank
from lttune.types import FloatArray, IntArray

_BITS = np.arange(NUM_THRESHOLDS, dtype=np.uint64)


def average_precision(
    ground_truth: GroundTruth,
    matches: Matches,
    *,
    category: npt.NDArray[np.integer],
    score: npt.NDArray[np.floating],
    wrong_areas: npt.NDArray[np.uint8],
) -> tuple[FloatArray, FloatArray]:
    """AP and highest recall (A, T, C); NaN where a category has no annotation that counts.

    Args:
        ground_truth: the index.
        matches: of the detections.
        category: (K,) numbers.
        score: (K,) equal ones of a category rank by row.
        wrong_areas: (K,) area ranges in which a detection is a false positive where it stays unmatched, as bits.
    """
    # What scores below the last true positive of its category changes nothing.
    least = np.full(ground_truth.num_categories, np.inf, score.dtype)
    is_hit = matches.hits > 0
    np.minimum.at(least, category[matches.row[is_hit]], score[matches.row[is_hit]])
    rows = np.flatnonzero(score >= least[category])
    number = np.full(len(score), -1, np.int32)
    number[matches.row] = np.arange(len(matches.row), dtype=np.int32)

    # In the order of precision-recall curves, one category after the other, all that matters lies at a few places.
    order = rows[rank(category[rows], score[rows])]
    num_ranked = np.bincount(category[rows], minlength=ground_truth.num_categories)
    first_place = np.cumsum(num_ranked) - num_ranked
    number = number[order]
    place = np.flatnonzero(number >= 0)
    number = number[place]
    wrong_areas = wrong_areas[order]
    hits, absorbed = matches.hits[number], matches.absorbed[number]
    of_category = category[matches.row[number]].astype(np.int64)

    wrong = AREA_WORDS[wrong_areas[place]]
    # Counted detections are those wrong if unmatched, put right by what matching made of them.
    gained, lost = hits & ~wrong, absorbed & wrong
    ap = np.full((NUM_AREAS, NUM_THRESHOLDS, ground_truth.num_categories), np.nan)
    recall = ap.copy()
    for a in range(NUM_AREAS):
        changes = np.flatnonzero((hits | lost) & AREA_WORDS[1 << a])
        wrong_before = np.concatenate([[0], np.cumsum(wrong_areas >> a & 1, dtype=np.int32)])
        category_a = of_category[changes]
        counted = wrong_before[place[changes] + 1] - wrong_before[first_place[category_a]]
        change = _bits_of_area(gained[changes], a).astype(np.int32) - _bits_of_area(lost[changes], a)
        change_before = np.concatenate([np.zeros((NUM_THRESHOLDS, 1), np.int32), np.cumsum(change, axis=1)], axis=1)
        first_change = np.searchsorted(category_a, np.arange(ground_truth.num_categories))[category_a]
        counted = counted + change_before[:, 1:] - change_before[:, first_change]
        tables = _average_curves(
            _bits_of_area(hits[changes], a),
            counted,
            category_a,
            num_annotations=ground_truth.num_counted[a],
            recall_weights=ground_truth.recall_weights[a],
        )
        ap[a], recall[a] = (np.where(ground_truth.num_counted[a] > 0, table, np.nan) for table in tables)
    return ap, recall


def _average_curves(
    is_hit: npt.NDArray[np.bool_],
    counted: IntArray,
    category: IntArray,
    *,
    num_annotations: IntArray,
    recall_weights: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """AP and highest recall (T, C) of one area range.

    Precision is needed only at true positives: it falls between them.

    Args:
        is_hit: (T, D) which detections are true positives; D in the order of curves.
        counted: (T, D) detections up to each one that are true or false positives.
        category: (D,) ascending.
        num_annotations: (C,) annotations that count.
        recall_weights: see `GroundTruth.recall_weights`.
    """
    num_categories = len(num_annotations)
    threshold, hit = np.nonzero(is_hit)
    of_category = category[hit]
    curve = threshold * num_categories + of_category  # one precision-recall curve per threshold and category
    hits = np.bincount(curve, minlength=NUM_THRESHOLDS * num_categories)
    match = np.arange(len(curve)) - np.repeat(np.cumsum(hits) - hits, hits)  # from 0 within a curve
    precision = (match + 1) / (counted[is_hit] + np.spacing(1))
    first_match = np.cumsum(num_annotations) - num_annotations
    weight = recall_weights[first_match[of_category] + match]
    # Precision at a recall is the highest from there on. Few true positives are the first to reach one of the 101.
    reaching = np.flatnonzero(weight)
    curve = curve[reaching]
    highest = np.maximum.reduceat(precision, reaching) if len(reaching) else precision
    _raise_to_later(highest, curve)
    ap = np.bincount(curve, weight[reaching] * highest, minlength=len(hits)) / len(RECALLS)
    recall = hits.reshape(NUM_THRESHOLDS, -1) / np.maximum(num_annotations, 1)
    return ap.reshape(NUM_THRESHOLDS, -1), recall


def _raise_to_later(values: FloatArray, curve: IntArray) -> None:
    """Raise each value, in place, to the largest from there to the end of its curve, in spans of doubling length."""
    span = 1
    while (is_joined := curve[span:] == curve[:-span]).any():
        np.maximum(values[:-span], values[span:], out=values[:-span], where=is_joined)
        span *= 2


def _bits_of_area(words: Words, area: int) -> npt.NDArray[np.bool_]:
    """(T, len(words)) the bits of one area range."""
    bits: npt.NDArray[np.bool_] = (words >> (_BITS + np.uint64(area * NUM_THRESHOLDS))[:, None] & np.uint64(1)).astype(
        np.bool_
    )
    return bits
