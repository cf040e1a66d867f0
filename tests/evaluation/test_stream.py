"""A stream gives what one call gives, whatever the order, the cuts and the pruning."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lttune.data.lvis import annotations_from_document
from lttune.errors import DataError
from lttune.evaluation import (
    DetectionColumns,
    DetectionStream,
    GroundTruth,
    Metrics,
    box_pairs,
    evaluate,
    mask_pairs,
    stream,
)
from lttune.masks import Rle, rle_areas, to_rle

Case = tuple[dict[str, Any], list[dict[str, Any]]]
MAX_DETS = 6


class Columns:
    """A random case as a stream takes it, rows in the order of the file."""

    def __init__(self, case: Case) -> None:
        self.truth = GroundTruth(annotations_from_document(case[0], "test"))
        ids = self.truth.annotations.category_ids.tolist()
        self.image = np.searchsorted(self.truth.annotations.image_ids, [e["image_id"] for e in case[1]])
        self.category = np.array([ids.index(e["category_id"]) if e["category_id"] in ids else -1 for e in case[1]])
        self.score = np.array([e["score"] for e in case[1]], np.float32)
        self.boxes = np.array([e["bbox"] for e in case[1]], np.float64)
        self.rles: list[Rle] = [to_rle(e["segmentation"], *e["segmentation"]["size"]) for e in case[1]]

    def at_once(self, iou_type: str) -> Metrics:
        boxes = iou_type == "bbox"
        area = self.boxes[:, 2] * self.boxes[:, 3] if boxes else rle_areas(self.rles).astype(np.float64)
        columns = DetectionColumns(image=self.image, category=self.category, score=self.score, area=area)
        if boxes:
            pairs = box_pairs(self.truth, self.image, self.category, self.boxes)
        else:
            pairs = mask_pairs(self.truth, self.image, self.category, self.rles)
        return evaluate(self.truth, columns, pairs, max_dets=MAX_DETS)

    def add(self, into: DetectionStream, rows: np.ndarray, *, as_number: bool = False) -> None:
        into.add(
            int(self.image[rows[0]]) if as_number else self.image[rows],
            category=self.category[rows],
            score=self.score[rows],
            boxes_xywh=self.boxes[rows],
            rles=[self.rles[i] for i in rows],
        )


def assert_equal(one: Metrics, other: Metrics) -> None:
    np.testing.assert_array_equal(one.ap, other.ap)
    np.testing.assert_array_equal(one.recall, other.recall)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("with_fixed", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_stream_equals_one_call(
    seed: int,
    with_fixed: bool,
    iou_type: str,
    random_case: Callable[[int], Case],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "_BLOCK", 7)
    monkeypatch.setattr(stream, "_PRUNE_EVERY", 5)
    columns = Columns(random_case(seed))
    expected = columns.at_once(iou_type)
    options: dict[str, Any] = {"iou_type": iou_type, "max_dets": MAX_DETS, "with_fixed": with_fixed}
    one_by_one, whole = DetectionStream(columns.truth, **options), DetectionStream(columns.truth, **options)
    for image in np.random.default_rng(seed).permutation(np.unique(columns.image)):
        columns.add(one_by_one, np.flatnonzero(columns.image == image), as_number=True)
        one_by_one.result()  # a look in between changes nothing
    columns.add(whole, np.arange(len(columns.image)))
    assert_equal(one_by_one.result(), expected)
    assert_equal(whole.result(), expected)
    if with_fixed:
        assert_equal(one_by_one.fixed_result(), whole.fixed_result())


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(8))
def test_fixed_equals_lvis_api_on_the_best_of_each_category(
    seed: int,
    iou_type: str,
    random_case: Callable[[int], Case],
    official: Callable[..., tuple[dict[str, float], np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "FIXED_MAX_DETS", 4)
    monkeypatch.setattr(stream, "_BLOCK", 11)
    monkeypatch.setattr(stream, "_PRUNE_EVERY", 20)
    document, entries = random_case(seed)
    columns = Columns((document, entries))
    found = DetectionStream(columns.truth, iou_type=iou_type, max_dets=2, with_fixed=True)
    columns.add(found, np.arange(len(entries)))
    by_score = sorted(range(len(entries)), key=lambda i: (-columns.score[i], columns.image[i], i))
    best: list[int] = []
    for category_id in {entry["category_id"] for entry in entries}:
        best += [i for i in by_score if entries[i]["category_id"] == category_id][:4]
    metrics, per_category = official((document, [entries[i] for i in sorted(best)]), iou_type=iou_type, max_dets=-1)
    assert found.fixed_result().summary() == pytest.approx(metrics, abs=1e-9, nan_ok=True)
    np.testing.assert_allclose(found.fixed_result().per_category, per_category, atol=1e-9)


def test_pruning_bounds_what_is_kept(random_case: Callable[[int], Case], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "FIXED_MAX_DETS", 3)
    monkeypatch.setattr(stream, "_BLOCK", 1)
    monkeypatch.setattr(stream, "_PRUNE_EVERY", 1)
    columns = Columns(random_case(1))
    found = DetectionStream(columns.truth, iou_type="bbox", max_dets=1, with_fixed=True)
    for image in np.unique(columns.image):
        rows = np.flatnonzero(columns.image == image)
        columns.add(found, np.repeat(rows, 50))
    bound = 3 * columns.truth.num_categories + columns.truth.num_images
    assert len(columns.image) * 50 > 4 * bound
    assert sum(len(part) for part in found._kept) <= 2 * bound + 50 * np.bincount(columns.image).max()


def test_no_detections_give_zero(random_case: Callable[[int], Case]) -> None:
    columns = Columns(random_case(2))
    found = DetectionStream(columns.truth, iou_type="segm", with_fixed=True)
    found.add(0, category=np.zeros(0, np.int64), score=np.zeros(0), rles=[])
    assert found.result().summary()["AP"] == found.fixed_result().summary()["AP"] == 0


def add_one(found: DetectionStream, *, score: float = 0.5, x: float = 1.0, width: float = 5.0) -> None:
    found.add(0, category=np.array([0]), score=np.array([score]), boxes_xywh=np.array([[x, 2.0, width, 6.0]]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"score": math.nan}, r"image \d+: detection 0 has score nan; scores must be finite"),
        ({"score": -math.inf}, "detection 0 has score -inf"),
        ({"x": math.nan}, r"image \d+: detection 0 has box \[nan, 2.0, 5.0, 6.0\]; x and y must be finite"),
        ({"x": math.inf}, "x and y must be finite"),
    ],
)
def test_what_cannot_be_ranked_or_placed_is_refused(
    value: dict[str, float], message: str, random_case: Callable[[int], Case]
) -> None:
    found = DetectionStream(Columns(random_case(0)).truth, iou_type="bbox")
    with pytest.raises(DataError, match=message):
        add_one(found, **value)


def test_an_image_comes_once(random_case: Callable[[int], Case]) -> None:
    found = DetectionStream(Columns(random_case(0)).truth, iou_type="bbox")
    add_one(found)
    with pytest.raises(DataError, match=r"image \d+: its detections came before; add all of an image at once"):
        add_one(found)


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan, math.inf])
def test_boxes_without_area_are_counted_and_dropped(width: float) -> None:
    image = {"id": 4, "height": 100, "width": 100, "file_name": "4.png"}
    document = {
        "images": [image | {"neg_category_ids": [2], "not_exhaustive_category_ids": []}],
        "categories": [{"id": 2, "name": "two", "frequency": "r"}],
        "annotations": [],
    }
    found = DetectionStream(GroundTruth(annotations_from_document(document, "test")), iou_type="bbox")
    add_one(found, width=width)
    assert math.isnan(found.result().summary()["AP"])
    assert found.num_without_area == 1
