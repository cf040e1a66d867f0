"""The first 100 images of LVIS v0.5's validation set, with detections made from their own annotations.

The annotations are read where they lie and are no part of this package.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from lttune.data.lvis import annotations_from_document
from lttune.evaluation import evaluate_files
from lttune.masks import to_rle

SHARED = Path(os.environ.get("LTTUNE_SHARED", Path(__file__).parents[3] / "shared"))
ANNOTATIONS = SHARED / "lvis" / "lvis_v0.5_val_100.json"


@pytest.mark.skipif(not ANNOTATIONS.exists(), reason=f"{ANNOTATIONS} is not there; LTTUNE_SHARED names its folder")
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_jittered_annotations_are_judged_as_by_lvis_api(
    iou_type: Any, official: Callable[..., tuple[dict[str, float], np.ndarray]], tmp_path: Path
) -> None:
    document = orjson.loads(ANNOTATIONS.read_bytes())
    # lvis-api visits every category in every image; those without annotation and detection change nothing but its time.
    annotated = {a["category_id"] for a in document["annotations"]}
    document["categories"] = [c for c in document["categories"] if c["id"] in annotated]
    for image in document["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [c for c in image[key] if c in annotated]
    rng = np.random.default_rng(0)
    entries = jittered(document, rng)
    (tmp_path / "dt.json").write_bytes(orjson.dumps(entries))
    report, warnings = evaluate_files(
        annotations_from_document(document, "lvis"), tmp_path / "dt.json", iou_type=iou_type
    )
    metrics, _ = official((document, entries), iou_type=iou_type, max_dets=300)
    expected = {f"{iou_type}/{name}": 100 * value for name, value in metrics.items()}
    assert report.metrics == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert warnings == []
    assert 5 < report.metrics[f"{iou_type}/AP"] < 95
    assert np.isfinite(list(report.metrics.values())).all()


def jittered(document: dict[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Two moved copies of each annotation, some under another category."""
    size_of = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    category_ids = sorted({a["category_id"] for a in document["annotations"]})
    entries = []
    for annotation in document["annotations"]:
        height, width = size_of[annotation["image_id"]]
        for shift in rng.exponential(0.08, 2):
            dx, dy = rng.normal(0, shift, 2) * annotation["bbox"][2:]
            x, y, w, h = annotation["bbox"]
            moved = [
                np.add(np.reshape(polygon, (-1, 2)), [dx, dy]).clip(0, [width, height]).ravel().tolist()
                for polygon in annotation["segmentation"]
            ]
            rle = to_rle(moved, height, width)
            other = rng.random() < 0.1
            entries.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": int(rng.choice(category_ids)) if other else annotation["category_id"],
                    "score": round(float(rng.beta(3, 2 + 20 * shift)), 3),
                    "bbox": [float(x + dx), float(y + dy), w, h],
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
    return entries
