"""Evaluation of anybody's detections: result files of lvis-api, detectron2 and mmdetection."""

from pathlib import Path

from lttune.evaluation.ground_truth import GroundTruth
from lttune.evaluation.report import CategoryTable, EvaluationReport, IouType
from lttune.evaluation.result_files import ResultColumns, read_results
from lttune.evaluation.stream import DetectionStream
from lttune.types import Annotations

_MAX_SHOWN = 10


def evaluate_files(
    ground_truth_annotations: Annotations,
    detections_path: Path,
    *,
    iou_type: IouType,
    max_dets: int = 300,
) -> tuple[EvaluationReport, list[str]]:
    """The report on a detections file, AP_fixed and single categories included, and one line per kind of entry that
    was dropped.

    Each entry has `image_id`, `category_id`, `score`, and `bbox` as x, y, width, height or `segmentation` as RLE. The
    area of a detection is width times height for `bbox` and its mask's pixels for `segm`, whatever box stands beside
    the mask. As in lvis-api, dropped entries take part in the caps: of `max_dets` per image, and for AP_fixed of 10,000
    per category instead.

    Raises:
        DataError: the file is missing or not a list of such entries, an image is unknown, or a score, x or y is not
            finite; one line per fault, at most 10.
    """
    ground_truth = GroundTruth(ground_truth_annotations)
    found = read_results(detections_path, ground_truth, iou_type=iou_type)
    stream = DetectionStream(ground_truth, iou_type=iou_type, max_dets=max_dets, with_fixed=True)
    stream.add(found.image, category=found.category, score=found.score, boxes_xywh=found.boxes, rles=found.rles)
    metrics, fixed = stream.result(), stream.fixed_result()
    report = EvaluationReport.from_metrics(
        {iou_type: metrics},
        category_ids=ground_truth_annotations.category_ids,
        fixed={iou_type: fixed},
        categories={iou_type: CategoryTable.from_metrics(metrics, ground_truth, fixed=fixed)},
    )
    return report, _warnings(ground_truth, found, stream.num_without_area)


def _warnings(ground_truth: GroundTruth, found: ResultColumns, num_without_area: int) -> list[str]:
    lines = []
    if found.unknown:
        ids = sorted(found.unknown)
        shown = ", ".join(map(str, ids[:_MAX_SHOWN])) + (", ..." if len(ids) > _MAX_SHOWN else "")
        known = "category" if len(ids) == 1 else "categories"
        lines.append(
            f"dropped {_counted(found.unknown.total(), 'detection')} of {len(ids)} unknown {known} (ids {shown})"
        )
    if num_without_area:
        lines.append(f"dropped {_counted(num_without_area, 'detection')} whose area is not above 0 or not finite")
    if ground_truth.num_dropped:
        lines.append(
            f"dropped {_counted(ground_truth.num_dropped, 'annotation')} whose area is not above 0 or not finite"
        )
    if not len(found.image):
        lines.append("the file holds no detections, so every AP is 0")
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
