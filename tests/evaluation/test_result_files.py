"""Files of three frameworks, and lists that are read in parts."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch

from lttune.data.lvis import annotations_from_document
from lttune.errors import DataError
from lttune.evaluation import EvaluationReport, GroundTruth, evaluate_files, result_files
from lttune.evaluation.result_files import ResultColumns, read_results
from lttune.types import Annotations

Case = tuple[dict[str, Any], list[dict[str, Any]]]
RIGHT = {"image_id": 4, "category_id": 5, "score": 0.5, "bbox": [0.0, 0.0, 2.0, 10.0]}


@pytest.fixture
def truth() -> Annotations:
    """One annotation of category 5, the second of three, in image 4."""
    image = {"id": 4, "height": 100, "width": 100, "file_name": "4.png"}
    annotation = {"id": 1, "image_id": 4, "category_id": 5, "bbox": [0, 0, 2, 10], "area": 20}
    annotation["segmentation"] = {"size": [100, 100], "counts": [0, 10, 90, 10, 9890]}
    return annotations_from_document(
        {
            "images": [image | {"neg_category_ids": [2], "not_exhaustive_category_ids": []}],
            "categories": [{"id": c, "name": str(c), "frequency": "r"} for c in (9, 5, 2)],
            "annotations": [annotation],
        },
        "truth.json",
    )


def read(truth: Annotations, path: Path, content: bytes) -> ResultColumns:
    path.write_bytes(content)
    return read_results(path, GroundTruth(truth), iou_type="bbox")


@pytest.mark.parametrize("part", [1, 7, 64, 1000, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_is_the_same_in_parts_of_any_size(
    part: int, indent: int | None, truth: Annotations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_files, "_PART", part)
    # Objects and text inside an entry that look like the end of one.
    extra = {"parts": [{"a": 1}, {"b": [{"c": 2}, {"d": "}, {"}]}], "text": '"}, {"image_id": 1}, {'}
    entries = [RIGHT | {"score": i / 40} | (extra if i % 3 == 0 else {}) for i in range(40)]
    found = read(truth, tmp_path / "dt.json", b" \n" + json.dumps(entries, indent=indent).encode() + b"\n")
    assert found.score.tolist() == [i / 40 for i in range(40)]
    assert found.boxes.shape == (40, 4)


@pytest.mark.parametrize("part", [16, 1 << 20])
def test_faults_count_entries_over_all_parts(
    part: int, truth: Annotations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_files, "_PART", part)
    entries = [RIGHT] * 30 + [RIGHT | {"image_id": 7}, RIGHT, RIGHT | {"score": "high"}]
    with pytest.raises(DataError) as caught:
        read(truth, tmp_path / "dt.json", orjson.dumps(entries))
    first, second = str(caught.value).splitlines()
    assert "entry 30 has image_id 7, which no image" in first
    assert "entry 32 has score 'high'" in second


@pytest.mark.parametrize("part", [16, 1 << 20])
@pytest.mark.parametrize(
    "text", [b"", b"[", b'{"a": [{"b": 1}, {"c": 2}]}', b"[{}, {}, 3", b"[{}, {}} {}]", b"nothing"]
)
def test_broken_text_is_refused_in_parts_of_any_size(
    text: bytes, part: int, truth: Annotations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_files, "_PART", part)
    with pytest.raises(DataError, match=r"dt\.json: (not JSON|the top level is)"):
        read(truth, tmp_path / "dt.json", text)


def test_whole_numbers_are_scores_and_sides_too(truth: Annotations, tmp_path: Path) -> None:
    found = read(truth, tmp_path / "dt.json", orjson.dumps([RIGHT | {"score": 1, "bbox": [0, 0, 2, 10]}]))
    assert (found.score.tolist(), found.boxes.tolist()) == ([1.0], [[0.0, 0.0, 2.0, 10.0]])


def test_masks_of_unlabelled_categories_are_let_go(truth: Annotations, tmp_path: Path) -> None:
    mask = {"size": [100, 100], "counts": [0, 10, 9990]}
    entries = [RIGHT | {"segmentation": mask, "category_id": category_id} for category_id in (5, 9, 77)]
    (tmp_path / "dt.json").write_bytes(orjson.dumps(entries))
    found = read_results(tmp_path / "dt.json", GroundTruth(truth), iou_type="segm")
    assert [bool(rle) for rle in found.rles] == [True, False, False]
    assert found.unknown == {77: 1}


def rows_by_image(case: Case) -> dict[int, list[dict[str, Any]]]:
    """Entries of the categories that the file lists."""
    known = {category["id"] for category in case[0]["categories"]}
    rows: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in case[0]["images"]}
    for entry in case[1]:
        if entry["category_id"] in known:
            rows[entry["image_id"]].append(entry)
    return rows


def as_detectron2(case: Case, path: Path) -> Path:
    ids = sorted(category["id"] for category in case[0]["categories"])
    predictions = [
        {"image_id": image_id, "instances": [row | {"category_id": ids.index(row["category_id"])} for row in rows]}
        for image_id, rows in rows_by_image(case).items()
    ]
    torch.save(predictions, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def as_mmdetection(case: Case, path: Path, *, as_arrays: bool = False) -> Path:
    ids = sorted(category["id"] for category in case[0]["categories"])
    samples = []
    for image_id, rows in rows_by_image(case).items():
        boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float32).reshape(-1, 4)
        found: dict[str, Any] = {
            "bboxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
            "scores": torch.tensor([row["score"] for row in rows], dtype=torch.float32),
            "labels": torch.tensor([ids.index(row["category_id"]) for row in rows], dtype=torch.int64),
        }
        if as_arrays:
            found = {key: value.numpy() for key, value in found.items()}
        found["masks"] = [row["segmentation"] | {"counts": row["segmentation"]["counts"].encode()} for row in rows]
        samples.append({"img_id": image_id, "ori_shape": (9, 9), "scale": np.float32(2), "pred_instances": found})
    path.with_suffix(".pkl").write_bytes(pickle.dumps(samples))
    return path.with_suffix(".pkl")


def as_arrays(case: Case, path: Path) -> Path:
    return as_mmdetection(case, path, as_arrays=True)


def as_json(case: Case, path: Path) -> Path:
    rows = [row for rows in rows_by_image(case).values() for row in rows]
    path.write_bytes(orjson.dumps([row | {"score": float(np.float32(row["score"]))} for row in rows]))
    return path


def judge(case: Case, path: Path, iou_type: Any) -> EvaluationReport:
    return evaluate_files(annotations_from_document(case[0], "test"), path, iou_type=iou_type, max_dets=5)[0]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("write", [as_detectron2, as_mmdetection, as_arrays])
def test_binary_files_are_judged_like_json(
    write: Callable[[Case, Path], Path], iou_type: str, random_case: Callable[[int], Case], tmp_path: Path
) -> None:
    case = random_case(2)
    expected = judge(case, as_json(case, tmp_path / "dt.json"), iou_type)
    found = judge(case, write(case, tmp_path / "dt"), iou_type)
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-9, nan_ok=True)
    assert found.metrics[f"{iou_type}/AP"] > 1


class Trap:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("sprung"),))


@pytest.mark.parametrize("name", ["dt.pth", "dt.pkl"])
def test_a_file_runs_no_code(name: str, truth: Annotations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "dt.pth":
        torch.save([Trap()], name)
    else:
        Path(name).write_bytes(pickle.dumps([Trap()]))
    with pytest.raises(DataError, match=rf"{name}: cannot be read as .*give the JSON"):
        evaluate_files(truth, Path(name), iou_type="bbox")
    assert not Path("sprung").exists()


SAMPLE = {"img_id": 4, "pred_instances": {"bboxes": [[0, 0, 2, 10]], "scores": [0.5], "labels": [1]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "the top level is a dict, not a list of images"),
        ([[np.zeros((1, 5))]], "result 0 lacks img_id or pred_instances; give the JSON"),
        ([SAMPLE, {"img_id": 4}], "result 1 lacks img_id"),
        ([SAMPLE | {"pred_instances": SAMPLE["pred_instances"] | {"labels": [3]}}], "label 3 is not a place in the 3"),
        ([SAMPLE | {"pred_instances": SAMPLE["pred_instances"] | {"labels": []}}], "result 0 has .* boxes, scores"),
        ([SAMPLE | {"img_id": 5}], "entry 0 has image_id 5, which no image"),
    ],
)
def test_other_pickles_are_refused(content: Any, message: str, truth: Annotations, tmp_path: Path) -> None:
    (tmp_path / "dt.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=message):
        evaluate_files(truth, tmp_path / "dt.pkl", iou_type="bbox")


@pytest.mark.parametrize("cut", [0, 20, -3])
@pytest.mark.parametrize("name", ["dt.pth", "dt.pkl"])
def test_files_that_are_cut_short_are_refused(name: str, cut: int, truth: Annotations, tmp_path: Path) -> None:
    path = tmp_path / name
    torch.save([], path) if name == "dt.pth" else path.write_bytes(pickle.dumps([SAMPLE]))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="cannot be read as"):
        evaluate_files(truth, path, iou_type="bbox")


def test_other_predictions_are_refused(truth: Annotations, tmp_path: Path) -> None:
    torch.save([{"image_id": 4, "instances": 3}], tmp_path / "dt.pth")
    with pytest.raises(DataError, match="prediction 0 has no list `instances`"):
        evaluate_files(truth, tmp_path / "dt.pth", iou_type="bbox")
    torch.save([{"image_id": 4, "instances": [RIGHT | {"category_id": 5}]}], tmp_path / "dt.pth")
    with pytest.raises(DataError, match=r"label 5 is not a place in the 3 categories of truth\.json"):
        evaluate_files(truth, tmp_path / "dt.pth", iou_type="bbox")
