"""Which detections overlap which annotations: the sparse pairs that matching reads, from three sources.

Shape letters: N detections, P pairs or proposals, G annotations of one image, H W pixels. Only pairs of one image and
category whose IoU reaches the lowest threshold, 0.5, are kept. IoUs are computed as pycocotools does, to the bit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lttune.evaluation.ground_truth import GroundTruth, Labels
from lttune.masks import Rle, rle_ious
from lttune.types import FloatArray, IntArray

LOWEST_IOU = 0.5

# Float values of one chunk of flattened masks: 128 MiB.
_MASK_VALUES = 1 << 25
# float32 counts exactly up to here.
_EXACT_COUNT = 1 << 24
# Detections whose pairs are computed at a time: what they need stays in a processor's own cache.
_ROWS = 1 << 13

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class IouPairs:
    """Pairs of a detection and an annotation of its image and category."""

    row: IntArray  # (P,) row of the detection; ascending within an annotation
    annotation: IntArray  # (P,) in GroundTruth order
    iou: npt.NDArray[np.floating]  # (P,) from 0.5

    def of_rows(self, is_wanted: BoolArray) -> "IouPairs":
        """The pairs of those of the N detections that are wanted."""
        kept = is_wanted[self.row]
        return IouPairs(row=self.row[kept], annotation=self.annotation[kept], iou=self.iou[kept])


def box_pairs(
    ground_truth: GroundTruth,
    image: npt.NDArray[np.integer],
    category: npt.NDArray[np.integer],
    boxes_xywh: npt.NDArray[np.floating],
) -> IouPairs:
    """Pairs of N boxes; arguments are columns, image and category numbers, -1 a category the file does not list."""
    return box_pairs_of_groups(ground_truth, ground_truth.groups(image, category), boxes_xywh)


def box_pairs_of_groups(ground_truth: GroundTruth, groups: Labels, boxes_xywh: npt.NDArray[np.floating]) -> IouPairs:
    """Pairs of N boxes (N, 4); a detection of group -1 has none."""
    x, y, w, h = ground_truth.boxes_xywh.T.copy()
    right, bottom, area = x + w, y + h, w * h
    parts = []
    for rows, size, annotation in _candidates(ground_truth, groups):
        # Sides that are not finite give NaN or an infinite union here; evaluation drops such detections.
        with np.errstate(invalid="ignore", over="ignore"):
            found_x, found_y, found_w, found_h = boxes_xywh[rows].astype(np.float64, copy=False).T
            common_w = np.minimum(np.repeat(found_x + found_w, size), right[annotation])
            common_w -= np.maximum(np.repeat(found_x, size), x[annotation])
            # Most candidates lie apart.
            near = np.flatnonzero(common_w > 0)
            place = np.repeat(np.arange(len(rows)), size)[near]
            annotation, common_w = annotation[near], common_w[near]
            common_h = np.minimum((found_y + found_h)[place], bottom[annotation])
            common_h -= np.maximum(found_y[place], y[annotation])
            common = common_w * np.maximum(common_h, 0)
            union = (found_w * found_h)[place] + area[annotation] - common
            iou = np.divide(common, union, out=np.zeros_like(common), where=common != 0)
        parts.append(_near_enough(rows[place], annotation, iou))
    return _joined(parts)


def table_pairs(
    ground_truth: GroundTruth,
    image: IntArray,
    category: IntArray,
    proposal: IntArray,
    *,
    tables: npt.NDArray[np.floating],
    table_start: IntArray,
) -> IouPairs:
    """Pairs of N detections whose boxes or masks are those of proposals with known IoUs.

    Args:
        ground_truth: the index.
        image: (N,) numbers.
        category: (N,) numbers, -1 a category the file does not list.
        proposal: (N,) row of the table of the detection's image.
        tables: the (P, G) tables of all images, each raveled, one after the other; columns as in
            `GroundTruth.image_annotations`. float32 may move an IoU across a threshold by its rounding.
        table_start: (B,) where the table of each image starts.
    """
    table_width = np.diff(ground_truth.image_start)
    row_start = table_start[image] + proposal * table_width[image] - ground_truth.image_start[image]
    return _joined(
        [
            _near_enough(np.repeat(rows, size), annotation, tables[np.repeat(row_start[rows], size) + annotation])
            for rows, size, annotation in _candidates(ground_truth, ground_truth.groups(image, category))
        ]
    )


def mask_pairs(
    ground_truth: GroundTruth,
    image: npt.NDArray[np.integer],
    category: npt.NDArray[np.integer],
    rles: Sequence[Rle],
) -> IouPairs:
    """Pairs of N masks; arguments as in `box_pairs`.

    Raises:
        DataError: an annotation has no mask, or a malformed one.
    """
    return mask_pairs_of_groups(ground_truth, ground_truth.groups(image, category), rles)


def mask_pairs_of_groups(ground_truth: GroundTruth, groups: Labels, rles: Sequence[Rle]) -> IouPairs:
    """Pairs of N masks; a detection of group -1 has none, and its mask is not looked at.

    Raises:
        DataError: an annotation has no mask, or a malformed one.
    """
    rows = np.flatnonzero(groups >= 0)
    rows = rows[np.argsort(groups[rows], kind="stable")]
    found, first = np.unique(groups[rows], return_index=True)
    parts = []
    # Not strict: a split of nothing still has one part.
    for group, members in zip(found, np.split(rows, first[1:]), strict=False):
        start, stop = ground_truth.group_start[group : group + 2]
        iou = rle_ious([rles[i] for i in members], ground_truth.rles[start:stop])
        member, column = np.nonzero(iou >= LOWEST_IOU)
        parts.append(IouPairs(row=members[member], annotation=start + column, iou=iou[member, column]))
    return _joined(parts)


def box_iou_table(boxes: npt.NDArray[np.floating], annotation_boxes_xywh: FloatArray) -> FloatArray:
    """(P, G) IoUs of boxes (P, 4) xyxy with annotations' boxes (G, 4) xywh."""
    corners = boxes.astype(np.float64)
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    return _box_iou(xywh[:, None], annotation_boxes_xywh[None])


def mask_iou_table(masks: Tensor | BoolArray, annotation_masks: Tensor | BoolArray) -> FloatArray:
    """(P, G) IoUs of masks (P, H, W) bool with annotations' masks (G, H, W) bool, from exact pixel counts.

    Computed on the device of `masks`.
    """
    first = torch.as_tensor(masks).flatten(1)
    second = torch.as_tensor(annotation_masks).to(first.device).flatten(1)
    pixels = first.shape[1]
    chunk = max(1, min(_EXACT_COUNT, _MASK_VALUES // max(1, len(first) + len(second))))
    common = torch.zeros((len(first), len(second)), dtype=torch.int64, device=first.device)
    for start in range(0, pixels, chunk):
        a, b = (part[:, start : start + chunk].float() for part in (first, second))
        common += (a @ b.T).long()
    union = first.sum(dim=1)[:, None] + second.sum(dim=1) - common
    table: FloatArray = (common.double() / union.clamp(min=1)).cpu().numpy()
    return table


def mask_areas(masks: Tensor | BoolArray) -> FloatArray:
    """(P,) float64 pixels of masks (P, H, W) bool."""
    areas: FloatArray = torch.as_tensor(masks).flatten(1).sum(dim=1).double().cpu().numpy()
    return areas


def _candidates(ground_truth: GroundTruth, groups: Labels) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
    """Detections of a group, how many annotations each is compared with, and those annotations one after the other."""
    in_group = np.flatnonzero(groups >= 0)
    for begin in range(0, len(in_group), _ROWS):
        rows = in_group[begin : begin + _ROWS]
        start = ground_truth.group_start[groups[rows]]
        size = ground_truth.group_start[groups[rows] + 1] - start
        stop = np.cumsum(size)
        yield rows, size, np.arange(stop[-1]) + np.repeat(start - (stop - size), size)


def _near_enough(row: IntArray, annotation: IntArray, iou: npt.NDArray[np.floating]) -> IouPairs:
    is_near = iou >= LOWEST_IOU
    return IouPairs(row=row[is_near], annotation=annotation[is_near], iou=iou[is_near])


def _joined(parts: Sequence[IouPairs]) -> IouPairs:
    if not parts:
        return IouPairs(row=np.zeros(0, np.int64), annotation=np.zeros(0, np.int64), iou=np.zeros(0))
    return IouPairs(
        row=np.concatenate([part.row for part in parts]),
        annotation=np.concatenate([part.annotation for part in parts]),
        iou=np.concatenate([part.iou for part in parts]),
    )


def _box_iou(first: FloatArray, second: FloatArray) -> FloatArray:
    """IoUs of xywh boxes, broadcast; boxes that touch or have no extent share nothing, NaN stays NaN."""
    (x, y, w, h), (other_x, other_y, other_w, other_h) = np.moveaxis(first, -1, 0), np.moveaxis(second, -1, 0)
    with np.errstate(invalid="ignore", over="ignore"):  # sides that are not finite; evaluation drops such detections
        common_w = np.minimum(x + w, other_x + other_w) - np.maximum(x, other_x)
        common_h = np.minimum(y + h, other_y + other_h) - np.maximum(y, other_y)
        common = np.maximum(common_w, 0) * np.maximum(common_h, 0)
        union = w * h + other_w * other_h - common
        iou: FloatArray = np.divide(common, union, out=np.zeros_like(common), where=common != 0)
    return iou
