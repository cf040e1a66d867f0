"""Evaluation of detections as they come: image by image, matched in blocks, then forgotten.

Of a detection that counts 15 to 19 bytes stay, and 24 more where it is matched; boxes and masks go with their block.

Shape letters: N detections of one call, K kept detections, C categories.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from lttune.errors import DataError
from lttune.evaluation.ground_truth import EVALUATED, GroundTruth, group_of
from lttune.evaluation.lvis_ap import Metrics, counts, within_cap, wrong_areas
from lttune.evaluation.matching import Matches, join_matches, match
from lttune.evaluation.pairs import box_pairs_of_groups, mask_pairs_of_groups
from lttune.evaluation.precision import average_precision
from lttune.evaluation.ranking import place_in_group
from lttune.masks import Rle, rle_areas
from lttune.types import FloatArray, IntArray

# Detections per category over all images that AP_fixed counts (Dave et al., 2021, arXiv 2102.01066, section 5).
FIXED_MAX_DETS = 10_000

# Detections that are matched at a time; blocks end with an image.
_BLOCK = 1 << 17
# Kept detections between two looks for those that no cap can need any more.
_PRUNE_EVERY = 1 << 22

Ints = npt.NDArray[np.integer]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kept:
    """What stays of detections of known categories."""

    image: npt.NDArray[np.int32]  # (K,)
    category: npt.NDArray[np.int32]  # (K,)
    score: Floats  # (K,)
    wrong_areas: npt.NDArray[np.uint8]  # (K,) see `wrong_areas`
    is_counted: npt.NDArray[np.bool_]  # (K,) right or wrong, as far as no cap leaves it out
    is_within_cap: npt.NDArray[np.bool_]  # (K,) among the best of its image

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, rows: IntArray) -> "_Kept":
        return _Kept(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True, kw_only=True, eq=False)
class _Block:
    """Detections of whole images, by ascending image; boxes or masks, whichever are evaluated."""

    image: Ints
    category: Ints
    score: Floats
    boxes: Floats
    rles: Sequence[Rle]

    def __len__(self) -> int:
        return len(self.image)


class DetectionStream:
    """Takes the detections of each image in one call of `add`, and gives their metrics.

        stream = DetectionStream(ground_truth, iou_type="bbox")
        for image, found in enumerate(detections):
            stream.add(image, category=found.labels, score=found.scores, boxes_xywh=found.boxes)
        metrics = stream.result()

    Images may come in any order; those that never come have no detections.

    Args:
        ground_truth: the index, in memory and unchanged meanwhile.
        iou_type: whether boxes or masks are compared.
        max_dets: detections of an image that count, over all its categories; LVIS takes 300.
        with_fixed: whether `fixed_result` will be asked for. Detections beyond `max_dets` are then kept too, up to
            `FIXED_MAX_DETS` of each category.
    """

    def __init__(
        self, ground_truth: GroundTruth, *, iou_type: str, max_dets: int = 300, with_fixed: bool = False
    ) -> None:
        self._ground_truth = ground_truth
        self._has_masks = iou_type == "segm"
        self._max_dets = max_dets
        self._with_fixed = with_fixed
        self._is_seen = np.zeros(ground_truth.num_images, np.bool_)
        self._pending: list[_Block] = []
        self._num_pending = 0
        self._kept: list[_Kept] = []
        self._matches: list[Matches] = []
        self._num_kept = 0
        self._prune_at = _PRUNE_EVERY
        self.num_without_area = 0  # detections dropped because their area is not above 0 or not finite

    def add(
        self,
        image: int | Ints,
        *,
        category: Ints,
        score: Floats,
        boxes_xywh: Floats | None = None,
        rles: Sequence[Rle] | None = None,
    ) -> None:
        """All detections of an image, or of several.

        Args:
            image: number of the image, or (N,) numbers in any order.
            category: (N,) numbers; -1, one the file does not list, only takes part in the cap.
            score: (N,) equal ones of an image rank by row. Whole float32 values are ranked fastest.
            boxes_xywh: (N, 4) for `bbox`; one without extent, or a side not finite, only takes part in the cap.
            rles: N for `segm`; an empty one only takes part in the cap.

        Raises:
            DataError: a score, x or y is not finite, or an image came before.
        """
        images = np.broadcast_to(image, len(score))
        given = rles if self._has_masks else boxes_xywh
        assert given is not None
        assert len(images) == len(category) == len(score) == len(given), (len(images), len(category), len(score))
        if not len(images):
            return
        boxes = np.zeros((len(images), 0)) if boxes_xywh is None or self._has_masks else boxes_xywh
        self._check(images, score, boxes)
        block = _Block(
            image=images, category=category, score=score, boxes=boxes, rles=rles if rles and self._has_masks else ()
        )
        self._pending.append(block)
        self._num_pending += len(block)
        if self._num_pending >= _BLOCK:
            self._flush()

    def result(self) -> Metrics:
        """The metrics of LVIS on all that was added so far."""
        kept, matches = self._all()
        return self._metrics(kept, matches, kept.is_counted & kept.is_within_cap)

    def fixed_result(self) -> Metrics:
        """The same with the best `FIXED_MAX_DETS` detections of each category over all images, however many of one
        image; of equal scores the smaller image number, then the earlier row."""
        assert self._with_fixed
        kept, matches = self._all()
        return self._metrics(kept, matches, kept.is_counted & _is_among_best(kept))

    def _check(self, images: Ints, score: Floats, boxes: Floats) -> None:
        ids = self._ground_truth.annotations.image_ids
        unranked = np.flatnonzero(~np.isfinite(score))
        if len(unranked):
            row = int(unranked[0])
            raise DataError(
                f"image {ids[images[row]]}: detection {row} has score {score[row]}; scores must be finite to be ranked."
            )
        misplaced = np.flatnonzero(~np.isfinite(boxes[:, :2]).all(axis=1))
        if len(misplaced):
            row = int(misplaced[0])
            raise DataError(
                f"image {ids[images[row]]}: detection {row} has box {boxes[row].tolist()}; x and y must be finite."
            )
        if self._is_seen[images].any():
            number = images[np.argmax(self._is_seen[images])]
            raise DataError(f"image {ids[number]}: its detections came before; add all of an image at once.")
        self._is_seen[images] = True

    def _flush(self) -> None:
        pending, self._pending, self._num_pending = self._pending, [], 0
        if pending:
            for block in _whole_images(_by_image(pending)):
                self._judge(block)

    def _judge(self, block: _Block) -> None:
        """Matches a block and keeps what counts."""
        ground_truth = self._ground_truth
        labels = ground_truth.labels(block.image, block.category)
        area = self._areas(block, labels)
        is_counted = counts(labels, area)
        self.num_without_area += int(((labels & EVALUATED > 0) & ~is_counted).sum())
        is_within_cap = within_cap(block.image, block.score, max_dets=self._max_dets)
        is_kept = block.category >= 0 if self._with_fixed else is_counted & is_within_cap
        groups = np.where(is_kept & is_counted, group_of(labels), np.int32(-1))
        if self._has_masks:
            pairs = mask_pairs_of_groups(ground_truth, groups, block.rles)
        else:
            pairs = box_pairs_of_groups(ground_truth, groups, block.boxes)
        rows = np.flatnonzero(is_kept)
        number = np.full(len(block), -1, np.int64)
        number[rows] = np.arange(self._num_kept, self._num_kept + len(rows))
        self._matches.append(match(ground_truth, block.score, pairs).renumbered(number))
        self._kept.append(
            _Kept(
                image=block.image[rows].astype(np.int32),
                category=block.category[rows].astype(np.int32),
                score=block.score[rows],
                wrong_areas=wrong_areas(labels[rows], area[rows]),
                is_counted=is_counted[rows],
                is_within_cap=is_within_cap[rows],
            )
        )
        self._num_kept += len(rows)
        if self._with_fixed and self._num_kept >= self._prune_at:
            self._prune()

    def _areas(self, block: _Block, labels: npt.NDArray[np.int32]) -> FloatArray:
        if not self._has_masks:
            with np.errstate(invalid="ignore", over="ignore"):  # an area that is not finite is dropped
                width, height = block.boxes[:, 2:].astype(np.float64, copy=False).T
                areas: FloatArray = width * height
            return areas
        # Others never count, whatever their mask.
        rows = np.flatnonzero(labels & EVALUATED)
        areas = np.zeros(len(block))
        areas[rows] = rle_areas([block.rles[int(i)] for i in rows])
        return areas

    def _prune(self) -> None:
        kept, matches = self._joined()
        rows = np.flatnonzero(kept.is_counted & kept.is_within_cap | _is_among_best(kept))
        self._hold(kept[rows], matches.renumbered(_numbers(rows, len(kept))))
        self._prune_at = max(_PRUNE_EVERY, 2 * len(rows))

    def _all(self) -> tuple[_Kept, Matches]:
        """Everything that is kept, by image, then by row."""
        self._flush()
        kept, matches = self._joined()
        if (np.diff(kept.image) < 0).any():
            rows = np.argsort(kept.image, kind="stable")
            kept, matches = kept[rows], matches.renumbered(_numbers(rows, len(kept)))
        self._hold(kept, matches)
        return kept, matches

    def _joined(self) -> tuple[_Kept, Matches]:
        if not self._kept:
            self._judge(_by_image([]))
        columns = {field.name: [getattr(part, field.name) for part in self._kept] for field in fields(_Kept)}
        return _Kept(**{name: np.concatenate(parts) for name, parts in columns.items()}), join_matches(self._matches)

    def _hold(self, kept: _Kept, matches: Matches) -> None:
        self._kept, self._matches, self._num_kept = [kept], [matches], len(kept)

    def _metrics(self, kept: _Kept, matches: Matches, is_ranked: npt.NDArray[np.bool_]) -> Metrics:
        if not is_ranked.all():
            rows = np.flatnonzero(is_ranked)
            kept, matches = kept[rows], matches.renumbered(_numbers(rows, len(kept)))
        ap, recall = average_precision(
            self._ground_truth, matches, category=kept.category, score=kept.score, wrong_areas=kept.wrong_areas
        )
        return Metrics(ap=ap, recall=recall, frequency_group=self._ground_truth.annotations.frequency_group)


def _is_among_best(kept: _Kept) -> npt.NDArray[np.bool_]:
    """(K,) whether each detection is within `FIXED_MAX_DETS` of its category; of equal scores the earlier image."""
    is_large = np.bincount(kept.category) > FIXED_MAX_DETS
    is_best = ~is_large[kept.category]
    rows = np.flatnonzero(~is_best)
    rows = rows[np.argsort(kept.image[rows], kind="stable")]
    is_best[rows] = place_in_group(kept.category[rows], kept.score[rows]) < FIXED_MAX_DETS
    return is_best


def _numbers(rows: IntArray, length: int) -> IntArray:
    """(length,) the place of each row in `rows`, -1 of one that is not there."""
    number = np.full(length, -1, np.int64)
    number[rows] = np.arange(len(rows))
    return number


def _by_image(parts: Sequence[_Block]) -> _Block:
    """All parts as one, by ascending image."""
    if not parts:
        none = np.zeros(0, np.int64)
        return _Block(image=none, category=none, score=np.zeros(0), boxes=np.zeros((0, 4)), rles=())
    joined = parts[0]
    if len(parts) > 1:
        image, category, score, boxes = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "category", "score", "boxes")
        )
        rles = [rle for part in parts for rle in part.rles]
        joined = _Block(image=image, category=category, score=score, boxes=boxes, rles=rles)
    if (joined.image[1:] >= joined.image[:-1]).all():
        return joined
    order = np.argsort(joined.image, kind="stable")
    return _Block(
        image=joined.image[order],
        category=joined.category[order],
        score=joined.score[order],
        boxes=joined.boxes[order],
        rles=[joined.rles[int(i)] for i in order] if joined.rles else (),
    )


def _whole_images(block: _Block) -> Iterator[_Block]:
    """Parts of about `_BLOCK` detections, none of which cuts an image."""
    start = 0
    while start < len(block):
        stop = min(start + _BLOCK, len(block))
        stop = int(np.searchsorted(block.image, block.image[stop - 1], side="right"))
        part = slice(start, stop)
        yield _Block(
            image=block.image[part],
            category=block.category[part],
            score=block.score[part],
            boxes=block.boxes[part],
            rles=block.rles[part],
        )
        start = stop
