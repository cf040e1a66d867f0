"""Detection files of lvis-api, detectron2 and mmdetection, read part by part into columns.

Shape letters: N detections.

All three write the JSON list of COCO and LVIS: lvis-api's results, detectron2's `coco_instances_results.json`,
mmdetection's `*.bbox.json` and `*.segm.json`. detectron2's `instances_predictions.pth` and mmdetection's `.pkl` of
`tools/test.py --out` hold labels instead of category ids: place 0 is the smallest id.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from lttune.errors import DataError
from lttune.evaluation.ground_truth import EVALUATED, GroundTruth
from lttune.evaluation.pickled import read_detectron2, read_mmdetection
from lttune.evaluation.report import IouType
from lttune.masks import Rle, to_rle
from lttune.types import Annotations, FloatArray, IntArray

_MAX_SHOWN = 10
# Bytes of JSON that are parsed at a time: as objects they take about ten times as much.
_PART = 1 << 25
_BETWEEN_ENTRIES = re.compile(rb"\}(\s*,\s*)\{")
# How far back from the end of a part an entry may begin, and how many places are tried for it.
_LONGEST_ENTRY = 1 << 20
_TRIES = 8
# Stands for the mask of a detection that does not count.
_NO_MASK: Rle = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class ResultColumns:
    """The detections of a file."""

    image: IntArray  # (N,) numbers
    category: IntArray  # (N,) numbers, -1 a category that the annotations do not list
    score: FloatArray  # (N,)
    boxes: FloatArray  # (N, 4) xywh; (N, 0) where masks are read
    rles: list[Rle]  # N of them where masks are read; those of detections in unlabelled categories are left out
    unknown: Counter[int]  # detections by category id that the annotations do not list


def read_results(path: Path, ground_truth: GroundTruth, *, iou_type: IouType) -> ResultColumns:
    """The detections of a file in any of the formats above.

    Raises:
        DataError: the file is missing or of another form, an image is unknown, or a score, x or y is not finite; one
            line per fault, at most 10.
    """
    reader = _Reader(path, ground_truth, with_masks=iou_type == "segm")
    for entries in _parts(path, ground_truth.annotations):
        reader.take(entries)
    return reader.columns()


class _Reader:
    """Turns entries into columns, and collects what is wrong with them."""

    def __init__(self, path: Path, ground_truth: GroundTruth, *, with_masks: bool) -> None:
        annotations = ground_truth.annotations
        self._path = path
        self._ground_truth = ground_truth
        self._with_masks = with_masks
        self._number_of_image = {image_id: i for i, image_id in enumerate(annotations.image_ids.tolist())}
        self._number_of_category = {category_id: i for i, category_id in enumerate(annotations.category_ids.tolist())}
        self._num_entries = 0
        self._faults: list[str] = []
        self._num_faults = 0
        self._columns: list[tuple[IntArray, IntArray, FloatArray, FloatArray]] = []
        self._rles: list[Rle] = []
        self._unknown: Counter[int] = Counter()

    def take(self, entries: list[Any]) -> None:
        num_faults = self._num_faults
        self._check(entries)
        if self._num_faults == num_faults:
            image = np.array([self._number_of_image[entry["image_id"]] for entry in entries], np.int64)
            category_ids = [entry["category_id"] for entry in entries]
            number_of = self._number_of_category
            category = np.array([number_of.get(category_id, -1) for category_id in category_ids], np.int64)
            self._unknown.update(category_ids[i] for i in np.flatnonzero(category < 0))
            score = np.array([entry["score"] for entry in entries], np.float64)
            boxes = np.zeros((len(entries), 0))
            if self._with_masks:
                self._rles += self._masks(entries, image, category)
            else:
                boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
            self._columns.append((image, category, score, boxes))
        self._num_entries += len(entries)

    def columns(self) -> ResultColumns:
        hidden = self._num_faults - len(self._faults)
        if self._faults:
            raise DataError("\n".join(self._faults + ([f"... and {hidden} more"] if hidden > 0 else [])))
        if not self._columns:
            self.take([])
        image, category, score, boxes = (np.concatenate(parts) for parts in zip(*self._columns, strict=True))
        return ResultColumns(
            image=image, category=category, score=score, boxes=boxes, rles=self._rles, unknown=self._unknown
        )

    def _check(self, entries: list[Any]) -> None:
        """Fault lines, one field after the other; a later field is looked at where the earlier ones are right."""
        if not all(type(entry) is dict for entry in entries):
            for i, entry in enumerate(entries):
                if not isinstance(entry, dict):
                    self._fault(i, f"is {_shortened(entry)}; use an object with image_id, category_id and score.")
            return
        before = self._num_faults
        image_ids = self._checked(entries, "image_id", _is_whole, "a whole number")
        self._checked(entries, "category_id", _is_whole, "a whole number")
        self._checked(entries, "score", _is_finite, "a finite number")
        source = self._ground_truth.annotations.source
        if not self._number_of_image.keys() >= {value for value in image_ids if type(value) is int}:
            for i, image_id in enumerate(image_ids):
                if _is_whole(image_id) and image_id not in self._number_of_image:
                    self._fault(i, f"has image_id {image_id}, which no image of {source} has.")
        if self._num_faults > before:
            return
        if self._with_masks:
            self._checked(entries, "segmentation", lambda value: isinstance(value, dict), "an RLE with size and counts")
        else:
            self._checked(entries, "bbox", _is_box, "x, y, width, height with finite x and y")

    def _checked(self, entries: list[Any], field: str, accepts: Callable[[Any], bool], words: str) -> list[Any]:
        values = [entry.get(field) for entry in entries]
        if not _are_plain(values, field):
            for i, value in enumerate(values):
                if not accepts(value):
                    found = f"has {field} {_shortened(value)}" if field in entries[i] else f"lacks {field}"
                    self._fault(i, f"{found}; use {words}.")
        return values

    def _masks(self, entries: list[Any], image: IntArray, category: IntArray) -> list[Rle]:
        annotations = self._ground_truth.annotations
        is_labelled = self._ground_truth.labels(image, category) & EVALUATED > 0
        heights, widths = (side[image].tolist() for side in (annotations.image_heights, annotations.image_widths))
        rles = []
        for i, (entry, height, width) in enumerate(zip(entries, heights, widths, strict=True)):
            try:
                rle = to_rle(entry["segmentation"], height, width)
                rles.append(rle if is_labelled[i] else _NO_MASK)
            except DataError as error:
                self._fault(i, f"cannot be used: {error}")
        return rles

    def _fault(self, i: int, what: str) -> None:
        self._num_faults += 1
        if len(self._faults) < _MAX_SHOWN:
            self._faults.append(f"{self._path}: entry {self._num_entries + i} {what}")


def _parts(path: Path, annotations: Annotations) -> Iterator[list[Any]]:
    """The entries of a file as those of the JSON list, some at a time."""
    try:
        with path.open("rb") as file:
            if path.suffix == ".pth":
                yield from read_detectron2(path, file, annotations)
            elif path.suffix in (".pkl", ".pickle"):
                yield from read_mmdetection(path, file, annotations)
            else:
                yield from _json_parts(path, iter(lambda: file.read(_PART), b""))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; give the path of a detections file.") from None


def _json_parts(path: Path, pieces: Iterable[bytes]) -> Iterator[list[Any]]:
    """Parts of a JSON list, each of about a piece.

    A piece is cut between two objects. The cut may fall into an entry that holds objects of its own, or into text; what
    stands before it is then no list, and another cut is tried.
    """
    rest = b""
    for piece in pieces:
        text = rest + piece
        if rest or text.lstrip()[:1] == b"[":
            start = max(0, len(text) - _LONGEST_ENTRY)
            # The first part still has its bracket; the others get one.
            for cut in reversed(list(_BETWEEN_ENTRIES.finditer(text, start))[-_TRIES:]):
                try:
                    entries = _loads(text[: cut.start() + 1] + b"]")
                except ValueError:
                    continue
                if isinstance(entries, list):
                    yield entries
                    text = b"[" + text[cut.end() - 1 :]
                    break
        rest = text
    try:
        document = _loads(rest)
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}. Is the file cut short?") from None
    if not isinstance(document, list):
        raise DataError(f"{path}: the top level is {_shortened(document)}; use a list of detections.")
    yield document


def _loads(text: bytes) -> Any:
    # Python's parser is slower, but takes the NaN and Infinity that Python writes.
    return json.loads(text) if b"NaN" in text or b"Infinity" in text else orjson.loads(text)


def _are_plain(values: list[Any], field: str) -> bool:
    """Whether all values are surely right; a cheap look that spares the one by one."""
    kinds = set(map(type, values))
    if field in ("image_id", "category_id"):
        return kinds <= {int}
    if field == "segmentation":
        return kinds <= {dict}
    if field == "score":
        return kinds <= {float} and bool(np.isfinite(values).all())
    if not (
        kinds <= {list} and set(map(len, values)) <= {4} and set(map(type, chain.from_iterable(values))) <= {float}
    ):
        return False
    return bool(np.isfinite(np.array(values, np.float64).reshape(-1, 4)[:, :2]).all())


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and abs(value) <= sys.float_info.max  # False for NaN


def _is_box(value: Any) -> bool:
    return type(value) is list and len(value) == 4 and all(map(_is_number, value)) and all(map(_is_finite, value[:2]))


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
