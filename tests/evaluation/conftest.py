"""Small random federated cases, and the official evaluator as their oracle."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import orjson
import pytest
from pycocotools import mask as coco_mask

Document = dict[str, Any]
Entry = dict[str, Any]
Case = tuple[Document, list[Entry]]

LVIS_API_NAMES = {
    "AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "APs", "APm": "APm", "APl": "APl",
    "AP_r": "APr", "AP_c": "APc", "AP_f": "APf", "AR": "AR@", "ARs": "ARs@", "ARm": "ARm@", "ARl": "ARl@",
}  # fmt: skip


@pytest.fixture(scope="session")
def random_case() -> Callable[[int], Case]:
    """A document and detections by seed; whole pixels and few distinct scores make ties of every kind."""
    return _random_case


@pytest.fixture(scope="session")
def lvis_api() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of its own imports
        return pytest.importorskip("lvis", reason="the oracle extra (lvis) is not installed")


@pytest.fixture
def official(
    lvis_api: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[dict[str, float], np.ndarray]]:
    """lvis-api's 13 metrics under our names and the AP of every category, as fractions with NaN for undefined."""
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis 0.5.3 asks for the name that NumPy 1.24 dropped

    def evaluate(case: Case, *, iou_type: str, max_dets: int) -> tuple[dict[str, float], np.ndarray]:
        document, entries = case
        if iou_type == "segm":
            entries = [{key: value for key, value in entry.items() if key != "bbox"} for entry in entries]
        (tmp_path / "official_gt.json").write_bytes(orjson.dumps(document))
        (tmp_path / "official_dt.json").write_bytes(orjson.dumps(entries))
        truth = lvis_api.LVIS(str(tmp_path / "official_gt.json"))
        results = lvis_api.LVISResults(truth, str(tmp_path / "official_dt.json"), max_dets=max_dets)
        evaluator = lvis_api.LVISEval(truth, results, iou_type)
        evaluator.params.max_dets = max_dets
        evaluator.run()
        found = evaluator.get_results()
        metrics = {
            ours: found[f"{theirs}{max_dets}" if theirs.endswith("@") else theirs]
            for ours, theirs in LVIS_API_NAMES.items()
        }
        per_category = evaluator.eval["precision"][..., 0].mean(axis=(0, 1))
        return (
            {name: value if value > -1 else float("nan") for name, value in metrics.items()},
            np.where(per_category > -1, per_category, np.nan),
        )

    return evaluate


def _random_case(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    category_ids = np.sort(rng.choice(np.arange(2, 40), rng.integers(1, 7), replace=False)).tolist()
    document: Document = {
        "categories": [{"id": c, "name": f"c{c}", "frequency": str(rng.choice(["r", "c", "f"]))} for c in category_ids],
        "images": [],
        "annotations": [],
    }
    entries: list[Entry] = []
    for image_id in rng.permutation(np.arange(5, 5 + rng.integers(1, 6))).tolist():
        height, width = (int(side) for side in rng.integers(60, 150, 2))
        lists = {
            key: [c for c in category_ids if rng.random() < share]
            for key, share in (("neg_category_ids", 0.4), ("not_exhaustive_category_ids", 0.2))
        }
        document["images"].append(
            {"id": image_id, "height": height, "width": width, "file_name": f"{image_id}.png", **lists}
        )
        boxes: list[list[int]] = []
        for _ in range(rng.integers(0, 9)):
            box = _near(rng, boxes, height, width)
            boxes.append(box)
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice(category_ids)),
                    "bbox": box,
                    "area": float(
                        rng.choice([box[2] * box[3], 1024, 9216, 0, 1e10, 2e10], p=[0.7, 0.1, 0.1, 0.04, 0.03, 0.03])
                    ),
                    "ignore": int(rng.random() < 0.2),
                    "iscrowd": int(rng.random() < 0.2),
                    "segmentation": _segmentation(rng, box, height, width),
                }
            )
        for _ in range(rng.integers(0, 25)):
            box = _near(rng, boxes, height, width)
            entries.append(
                {
                    "image_id": image_id,
                    "category_id": int(
                        rng.choice([*category_ids, 99], p=[0.95 / len(category_ids)] * len(category_ids) + [0.05])
                    ),
                    "score": round(float(rng.random()), int(rng.integers(1, 4))),
                    "bbox": box,
                    "segmentation": _rle(_mask(rng, box, height, width)),
                }
            )
    if not entries:  # lvis-api cannot evaluate an empty list
        return _random_case(seed + 100_000)
    return document, [entries[i] for i in rng.permutation(len(entries))]


def _near(rng: np.random.Generator, boxes: list[list[int]], height: int, width: int) -> list[int]:
    """A box inside the image, often one of those given, moved by a few pixels."""
    if boxes and rng.random() < 0.7:
        x, y, w, h = (
            value + int(rng.integers(-4, 5)) * int(rng.random() < 0.5) for value in boxes[rng.integers(len(boxes))]
        )
    else:
        side = int(rng.choice([32, 96, 8, 20, 60]))
        x, y = (int(value) for value in rng.integers(-10, 100, 2))
        w, h = side, side if rng.random() < 0.5 else int(rng.integers(1, 90))
    x, y = min(max(x, 0), width - 2), min(max(y, 0), height - 2)
    return [x, y, min(max(w, 0), width - x), min(max(h, 0), height - y)]


def _mask(rng: np.random.Generator, box: list[int], height: int, width: int) -> np.ndarray:
    x, y, w, h = box
    mask = np.zeros((height, width), np.uint8)
    mask[y : y + h, x : x + w] = 1
    mask[y : y + h // 2, x : x + int(rng.integers(0, w // 2 + 1))] = 0
    return mask


def _rle(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def _segmentation(rng: np.random.Generator, box: list[int], height: int, width: int) -> Any:
    if rng.random() < 0.5:
        return _rle(_mask(rng, box, height, width))
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]
