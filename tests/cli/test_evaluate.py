"""`lttune evaluate` on the recorded cases of lvis-api, and on files with faults."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

Run = Callable[..., Any]
CASES = Path(__file__).parents[1] / "evaluation" / "cases"
NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AP_r", "AP_c", "AP_f", "AR"]
RECORDED = {"AP_r": "APr", "AP_c": "APc", "AP_f": "APf", "AR": "AR@300"}
IMAGE = {"id": 4, "height": 100, "width": 100, "file_name": "4.png"}
RIGHT = {"image_id": 4, "category_id": 2, "score": 0.5, "bbox": [0, 0, 2, 10]}


def document(**changes: Any) -> dict[str, Any]:
    """Annotations of one rare category, with one box."""
    annotation = {"id": 1, "image_id": 4, "category_id": 2, "bbox": [0, 0, 2, 10], "area": 20}
    annotation["segmentation"] = [[0, 0, 2, 0, 2, 10, 0, 10]]
    return {
        "images": [{**IMAGE, "neg_category_ids": [], "not_exhaustive_category_ids": []}],
        "categories": [{"id": 2, "name": "two", "frequency": "r"}],
        "annotations": [{**annotation, **changes}],
    }


@pytest.fixture
def evaluate(lttune: Run, tmp_path: Path) -> Run:
    def run(gt: Any, dt: Any, *options: str) -> Any:
        for name, content in (("gt.json", gt), ("dt.json", dt)):
            if content is not None:
                (tmp_path / name).write_bytes(content if isinstance(content, bytes) else orjson.dumps(content))
        return lttune("evaluate", "--gt", "gt.json", "--detections", "dt.json", *options)

    return run


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("case", ["plain", "ties_over_300"])
def test_json_has_the_flat_names_and_the_recorded_values(case: str, iou_type: str, evaluate: Run) -> None:
    gt, dt, expected = (gzip.decompress((CASES / f"{case}_{n}.json.gz").read_bytes()) for n in ("gt", "dt", "expected"))
    ran = evaluate(gt, dt, "--iou-type", iou_type, "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert set(found) >= {f"{iou_type}/{name}" for name in NAMES}
    recorded = orjson.loads(expected)[iou_type]
    for name in NAMES:
        official = recorded[RECORDED.get(name, name)]
        assert found[f"{iou_type}/{name}"] == (pytest.approx(100 * official, abs=1e-9) if official > -1 else None)


def test_undefined_is_null(evaluate: Run) -> None:
    ran = evaluate(document(), [RIGHT], "--iou-type", "bbox", "--json")
    found = json.loads(ran.out)
    assert found["bbox/AP_r"] == pytest.approx(100)
    assert found["bbox/AP_c"] is None
    assert found["bbox/APl"] is None
    text = evaluate(document(), [RIGHT], "--iou-type", "bbox").out
    assert "bbox/AP_r     100.00\n" in text
    assert "bbox/AP_c  undefined\n" in text


def test_per_category(evaluate: Run, tmp_path: Path) -> None:
    options = ("--iou-type", "bbox", "--per-category", "--csv", "table.csv")
    text = evaluate(document(), [RIGHT], *options).out
    assert [line.split() for line in text.splitlines()[-2:]] == [
        ["id", "name", "group", "images", "annotations", "AP", "AP50", "AP75", "AR", "AP_fixed"],
        ["2", "two", "r", "1", "1", *["100.00"] * 5],
    ]
    assert (tmp_path / "table.csv").read_text().splitlines()[1].startswith("2,two,r,1,1,")
    found = json.loads(evaluate(document(area=0), [RIGHT], *options, "--json").out)
    counts = {"id": 2, "name": "two", "group": "r", "images": 0, "annotations": 0}
    values = dict.fromkeys(["AP", "AP50", "AP75", "AR", "AP_fixed"])
    assert found["per_category"] == [counts | values]
    assert {"bbox/AP", "bbox/AP_fixed", "bbox/AP_fixed_r"} <= set(found)


def test_per_category_is_of_detection_files(lttune: Run) -> None:
    ran = lttune("evaluate", "best", "--per-category")
    assert ran.code == 2
    assert "--per-category and --csv need --gt and --detections instead of DIR" in ran.err


def test_max_dets(evaluate: Run) -> None:
    entries = [{**RIGHT, "score": 0.9, "bbox": [50, 50, 9, 9]}, RIGHT]
    options = ("--iou-type", "bbox", "--json", "--max-dets")
    assert json.loads(evaluate(document(), entries, *options, "1").out)["bbox/AR"] == 0
    assert json.loads(evaluate(document(), entries, *options, "2").out)["bbox/AR"] == pytest.approx(100)


def test_what_is_dropped_is_said_on_standard_error(evaluate: Run) -> None:
    entries = [{**RIGHT, "category_id": 9}, {**RIGHT, "bbox": [0, 0, 0, 5]}, RIGHT]
    ran = evaluate(document(), entries, "--iou-type", "bbox", "--json")
    assert ran.code == 0
    assert ran.err.splitlines() == [
        "dropped 1 detection of 1 unknown category (ids 9)",
        "dropped 1 detection whose area is not above 0 or not finite",
    ]
    assert json.loads(ran.out)["bbox/AP"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("gt", "dt", "message"),
    [
        (None, [RIGHT], "gt.json"),
        (b"{", [RIGHT], "gt.json"),
        (b"[]", [RIGHT], "gt.json"),
        ({"images": [], "categories": []}, [RIGHT], "annotations"),
        (document(category_id=77), [RIGHT], "77"),
        (document(image_id=77), [RIGHT], "77"),
        (document(), None, "dt.json: cannot be read"),
        (document(), b"[{", "dt.json: not JSON"),
        (document(), {}, "dt.json: the top level is {}; use a list of detections."),
        (document(), [{"image_id": 4}], "dt.json: entry 0 lacks category_id"),
        (document(), [{**RIGHT, "image_id": 5}], "dt.json: entry 0 has image_id 5"),
    ],
)
def test_faults_end_with_2_and_one_message(gt: Any, dt: Any, message: str, evaluate: Run) -> None:
    ran = evaluate(gt, dt, "--iou-type", "bbox", "--json")
    assert ran.code == 2
    assert ran.err.startswith("Error: ")
    assert message in ran.err
    assert ran.out == ""
