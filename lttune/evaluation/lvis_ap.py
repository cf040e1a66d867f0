"""Federated average precision of LVIS, equal to lvis-api, from detections in columns.

Shape letters: N detections, K detections that count, P pairs, C categories, A area ranges, T IoU thresholds.

lvis-api visits every image, category, area range and threshold in Python. Here all A * T = 40 matchings of a detection
are the bits of one 64-bit word, bit a * T + t for area range a and threshold t, and a round of matching serves every
group (a category in an image) at once. Two answers differ on purpose: an annotation with id 0 is matched like any
other, where lvis-api counts its match as a false positive, and no detections give 0, where lvis-api raises.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lttune.errors import DataError
from lttune.evaluation.ground_truth import AREA_RANGES, GroundTruth
from lttune.evaluation.pairs import IouPairs
from lttune.types import GROUP_LETTERS, FloatArray, IntArray

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)

_NUM_AREAS, _NUM_THRESHOLDS = len(AREA_RANGES), len(IOU_THRESHOLDS)
_AREA_SUFFIXES = ("", "s", "m", "l")

Words = npt.NDArray[np.uint64]


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
    is_finite = np.isfinite(columns.score)
    if not is_finite.all():
        row = int(np.argmin(is_finite))
        raise DataError(f"detection {row} has score {columns.score[row]}; scores must be finite to be ranked.")
    ranked = _ranked_rows(ground_truth, columns, max_dets)
    matched, hits, absorbed = _match(ground_truth, ranked, pairs, num_rows=len(columns.image))

    image, category, area = columns.image[ranked], columns.category[ranked], columns.area[ranked]
    # An unmatched detection is wrong unless its image may hold more of the category, or its size is of another range.
    is_labelled = ~ground_truth.is_not_exhaustive(image, category)
    ap = np.full((_NUM_AREAS, _NUM_THRESHOLDS, ground_truth.num_categories), np.nan)
    recall = ap.copy()
    for a, (low, high) in enumerate(AREA_RANGES):
        num_annotations = ground_truth.num_counted[a]
        tables = _accumulate(
            matched,
            _bits_of_area(hits, a),
            _bits_of_area(absorbed, a),
            category=category,
            is_wrong=is_labelled & (area >= low) & (area <= high),
            num_annotations=num_annotations,
        )
        ap[a], recall[a] = (np.where(num_annotations > 0, table, np.nan) for table in tables)
    return Metrics(ap=ap, recall=recall, frequency_group=ground_truth.annotations.frequency_group)


def _ranked_rows(ground_truth: GroundTruth, columns: DetectionColumns, max_dets: int) -> IntArray:
    """(K,) rows that count, by category, then descending score, then image, then row."""
    kept = (columns.category >= 0) & (columns.area > 0) & np.isfinite(columns.area)
    per_image = np.bincount(columns.image, minlength=ground_truth.num_images)
    if per_image.max(initial=0) > max_dets:
        order = np.lexsort((-columns.score, columns.image))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(per_image) - per_image, per_image)
        kept &= rank < max_dets
    rows = np.flatnonzero(kept)
    rows = rows[ground_truth.is_evaluated(columns.image[rows], columns.category[rows])]
    # Narrow integers are sorted by radix.
    image, category = (
        column[rows].astype(np.min_scalar_type(number))
        for column, number in (
            (columns.image, ground_truth.num_images),
            (columns.category, ground_truth.num_categories),
        )
    )
    return rows[np.lexsort((image, -columns.score[rows], category))]


def _match(
    ground_truth: GroundTruth, ranked: IntArray, pairs: IouPairs, *, num_rows: int
) -> tuple[IntArray, Words, Words]:
    """Greedy matching by descending score within every group.

    A detection takes the free annotation of highest IoU that is not ignored, else of those that are; on equal IoUs the
    later one.

    Returns:
        Ascending places in `ranked` of the detections that have a pair, and two words of each: matched to an
        annotation that is not ignored, matched to one that is.
    """
    place_of_row = np.full(num_rows, -1, np.int64)
    place_of_row[ranked] = np.arange(len(ranked))
    place = place_of_row[pairs.row]
    kept = np.flatnonzero(place >= 0)
    if not len(kept):
        return np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    place, annotation, iou = place[kept], pairs.annotation[kept], pairs.iou[kept]
    preferred = np.lexsort((-annotation, -iou, place))
    annotation, iou = annotation[preferred], iou[preferred]
    matched, first, detection, size = np.unique(
        place[preferred], return_index=True, return_inverse=True, return_counts=True
    )

    # A detection asks its candidates one by one for the bits in which they are not ignored, then for the other bits.
    step = np.arange(len(annotation)) + first[detection]
    steps = np.concatenate([step, step + size[detection]])
    reached, ignored = _reached_bits(iou), _ignored_bits(ground_truth)[annotation]
    wanted, asked, asking = np.empty(len(steps), np.uint64), np.empty_like(steps), np.empty_like(steps)
    wanted[steps] = np.concatenate([reached & ~ignored, reached & ignored])
    asked[steps], asking[steps] = np.tile(annotation, 2), np.tile(detection, 2)

    won = _take_turns(wanted, asked, asking, ground_truth.group[asked], num_annotations=len(ground_truth))
    starts = np.stack([2 * first, 2 * first + size], axis=1)
    hits, absorbed = np.bitwise_or.reduceat(won, starts.ravel()).reshape(-1, 2).T
    return matched, hits, absorbed


def _take_turns(wanted: Words, asked: IntArray, asking: IntArray, group: IntArray, *, num_annotations: int) -> Words:
    """The bits that each step wins: those wanted that neither its annotation nor its detection has given away.

    Steps of one group follow each other in the order of the arguments; each round serves the next step of all groups.
    """
    by_group = np.argsort(group, kind="stable")
    _, first, size = np.unique(group[by_group], return_index=True, return_counts=True)
    turn = np.empty_like(by_group)
    turn[by_group] = np.arange(len(group)) - np.repeat(first, size)
    by_turn = np.argsort(turn.astype(np.min_scalar_type(size.max())), kind="stable")
    wanted, asked, asking = wanted[by_turn], asked[by_turn], asking[by_turn]

    taken = np.zeros(num_annotations, np.uint64)
    done = np.zeros(asking.max() + 1, np.uint64)
    won = np.empty_like(wanted)
    sizes = np.bincount(turn)
    stops = np.cumsum(sizes)
    for start, stop in zip(stops - sizes, stops, strict=True):
        annotations, detections = asked[start:stop], asking[start:stop]
        given, had = taken[annotations], done[detections]
        new = wanted[start:stop] & ~(given | had)
        taken[annotations], done[detections] = given | new, had | new
        won[by_turn[start:stop]] = new
    return won


def _reached_bits(iou: npt.NDArray[np.floating]) -> Words:
    """(P,) words: the thresholds that each IoU reaches, in every area range."""
    levels = np.arange(_NUM_THRESHOLDS + 1)
    words = sum(((1 << levels) - 1) << (a * _NUM_THRESHOLDS) for a in range(_NUM_AREAS))
    table: Words = np.asarray(words, np.uint64)
    return table[np.searchsorted(IOU_THRESHOLDS, iou, side="right")]


def _ignored_bits(ground_truth: GroundTruth) -> Words:
    """(M,) words: all thresholds of the area ranges in which each annotation is ignored."""
    words = np.zeros(len(ground_truth), np.uint64)
    for a, is_ignored in enumerate(ground_truth.is_ignored):
        words[is_ignored] |= np.uint64(((1 << _NUM_THRESHOLDS) - 1) << (a * _NUM_THRESHOLDS))
    return words


def _bits_of_area(words: Words, area: int) -> npt.NDArray[np.bool_]:
    """(T, len(words)) the bits of one area range."""
    shifts = np.arange(area * _NUM_THRESHOLDS, (area + 1) * _NUM_THRESHOLDS, dtype=np.uint64)
    bits: npt.NDArray[np.bool_] = (words >> shifts[:, None] & np.uint64(1)).astype(np.bool_)
    return bits


def _accumulate(
    matched: IntArray,
    is_hit: npt.NDArray[np.bool_],
    is_absorbed: npt.NDArray[np.bool_],
    *,
    category: IntArray,
    is_wrong: npt.NDArray[np.bool_],
    num_annotations: IntArray,
) -> tuple[FloatArray, FloatArray]:
    """AP and highest recall (T, C) of one area range.

    Precision is needed only at true positives: it falls between them.

    Args:
        matched: (D,) ascending places of the detections that have a pair.
        is_hit: (T, D) they are true positives.
        is_absorbed: (T, D) they are matched to an ignored annotation.
        category: (K,) of all ranked detections, ascending.
        is_wrong: (K,) they count as false positives where they stay unmatched.
        num_annotations: (C,) annotations that count.
    """
    num_categories = len(num_annotations)
    first_place = np.searchsorted(category, np.arange(num_categories))
    wrong_before = np.concatenate([[0], np.cumsum(is_wrong)])
    # Counted detections up to each matched one: those wrong if unmatched, put right by what matching made of them.
    change = (is_hit & ~is_wrong[matched]).astype(np.int64) - (is_absorbed & is_wrong[matched])
    change_before = np.concatenate([np.zeros((_NUM_THRESHOLDS, 1), np.int64), np.cumsum(change, axis=1)], axis=1)
    counted = wrong_before[matched + 1] + change_before[:, 1:]
    first_matched = np.searchsorted(matched, first_place)
    counted_before = wrong_before[first_place] + change_before[:, first_matched]

    threshold, hit = np.nonzero(is_hit)
    of_category = category[matched[hit]]
    curve = threshold * num_categories + of_category  # one precision-recall curve per threshold and category
    hits = np.bincount(curve, minlength=_NUM_THRESHOLDS * num_categories)
    first_hit = np.cumsum(hits) - hits
    num_hits = np.arange(len(curve)) - first_hit[curve] + 1
    precision = num_hits / (counted[threshold, hit] - counted_before[threshold, of_category] + np.spacing(1))
    _raise_to_later(precision, curve)
    # How many of the 101 recalls are first reached by each true positive.
    reached = np.searchsorted(RECALLS, num_hits / num_annotations[of_category], side="right")
    newly_reached = np.where(num_hits == 1, reached, np.diff(reached, prepend=0))
    ap = np.bincount(curve, newly_reached * precision, minlength=len(hits)) / len(RECALLS)
    recall = hits.reshape(_NUM_THRESHOLDS, -1) / np.maximum(num_annotations, 1)
    return ap.reshape(_NUM_THRESHOLDS, -1), recall


def _raise_to_later(values: FloatArray, curve: IntArray) -> None:
    """Raise each value, in place, to the largest from there to the end of its curve, in spans of doubling length."""
    span = 1
    while (is_joined := curve[span:] == curve[:-span]).any():
        np.maximum(values[:-span], values[span:], out=values[:-span], where=is_joined)
        span *= 2


def _mean(values: FloatArray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
