"""Evaluation of boxes on LVIS-like data: lttune against lvis-api, in CPU seconds.

    python -m benchmarks.evaluation --images 1000

needs the oracle extra (`pip install "lttune[oracle]"`). The data are synthetic: 1203 categories (337 rare, 461 common,
405 frequent), about 12 annotations and 297 detections per image, of which about half are in categories that the image
is labelled for.
"""

import argparse
import math
import os
import platform
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson

from lttune.data.lvis import load_annotations
from lttune.evaluation import DetectionColumns, GroundTruth, Metrics, box_pairs, evaluate, evaluate_files
from lttune.types import FloatArray, IntArray

NUM_CATEGORIES = 1203
NUM_RARE, NUM_COMMON = 337, 461
DETECTIONS_PER_IMAGE = 297
IMAGE_SIDE = 640
MAX_DETS = 300
LVIS_API_NAMES = {name: name for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")} | {
    "AP_r": "APr",
    "AP_c": "APc",
    "AP_f": "APf",
    "AR": "AR@300",
    "ARs": "ARs@300",
    "ARm": "ARm@300",
    "ARl": "ARl@300",
}

T = TypeVar("T")


def synthetic_lvis(rng: np.random.Generator, num_images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An annotation document and a list of detections."""
    # Category ids are dealt at random; the frequent ones are drawn far more often.
    popularity = 1.0 / (np.arange(NUM_CATEGORIES) + 5.0)
    popularity = rng.permutation(popularity / popularity.sum())
    rank = np.argsort(np.argsort(popularity))
    letters = ["r" if r < NUM_RARE else "c" if r < NUM_RARE + NUM_COMMON else "f" for r in rank]
    document: dict[str, Any] = {"images": [], "annotations": []}
    document["categories"] = [{"id": c + 1, "name": f"category {c + 1}", "frequency": f} for c, f in enumerate(letters)]
    detections: list[dict[str, Any]] = []
    for image_id in range(1, num_images + 1):
        present = np.unique(rng.choice(NUM_CATEGORIES, rng.integers(1, 10), p=popularity))
        category = np.repeat(present, rng.geometric(0.36, len(present)).clip(max=30))
        negative = np.setdiff1d(rng.choice(NUM_CATEGORIES, 10), present)
        document["images"].append(
            {
                "id": image_id,
                "height": IMAGE_SIDE,
                "width": IMAGE_SIDE,
                "file_name": f"{image_id:012}.jpg",
                "neg_category_ids": (negative + 1).tolist(),
                "not_exhaustive_category_ids": (present[rng.random(len(present)) < 0.15] + 1).tolist(),
            }
        )
        boxes = _random_boxes(rng, len(category))
        for c, box in zip(category.tolist(), boxes.tolist(), strict=True):
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": c + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                }
            )
        labelled = np.concatenate([present, negative])
        detections += _image_detections(rng, image_id, category, boxes, labelled)
    return document, detections


def _random_boxes(rng: np.random.Generator, number: int) -> FloatArray:
    size = np.exp(rng.normal(4.0, 0.9, (number, 2))).clip(4, IMAGE_SIDE / 2)
    return np.round(np.concatenate([rng.random((number, 2)) * (IMAGE_SIDE - size), size], axis=1), 2)


def _image_detections(
    rng: np.random.Generator, image_id: int, category: IntArray, boxes: FloatArray, labelled: IntArray
) -> list[dict[str, Any]]:
    """Some shifted copies of each annotation, the rest anywhere; near copies score higher."""
    copied = np.repeat(np.arange(len(category)), rng.integers(0, 8, len(category)))[:DETECTIONS_PER_IMAGE]
    shift = rng.exponential(0.12, len(copied))
    near = boxes[copied].copy()
    near[:, :2] += near[:, 2:] * rng.normal(0, 1, (len(copied), 2)) * shift[:, None]
    near[:, 2:] *= np.exp(rng.normal(0, 1, (len(copied), 2)) * shift[:, None])
    number = DETECTIONS_PER_IMAGE - len(copied)
    elsewhere = np.where(
        rng.random(number) < 0.4, rng.choice(labelled, number), rng.integers(NUM_CATEGORIES, size=number)
    )
    found = np.concatenate([near, _random_boxes(rng, number)]).round(2)
    scores = np.concatenate([rng.beta(3, 2 + 10 * shift), rng.beta(1, 12, number)]).astype(np.float32)
    return [
        {"image_id": image_id, "category_id": c + 1, "score": s, "bbox": b}
        for c, s, b in zip(
            np.concatenate([category[copied], elsewhere]).tolist(), scores.tolist(), found.tolist(), strict=True
        )
    ]


def cpu_seconds(run: Callable[[], T]) -> tuple[float, T]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


@dataclass(frozen=True, kw_only=True)
class Run:
    """CPU seconds of one run, and its metrics by lttune's names."""

    seconds: dict[str, float]
    metrics: dict[str, float]


def run_lttune(annotations_path: Path, detections_path: Path) -> Run:
    annotations = load_annotations(annotations_path)
    detections = orjson.loads(detections_path.read_bytes())
    indexing, ground_truth = cpu_seconds(lambda: GroundTruth(annotations))
    # What a trial hands over.
    boxes = np.array([d["bbox"] for d in detections])
    columns = DetectionColumns(
        image=np.searchsorted(annotations.image_ids, [d["image_id"] for d in detections]),
        category=np.searchsorted(annotations.category_ids, [d["category_id"] for d in detections]),
        score=np.array([d["score"] for d in detections], np.float32),
        area=boxes[:, 2] * boxes[:, 3],
    )
    del detections

    def evaluate_columns() -> Metrics:
        pairs = box_pairs(ground_truth, columns.image, columns.category, boxes)
        return evaluate(ground_truth, columns, pairs, max_dets=MAX_DETS)

    evaluating, metrics = cpu_seconds(evaluate_columns)
    total, _ = cpu_seconds(lambda: evaluate_files(load_annotations(annotations_path), detections_path, iou_type="bbox"))
    return Run(
        seconds={"index, once per search": indexing, "evaluation": evaluating, "from files": total},
        metrics=metrics.summary(),
    )


def run_lvis_api(annotations_path: Path, detections_path: Path) -> Run:
    # lvis 0.5.3 asks NumPy for a name that it dropped in version 1.24.
    vars(np).setdefault("float", float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lvis import LVIS, LVISEval, LVISResults

    def load() -> Any:
        truth = LVIS(str(annotations_path))
        return LVISEval(truth, LVISResults(truth, str(detections_path), max_dets=MAX_DETS), "bbox")

    loading, evaluator = cpu_seconds(load)
    evaluating, _ = cpu_seconds(evaluator.run)
    results = evaluator.get_results()
    return Run(
        seconds={"evaluation": evaluating, "from files": loading + evaluating},
        # Its -1 says that no annotation counts.
        metrics={o: results[t] if results[t] > -1 else math.nan for o, t in LVIS_API_NAMES.items()},
    )


def print_times(name: str, runs: Sequence[Run]) -> None:
    for part in runs[0].seconds:
        seconds = [run.seconds[part] for run in runs]
        print(
            f"{name + ', ' + part:<32}{statistics.median(seconds):9.3f} s  "
            f"({min(seconds):.3f} to {max(seconds):.3f}, {len(seconds)} runs)"
        )


def print_comparison(ours: Sequence[Run], theirs: Sequence[Run]) -> None:
    for part in theirs[0].seconds:
        ratio = statistics.median(r.seconds[part] for r in theirs) / statistics.median(r.seconds[part] for r in ours)
        print(f"{part}: lvis-api takes {ratio:.1f} times as long")
    mine, official = ours[0].metrics, theirs[0].metrics
    difference = max(abs(mine[name] - official[name]) for name in official if not math.isnan(official[name]))
    print(
        f"AP: lttune {mine['AP']:.12f}, lvis-api {official['AP']:.12f}; 13 metrics differ by at most {difference:.1e}"
    )
    if not difference <= 1e-9:
        raise SystemExit("the metrics are not equal")


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluation of boxes: lttune against lvis-api, in CPU seconds.")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=3, help="runs of lttune")
    parser.add_argument("--lvis-repetitions", type=int, default=1, help="runs of lvis-api; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    document, detections = synthetic_lvis(np.random.default_rng(arguments.seed), arguments.images)
    print(f"machine: {machine()}")
    print(
        f"data: {arguments.images} images, {len(document['annotations'])} annotations, {len(detections)} detections, "
        f"{NUM_CATEGORIES} categories, seed {arguments.seed}"
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "annotations.json", Path(folder) / "detections.json"
        for path, content in zip(paths, (document, detections), strict=True):
            path.write_bytes(orjson.dumps(content))
        del document, detections, content
        ours = [run_lttune(*paths) for _ in range(arguments.repetitions)]
        print_times("lttune", ours)
        theirs = [run_lvis_api(*paths) for _ in range(arguments.lvis_repetitions)]
        if theirs:
            print_times("lvis-api", theirs)
            print_comparison(ours, theirs)


def machine() -> str:
    cpu_info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpu_info.read_text()) if cpu_info.exists() else []
    cpu = names[0] if names else platform.machine()
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}"


if __name__ == "__main__":
    main()
