"""The recorded cases of lvis-api, and what users may get wrong in a detections file."""

import gzip
import math
from pathlib import Path
from typing import Any

import orjson
import pytest

from lttune.data.lvis import annotations_from_document
from lttune.errors import DataError
from lttune.evaluation import EvaluationReport, evaluate_files
from lttune.types import Annotations

CASES = Path(__file__).parent / "cases"
RECORDED_NAMES = {
    "AP_r": "APr", "AP_c": "APc", "AP_f": "APf", "AR": "AR@300", "ARs": "ARs@300", "ARm": "ARm@300", "ARl": "ARl@300"
}  # fmt: skip
BLOCK = {"size": [100, 100], "counts": [0, 10, 90, 10, 9890]}
RIGHT = {"image_id": 4, "category_id": 2, "score": 0.5, "bbox": [0, 0, 2, 10], "segmentation": BLOCK}


def recorded(name: str) -> Any:
    return orjson.loads(gzip.decompress((CASES / f"{name}.json.gz").read_bytes()))


@pytest.fixture
def truth() -> Annotations:
    """One annotation of category 2 in image 4, of 100 x 100 pixels."""
    image = {"id": 4, "height": 100, "width": 100, "file_name": "4.png"}
    annotation = {"id": 1, "image_id": 4, "category_id": 2, "bbox": [0, 0, 2, 10], "area": 20, "segmentation": BLOCK}
    return annotations_from_document(
        {
            "images": [image | {"neg_category_ids": [], "not_exhaustive_category_ids": []}],
            "categories": [{"id": 2, "name": "two", "frequency": "r"}],
            "annotations": [annotation, annotation | {"id": 2, "area": 0}],
        },
        "truth.json",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dt.json"


def evaluate_entries(
    truth: Annotations, path: Path, entries: Any, **options: Any
) -> tuple[EvaluationReport, list[str]]:
    path.write_bytes(orjson.dumps(entries))
    return evaluate_files(truth, path, **{"iou_type": "bbox", **options})


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("case", ["plain", "ties_over_300"])
def test_equals_the_recorded_answers_of_lvis_api(case: str, iou_type: Any, path: Path) -> None:
    annotations = annotations_from_document(recorded(f"{case}_gt"), case)
    report, warnings = evaluate_entries(annotations, path, recorded(f"{case}_dt"), iou_type=iou_type)
    expected = recorded(f"{case}_expected")
    assert warnings == []
    assert len(report.metrics) == len(expected[iou_type]) == 13
    for name, value in report.metrics.items():
        short = name.removeprefix(f"{iou_type}/")
        official = expected[iou_type][RECORDED_NAMES.get(short, short)]
        assert value == pytest.approx(100 * official if official > -1 else math.nan, abs=1e-9, nan_ok=True), name
    per_category = expected[f"{iou_type}_AP_per_category"]
    assert {str(c): v for c, v in report.per_category[iou_type].items()} == pytest.approx(
        {c: 100 * v if v > -1 else math.nan for c, v in per_category.items()}, abs=1e-9, nan_ok=True
    )


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_what_is_dropped_is_said_in_one_line_each(iou_type: Any, truth: Annotations, path: Path) -> None:
    empty = {"bbox": [0, 0, 0, 5], "segmentation": {"size": [100, 100], "counts": [10000]}}
    unknown = [RIGHT | {"category_id": c} for c in (9, 7, 9, 11)]
    report, warnings = evaluate_entries(truth, path, [*unknown, RIGHT | empty, RIGHT], iou_type=iou_type)
    assert warnings == [
        "dropped 4 detections of 3 unknown categories (ids 7, 9, 11)",
        "dropped 1 detection whose area is not above 0 or not finite",
        "dropped 1 annotation whose area is not above 0 or not finite",
    ]
    assert report.metrics[f"{iou_type}/AP_r"] == pytest.approx(100)


def test_many_unknown_categories_are_cut_short(truth: Annotations, path: Path) -> None:
    _, warnings = evaluate_entries(truth, path, [RIGHT | {"category_id": 100 + i} for i in range(30)])
    assert warnings[0].endswith("30 unknown categories (ids 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, ...)")


def test_no_detections_give_zero_and_say_so(truth: Annotations, path: Path) -> None:
    report, warnings = evaluate_entries(truth, path, [])
    assert (report.metrics["bbox/AP"], report.metrics["bbox/AR"]) == (0, 0)
    assert "the file holds no detections, so every AP is 0" in warnings


def test_max_dets_counts_detections_of_an_image(truth: Annotations, path: Path) -> None:
    entries = [RIGHT | {"score": 0.9, "category_id": 77}, RIGHT]
    assert evaluate_entries(truth, path, entries, max_dets=1)[0].metrics["bbox/AP"] == 0
    assert evaluate_entries(truth, path, entries, max_dets=2)[0].metrics["bbox/AP"] == pytest.approx(100)


def test_masks_have_the_area_of_their_pixels_whatever_box_stands_beside(truth: Annotations, path: Path) -> None:
    # An unmatched large mask beside a small box is no false positive among the small ones.
    large = {"size": [100, 100], "counts": [2000, 8000]}
    entries = [RIGHT | {"score": 0.9, "segmentation": large}, RIGHT]
    report, _ = evaluate_entries(truth, path, entries, iou_type="segm")
    assert report.metrics["segm/APs"] == pytest.approx(100)
    assert report.metrics["segm/AP"] == pytest.approx(50)


@pytest.mark.parametrize(
    "box", ["[0, 0, NaN, 5]", "[0, 0, 5, Infinity]", "[0, 0, 0, Infinity]", "[0, 0, 1e200, 1e200]"]
)
def test_a_side_that_is_not_finite_is_dropped(box: str, truth: Annotations, path: Path) -> None:
    path.write_text(f'[{{"image_id": 4, "category_id": 2, "score": 0.5, "bbox": {box}}}]')
    report, warnings = evaluate_files(truth, path, iou_type="bbox")
    assert report.metrics["bbox/AP"] == 0
    assert "dropped 1 detection whose area is not above 0 or not finite" in warnings


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"image_id": 5}, r"dt\.json: entry 1 has image_id 5, which no image of truth\.json has\."),
        ({"image_id": "4"}, "entry 1 has image_id '4'; use a whole number"),
        ({"category_id": 2.0}, "entry 1 has category_id 2.0; use a whole number"),
        ({"score": None}, "entry 1 has score None; use a finite number"),
        ({"score": True}, "entry 1 has score True"),
        ({"bbox": [0, 0, 5]}, r"entry 1 has bbox \[0, 0, 5\]; use x, y, width, height"),
        ({"bbox": [0, 0, 5, "5"]}, "entry 1 has bbox"),
        ({"bbox": "box"}, "entry 1 has bbox 'box'"),
        ({"segmentation": [[0, 0, 2, 0, 2, 2]]}, r"entry 1 has segmentation \[\[0.*; use an RLE"),
        ({"segmentation": BLOCK | {"size": [9, 9]}}, r"entry 1 cannot be used: segmentation has size \[9, 9\]"),
    ],
)
def test_wrong_values_are_refused(fault: dict[str, Any], message: str, truth: Annotations, path: Path) -> None:
    iou_type = "segm" if "segmentation" in fault else "bbox"
    with pytest.raises(DataError, match=message):
        evaluate_entries(truth, path, [RIGHT, RIGHT | fault], iou_type=iou_type)


@pytest.mark.parametrize("field", ["image_id", "category_id", "score", "bbox"])
def test_a_missing_field_is_named(field: str, truth: Annotations, path: Path) -> None:
    with pytest.raises(DataError, match=rf"dt\.json: entry 0 lacks {field}; use "):
        evaluate_entries(truth, path, [{key: value for key, value in RIGHT.items() if key != field}])


@pytest.mark.parametrize(
    "text",
    [
        '[{"image_id": 4, "category_id": 2, "score": NaN, "bbox": [0, 0, 2, 2]}]',
        '[{"image_id": 4, "category_id": 2, "score": -Infinity, "bbox": [0, 0, 2, 2]}]',
        '[{"image_id": 4, "category_id": 2, "score": 0.5, "bbox": [NaN, 0, 2, 2]}]',
        '[{"image_id": 4, "category_id": 2, "score": 0.5, "bbox": [0, Infinity, 2, 2]}]',
    ],
)
def test_numbers_that_are_not_finite_are_refused(text: str, truth: Annotations, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(DataError, match=r"entry 0 has (score|bbox) .*finite"):
        evaluate_files(truth, path, iou_type="bbox")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"image_id": 4', "not JSON: .* Is the file cut short"),
        ('[{"score": NaN', "not JSON"),
        ('{"annotations": []}', "the top level is .*; use a list of detections"),
        ("[1]", "entry 0 is 1; use an object"),
    ],
)
def test_files_of_another_form_are_refused(text: str, message: str, truth: Annotations, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        evaluate_files(truth, path, iou_type="bbox")


def test_a_missing_file_is_refused(truth: Annotations, path: Path) -> None:
    with pytest.raises(DataError, match=r"dt\.json: cannot be read: No such file"):
        evaluate_files(truth, path, iou_type="bbox")


def test_faults_are_told_together(truth: Annotations, path: Path) -> None:
    with pytest.raises(DataError) as caught:
        evaluate_entries(truth, path, [{"image_id": 5, "category_id": 2}] * 8)
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "... and 6 more"
