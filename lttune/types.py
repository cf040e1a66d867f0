"""Frozen values that cross layers.

Shape letters: B images, M instances of one image, A annotations of a file, D detections, C foreground categories,
H W pixels. Boxes are xyxy in absolute pixels unless the name says otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

RARE, COMMON, FREQUENT = 0, 1, 2
GROUP_LETTERS = ("r", "c", "f")

Fidelity = Literal["cached", "full"]
TrialState = Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotations:
    """One annotation file as columns; categories and images are numbered from 0 in ascending order of their ids.

    Every array that refers to an image or a category holds such a number, never a file's own id.
    """

    source: str  # path or description, for messages
    image_ids: IntArray  # (B,) ascending
    image_heights: IntArray  # (B,)
    image_widths: IntArray  # (B,)
    file_names: tuple[str, ...]  # (B,) relative to the images folder
    category_ids: IntArray  # (C,) ascending
    category_names: tuple[str, ...]  # (C,)
    frequency_group: IntArray  # (C,) 0 rare, 1 common, 2 frequent, as the file states; -1 where it does not
    annotation_ids: IntArray  # (A,)
    annotation_image: IntArray  # (A,)
    annotation_category: IntArray  # (A,)
    boxes_xywh: FloatArray  # (A, 4)
    areas: FloatArray  # (A,) square pixels
    is_ignored: npt.NDArray[np.bool_]  # (A,) the optional `ignore` field, and `iscrowd` in COCO's format
    segmentations: Sequence[Any]  # (A,) as in the file: polygons, RLE, or None
    negative: IntArray  # (n, 2) pairs (image, category) of neg_category_ids
    not_exhaustive: IntArray  # (n, 2) pairs (image, category) of not_exhaustive_category_ids
    is_exhaustive: bool = False  # every image was searched for every category, as in COCO

    @property
    def num_images(self) -> int:
        return len(self.image_ids)

    @property
    def num_categories(self) -> int:
        return len(self.category_ids)

    def subset(self, images: IntArray) -> "Annotations":
        """The same categories with only the given images (numbers, ascending), renumbered from 0."""
        number = np.full(self.num_images, -1, np.int64)
        number[images] = np.arange(len(images))
        kept = np.flatnonzero(number[self.annotation_image] >= 0)

        def pairs(table: IntArray) -> IntArray:
            rows = table[number[table[:, 0]] >= 0]
            return np.stack([number[rows[:, 0]], rows[:, 1]], axis=1)

        return Annotations(
            source=self.source,
            image_ids=self.image_ids[images],
            image_heights=self.image_heights[images],
            image_widths=self.image_widths[images],
            file_names=tuple(self.file_names[i] for i in images),
            category_ids=self.category_ids,
            category_names=self.category_names,
            frequency_group=self.frequency_group,
            annotation_ids=self.annotation_ids[kept],
            annotation_image=number[self.annotation_image[kept]],
            annotation_category=self.annotation_category[kept],
            boxes_xywh=self.boxes_xywh[kept],
            areas=self.areas[kept],
            is_ignored=self.is_ignored[kept],
            segmentations=_Picked(self.segmentations, kept),
            negative=pairs(self.negative),
            not_exhaustive=pairs(self.not_exhaustive),
            is_exhaustive=self.is_exhaustive,
        )


class _Picked(Sequence[Any]):
    """Some rows of a sequence, read when they are asked for: unpacked, those of a large file would fill the memory."""

    def __init__(self, rows: Sequence[Any], picked: IntArray) -> None:
        self._rows = rows
        self._picked = picked

    def __len__(self) -> int:
        return len(self._picked)

    def __getitem__(self, i: Any) -> Any:
        return self._rows[int(self._picked[i])]


@dataclass(frozen=True, kw_only=True, eq=False)
class CategoryFrequencies:
    """How often each category occurs in the full training annotations."""

    image_count: torch.Tensor  # (C,) int64, images that contain the category
    instance_count: torch.Tensor  # (C,) int64, annotations of the category
    group: torch.Tensor  # (C,) int64, 0 rare (1-10 images), 1 common (11-100), 2 frequent
    # (C,) float64, annotations, each as often as repeat factor sampling shows its image; None where not known
    repeated_instance_count: torch.Tensor | None = None

    @property
    def num_categories(self) -> int:
        return int(self.image_count.shape[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """Ground truth of one image."""

    boxes: torch.Tensor  # (M, 4) float32
    labels: torch.Tensor  # (M,) int64 in [0, C)
    masks: torch.Tensor | None = None  # (M, H, W) uint8, 0 or 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """What a detector finds in one image, by descending score."""

    boxes: torch.Tensor  # (D, 4) float32
    scores: torch.Tensor  # (D,) float32 in [0, 1]
    labels: torch.Tensor  # (D,) int64 in [0, C)
    masks: torch.Tensor | None = None  # (D, m, m) float32 in [0, 1], the mask inside its box


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """One finished or unfinished trial of a study."""

    number: int
    state: TrialState
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    seconds: float | None = None
    fidelity: Fidelity | None = None
    reason: str | None = None  # why it failed
    applied_hash: str | None = None  # of the values read back from the live objects
    failure: str | None = None  # the kind of what made it fail: an error's class, `WorkerDied`, `UndefinedObjective`


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A study as its storage tells it."""

    study: str
    objective: Mapping[str, str]  # metric, mode
    best: int | None  # number of the best COMPLETE trial
    trials: tuple[TrialResult, ...] = field(default=())

    @property
    def best_trial(self) -> TrialResult | None:
        return None if self.best is None else next(t for t in self.trials if t.number == self.best)
