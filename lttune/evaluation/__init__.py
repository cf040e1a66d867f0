"""Federated average precision of boxes and masks, equal to lvis-api."""

from lttune.evaluation.files import evaluate_files
from lttune.evaluation.ground_truth import GroundTruth
from lttune.evaluation.lvis_ap import DetectionColumns, Metrics, evaluate
from lttune.evaluation.pairs import (
    IouPairs,
    box_iou_table,
    box_pairs,
    mask_areas,
    mask_iou_table,
    mask_pairs,
    table_pairs,
)
from lttune.evaluation.report import CategoryTable, EvaluationReport, headline
from lttune.evaluation.stream import FIXED_MAX_DETS, DetectionStream

__all__ = [
    "FIXED_MAX_DETS",
    "CategoryTable",
    "DetectionColumns",
    "DetectionStream",
    "EvaluationReport",
    "GroundTruth",
    "IouPairs",
    "Metrics",
    "box_iou_table",
    "box_pairs",
    "evaluate",
    "evaluate_files",
    "headline",
    "mask_areas",
    "mask_iou_table",
    "mask_pairs",
    "table_pairs",
]
