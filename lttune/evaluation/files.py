"""Evaluation of a detections file in the result format of LVIS and COCO."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from lttune.errors import DataError
from lttune.evaluation.ground_truth import GroundTruth
from lttune.evaluation.lvis_ap import DetectionColumns, evaluate
from lttune.evaluation.pairs import box_pairs, mask_pairs
from lttune.evaluation.report import EvaluationReport, IouType
from lttune.masks import Rle, rle_areas, to_rle
from lttune.types import Annotations, FloatArray, IntArray

_MAX_SHOWN = 10


def evaluate_files(
    ground_truth_annotations: Annotations,
    detections_path: Path,
    *,
    iou_type: IouType,
    max_dets: int = 300,
) -> tuple[EvaluationReport, list[str]]:
    """The report on a detections file, and one line per kind of entry that was dropped.

    Each entry has `image_id`, `category_id`, `score`, and `bbox` as x, y, width, height or `segmentation` as RLE. The
    area of a detection is width times height for `bbox` and its mask's pixels for `segm`, whatever box stands beside
    the mask. As in lvis-api, dropped entries take part in the cap of `max_dets` per image.

    Raises:
        DataError: the file is missing or not a list of such entries, an image is unknown, or a score, x or y is not
            finite; one line per fault, at most 10.
    """
    ground_truth = GroundTruth(ground_truth_annotations)
    entries = _Entries(detections_path)
    image, category, score = _shared_columns(entries, ground_truth_annotations)
    if iou_type == "bbox":
        boxes = _boxes(entries)
        with np.errstate(invalid="ignore", over="ignore"):  # an area that is not finite is dropped below
            area = boxes[:, 2] * boxes[:, 3]
        pairs = box_pairs(ground_truth, image, category, boxes)
    else:
        rles = _rles(entries, image, ground_truth_annotations)
        area = rle_areas(rles).astype(np.float64)
        pairs = mask_pairs(ground_truth, image, category, rles)
    columns = DetectionColumns(image=image, category=category, score=score, area=area)
    metrics = evaluate(ground_truth, columns, pairs, max_dets=max_dets)
    report = EvaluationReport.from_metrics({iou_type: metrics}, category_ids=ground_truth_annotations.category_ids)
    return report, _warnings(ground_truth, columns, entries.values("category_id"))


class _Entries:
    """The entries of a detections file, and what is wrong with them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._faults: list[str] = []
        self._entries = _read_list(path)
        for i, entry in enumerate(self._entries):
            if not isinstance(entry, dict):
                self.fault(i, f"is {_shortened(entry)}; use an object with image_id, category_id and score.")
        self.raise_faults()

    def values(self, field: str) -> list[Any]:
        return [entry.get(field) for entry in self._entries]

    def checked(self, field: str, accepts: Callable[[Any], bool], words: str) -> list[Any]:
        values = self.values(field)
        for i, value in enumerate(values):
            if not accepts(value):
                found = f"has {field} {_shortened(value)}" if field in self._entries[i] else f"lacks {field}"
                self.fault(i, f"{found}; use {words}.")
        return values

    def fault(self, i: int, what: str) -> None:
        self._faults.append(f"{self.path}: entry {i} {what}")

    def raise_faults(self) -> None:
        hidden = len(self._faults) - _MAX_SHOWN
        if self._faults:
            raise DataError("\n".join(self._faults[:_MAX_SHOWN] + ([f"... and {hidden} more"] if hidden > 0 else [])))


def _read_list(path: Path) -> list[Any]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; give the path of a detections file.") from None
    try:
        # Python's parser is slower, but takes the NaN and Infinity that Python writes.
        document = json.loads(text) if b"NaN" in text or b"Infinity" in text else orjson.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}. Is the file cut short?") from None
    if not isinstance(document, list):
        raise DataError(f"{path}: the top level is {_shortened(document)}; use a list of detections.")
    return document


def _shared_columns(entries: _Entries, annotations: Annotations) -> tuple[IntArray, IntArray, FloatArray]:
    """Image numbers, category numbers (-1 unknown) and scores."""
    image_ids = entries.checked("image_id", _is_whole, "a whole number")
    category_ids = entries.checked("category_id", _is_whole, "a whole number")
    scores = entries.checked("score", _is_finite, "a finite number")
    number_of_image = {image_id: i for i, image_id in enumerate(annotations.image_ids.tolist())}
    for i, image_id in enumerate(image_ids):
        if _is_whole(image_id) and image_id not in number_of_image:
            entries.fault(i, f"has image_id {image_id}, which no image of {annotations.source} has.")
    entries.raise_faults()
    number_of_category = {category_id: i for i, category_id in enumerate(annotations.category_ids.tolist())}
    images = np.array([number_of_image[image_id] for image_id in image_ids], np.int64)
    categories = np.array([number_of_category.get(category_id, -1) for category_id in category_ids], np.int64)
    return images, categories, np.array(scores, np.float64)


def _boxes(entries: _Entries) -> FloatArray:
    boxes = entries.checked("bbox", _is_box, "x, y, width, height with finite x and y")
    entries.raise_faults()
    return np.array(boxes, np.float64).reshape(-1, 4)


def _rles(entries: _Entries, image: IntArray, annotations: Annotations) -> list[Rle]:
    segmentations = entries.checked(
        "segmentation", lambda value: isinstance(value, dict), "an RLE with size and counts"
    )
    entries.raise_faults()
    rles = []
    for i, (segmentation, number) in enumerate(zip(segmentations, image, strict=True)):
        height, width = int(annotations.image_heights[number]), int(annotations.image_widths[number])
        try:
            rles.append(to_rle(segmentation, height, width))
        except DataError as error:
            entries.fault(i, f"cannot be used: {error}")
    entries.raise_faults()
    return rles


def _warnings(ground_truth: GroundTruth, columns: DetectionColumns, category_ids: list[int]) -> list[str]:
    lines = []
    is_unknown = columns.category < 0
    if is_unknown.any():
        ids = sorted({category_ids[i] for i in np.flatnonzero(is_unknown)})
        shown = ", ".join(map(str, ids[:_MAX_SHOWN])) + (", ..." if len(ids) > _MAX_SHOWN else "")
        known = "category" if len(ids) == 1 else "categories"
        lines.append(
            f"dropped {_counted(int(is_unknown.sum()), 'detection')} of {len(ids)} unknown {known} (ids {shown})"
        )
    has_no_area = ~is_unknown & ~((columns.area > 0) & np.isfinite(columns.area))
    if has_no_area.any():
        lines.append(f"dropped {_counted(int(has_no_area.sum()), 'detection')} whose area is not above 0 or not finite")
    if ground_truth.num_dropped:
        lines.append(
            f"dropped {_counted(ground_truth.num_dropped, 'annotation')} whose area is not above 0 or not finite"
        )
    if not category_ids:
        lines.append("the file holds no detections, so every AP is 0")
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
