"""Greedy matching of detections with annotations, for every area range and IoU threshold at once.

Shape letters: P pairs, D detections, A area ranges, T IoU thresholds.

In each group the detections come by descending score. One takes the free annotation of highest IoU that is not ignored,
else of those that are; on equal IoUs the later one. All A * T = 40 matchings of a detection are the bits of one 64-bit
word, bit a * T + t for area range a and threshold t.

A detection that is left out takes its lower-scored rivals nothing and gives its higher-scored ones nothing, so one
matching serves every cap that keeps the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lttune.evaluation.ground_truth import AREA_RANGES, GroundTruth
from lttune.evaluation.pairs import IouPairs
from lttune.evaluation.ranking import rank
from lttune.types import IntArray

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
NUM_AREAS, NUM_THRESHOLDS = len(AREA_RANGES), len(IOU_THRESHOLDS)

Words = npt.NDArray[np.uint64]

# The bits of the first 0, 1, ... 10 thresholds, in every area range.
_REACHED: Words = np.array(
    [sum(((1 << level) - 1) << (a * NUM_THRESHOLDS) for a in range(NUM_AREAS)) for level in range(NUM_THRESHOLDS + 1)],
    np.uint64,
)
# The bits of all thresholds, by the set of area ranges as four bits.
AREA_WORDS: Words = np.array(
    [
        sum(((1 << NUM_THRESHOLDS) - 1) << (a * NUM_THRESHOLDS) for a in range(NUM_AREAS) if areas >> a & 1)
        for areas in range(1 << NUM_AREAS)
    ],
    np.uint64,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """Detections that are matched in any area range at any threshold."""

    row: IntArray  # (D,)
    hits: Words  # (D,) matched to an annotation that is not ignored
    absorbed: Words  # (D,) matched to one that is

    def renumbered(self, number: IntArray) -> "Matches":
        """The same matches with row r called `number[r]`, without those called -1."""
        row = number[self.row]
        kept = row >= 0
        return Matches(row=row[kept], hits=self.hits[kept], absorbed=self.absorbed[kept])


def join_matches(parts: Sequence[Matches]) -> Matches:
    """All matches of parts whose rows are numbered alike."""
    return Matches(
        row=np.concatenate([part.row for part in parts]),
        hits=np.concatenate([part.hits for part in parts]),
        absorbed=np.concatenate([part.absorbed for part in parts]),
    )


def match(ground_truth: GroundTruth, score: npt.NDArray[np.floating], pairs: IouPairs) -> Matches:
    """The matches of (N,) scored detections, the rows of `pairs`; equal scores of a group by row."""
    level = np.searchsorted(IOU_THRESHOLDS, pairs.iou, side="right")
    num_candidates = np.bincount(pairs.row, minlength=len(score))
    # An annotation is contested where a detection that wants it could take another one instead.
    is_contested = np.zeros(len(ground_truth), np.bool_)
    is_contested[pairs.annotation[num_candidates[pairs.row] > 1]] = True
    of_contested = is_contested[pairs.annotation]
    alone, together = np.flatnonzero(~of_contested), np.flatnonzero(of_contested)
    parts = (
        _match_alone(ground_truth, score, pairs.row[alone], pairs.annotation[alone], level[alone]),
        _match_in_turn(
            ground_truth, score, pairs.row[together], pairs.annotation[together], pairs.iou[together], level[together]
        ),
    )
    row, hits, absorbed = (np.concatenate(column) for column in zip(*parts, strict=True))
    is_matched = (hits | absorbed) > 0
    return Matches(row=row[is_matched], hits=hits[is_matched], absorbed=absorbed[is_matched])


def _match_alone(
    ground_truth: GroundTruth,
    score: npt.NDArray[np.floating],
    row: IntArray,
    annotation: IntArray,
    level: IntArray,
) -> tuple[IntArray, Words, Words]:
    """Where every detection has one candidate, it wins the thresholds that no better-scored rival has reached."""
    order = rank(annotation, score[row])
    row, annotation, level = row[order], annotation[order], level[order]
    # A running maximum that starts anew with each annotation.
    is_first = np.diff(annotation, prepend=-1) > 0
    base = (NUM_THRESHOLDS + 1) * np.cumsum(is_first)
    highest = np.maximum.accumulate(base + level)
    won = np.flatnonzero(np.diff(highest, prepend=0))
    before = np.where(is_first[won], 0, highest[won - 1] - base[won])
    words = _REACHED[level[won]] & ~_REACHED[before]
    ignored = _ignored_bits(ground_truth, annotation[won])
    return row[won], words & ~ignored, words & ignored


def _match_in_turn(
    ground_truth: GroundTruth,
    score: npt.NDArray[np.floating],
    row: IntArray,
    annotation: IntArray,
    iou: npt.NDArray[np.floating],
    level: IntArray,
) -> tuple[IntArray, Words, Words]:
    """Where detections may choose, each group goes through them one by one; a round serves every group at once."""
    if not len(row):
        return row, np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    group = ground_truth.group[annotation]
    order = np.lexsort((-annotation, -iou, row, -score[row], group))
    row, annotation, group = row[order], annotation[order], group[order]
    first = np.flatnonzero(np.diff(row, prepend=-1))
    size = np.diff(first, append=len(row))
    detection = np.repeat(np.arange(len(first)), size)

    # A detection asks its candidates one by one for the bits in which they are not ignored, then for the other bits.
    step = np.arange(len(row)) + first[detection]
    steps = np.concatenate([step, step + size[detection]])
    reached, ignored = _REACHED[level[order]], _ignored_bits(ground_truth, annotation)
    wanted, asked, asking = np.empty(len(steps), np.uint64), np.empty_like(steps), np.empty_like(steps)
    wanted[steps] = np.concatenate([reached & ~ignored, reached & ignored])
    asked[steps], asking[steps] = np.tile(annotation, 2), np.tile(detection, 2)

    won = _take_turns(wanted, asked, asking, np.repeat(group[first], 2 * size))
    starts = np.stack([2 * first, 2 * first + size], axis=1)
    hits, absorbed = np.bitwise_or.reduceat(won, starts.ravel()).reshape(-1, 2).T
    return row[first], hits, absorbed


def _take_turns(wanted: Words, asked: IntArray, asking: IntArray, group: IntArray) -> Words:
    """The bits that each step wins: those wanted that neither its annotation nor its detection has given away.

    Steps of one group follow each other; each round serves the next step of all groups.
    """
    first = np.flatnonzero(np.diff(group, prepend=-1))
    size = np.diff(first, append=len(group))
    turn = np.arange(len(group)) - np.repeat(first, size)
    by_turn = np.argsort(turn.astype(np.min_scalar_type(size.max())), kind="stable")
    wanted, asked, asking = wanted[by_turn], asked[by_turn], asking[by_turn]

    taken = np.zeros(asked.max() + 1, np.uint64)
    done = np.zeros(asking.max() + 1, np.uint64)
    won = np.empty_like(wanted)
    sizes = np.bincount(turn)
    stops = np.cumsum(sizes)
    for start, stop in zip((stops - sizes).tolist(), stops.tolist(), strict=True):
        annotations, detections = asked[start:stop], asking[start:stop]
        given, had = taken[annotations], done[detections]
        new = wanted[start:stop] & ~(given | had)
        taken[annotations], done[detections] = given | new, had | new
        won[by_turn[start:stop]] = new
    return won


def _ignored_bits(ground_truth: GroundTruth, annotation: IntArray) -> Words:
    """(P,) words: all thresholds of the area ranges in which each annotation is ignored."""
    words: Words = AREA_WORDS[ground_truth.ignored_areas[annotation]]
    return words
