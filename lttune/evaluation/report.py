"""What an evaluation found, under the flat names that trials report, in AP points from 0 to 100."""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lttune.evaluation.ground_truth import GroundTruth
from lttune.evaluation.lvis_ap import Metrics
from lttune.types import GROUP_LETTERS, FloatArray, IntArray

IouType = Literal["bbox", "segm"]

HEADLINE = ("AP", "AP_r", "AP_c", "AP_f")


@dataclass(frozen=True, kw_only=True, eq=False)
class CategoryTable:
    """One row per category, in ascending order of ids; values in points, NaN where no annotation counts."""

    ids: IntArray  # (C,)
    names: tuple[str, ...]
    groups: tuple[str, ...]  # r, c or f; empty where the file does not say
    num_images: IntArray  # (C,) that hold an annotation that counts
    num_annotations: IntArray  # (C,) that count
    values: Mapping[str, FloatArray]  # (C,) by AP, AP50, AP75, AR and, where it was asked for, AP_fixed

    @classmethod
    def from_metrics(
        cls, metrics: Metrics, ground_truth: GroundTruth, *, fixed: Metrics | None = None
    ) -> "CategoryTable":
        annotations = ground_truth.annotations
        values = {
            "AP": metrics.per_category,
            "AP50": metrics.ap[0, 0],
            "AP75": metrics.ap[0, 5],
            "AR": metrics.recall[0].mean(axis=0),
        }
        if fixed is not None:
            values["AP_fixed"] = fixed.per_category
        return cls(
            ids=annotations.category_ids,
            names=annotations.category_names,
            groups=tuple(GROUP_LETTERS[g] if g >= 0 else "" for g in annotations.frequency_group.tolist()),
            num_images=ground_truth.num_images_of_category,
            num_annotations=ground_truth.num_counted[0],
            values={name: 100 * column for name, column in values.items()},
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Plain values by column name; NaN stays NaN."""
        counts = zip(self.num_images.tolist(), self.num_annotations.tolist(), strict=True)
        named = zip(self.ids.tolist(), self.names, self.groups, counts, strict=True)
        for i, (category_id, name, group, (num_images, num_annotations)) in enumerate(named):
            yield {
                "id": category_id,
                "name": name,
                "group": group,
                "images": num_images,
                "annotations": num_annotations,
                **{column: float(values[i]) for column, values in self.values.items()},
            }

    def write_csv(self, path: Path) -> None:
        """The rows under a line of names; an undefined value is empty."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "name", "group", "images", "annotations", *self.values])
            for row in self.rows():
                writer.writerow("" if value != value else value for value in row.values())


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationReport:
    """Metrics of boxes, masks or both; NaN where no annotation counts.

    Attributes:
        metrics: `segm/AP`, `segm/AP50`, `segm/AP75`, `segm/APs`, `segm/APm`, `segm/APl`, `segm/AP_r`, `segm/AP_c`,
            `segm/AP_f`, `segm/AR`, `segm/ARs`, `segm/ARm`, `segm/ARl`, and the same with `bbox/`.
        per_category: AP by IoU type and category id.
        fixed: `segm/AP_fixed`, `segm/AP_fixed_r`, `segm/AP_fixed_c`, `segm/AP_fixed_f`, and the same with `bbox/`, of
            detections that were not cut per image; else empty.
        categories: more of each category, by IoU type; empty where only trials look.
    """

    metrics: dict[str, float]
    per_category: dict[IouType, dict[int, float]]
    fixed: dict[str, float] = field(default_factory=dict)
    categories: Mapping[IouType, CategoryTable] = field(default_factory=dict)

    @classmethod
    def from_metrics(
        cls,
        metrics: Mapping[IouType, Metrics],
        *,
        category_ids: IntArray,
        fixed: Mapping[IouType, Metrics] | None = None,
        categories: Mapping[IouType, CategoryTable] | None = None,
    ) -> "EvaluationReport":
        """The report of one or two IoU types.

        Args:
            metrics: of each IoU type.
            category_ids: (C,) as in the annotations.
            fixed: those with 10,000 detections per category instead of a cap per image.
            categories: tables of single categories.
        """
        return cls(
            metrics={
                f"{iou_type}/{name}": 100 * value
                for iou_type, found in metrics.items()
                for name, value in found.summary().items()
            },
            fixed={
                f"{iou_type}/{name.replace('AP', 'AP_fixed')}": 100 * found.summary()[name]
                for iou_type, found in (fixed or {}).items()
                for name in HEADLINE
            },
            per_category={
                iou_type: dict(zip(category_ids.tolist(), (100 * found.per_category).tolist(), strict=True))
                for iou_type, found in metrics.items()
            },
            categories=categories or {},
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values that JSON can hold: None for NaN, text for category ids."""
        return {
            "metrics": _without_nan(self.metrics | self.fixed),
            "per_category": {iou_type: _without_nan(values) for iou_type, values in self.per_category.items()},
        }


def headline(metrics: Mapping[str, float]) -> dict[str, float]:
    """`AP`, `AP_r`, `AP_c` and `AP_f` of masks where there are masks, else of boxes."""
    iou_type = "segm" if "segm/AP" in metrics else "bbox"
    return {name: metrics[f"{iou_type}/{name}"] for name in HEADLINE}


def _without_nan(values: Mapping[Any, float]) -> dict[str, float | None]:
    return {str(key): None if math.isnan(value) else value for key, value in values.items()}
