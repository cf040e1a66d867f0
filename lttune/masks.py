"""Binary masks as COCO run-length encodings (RLE), and the paste of predicted masks into an image.

Shape letters: D detections, m mask side, H W pixels. An RLE is `{"size": [H, W], "counts": bytes}`, column-major and
compressed, as pycocotools reads and writes it.

A pixel takes the value of its centre, (x + 0.5, y + 0.5), interpolated bilinearly between the cell centres of the
mask stretched over its box; beyond the cells the mask is 0. That is detectron2's `paste_masks_in_image`, up to the
rounding of values within about 1e-5 of the threshold. torchvision rounds boxes to whole pixels first, so it differs
by up to a pixel along the boundary.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from lttune.errors import DataError
from lttune.types import FloatArray, IntArray

Rle = dict[str, Any]

# Float values of one chunk of whole canvases: 64 MiB.
_CHEAP_CANVAS_PX = 280 * 280
_CANVAS_VALUES = 1 << 24
# Six-bit digits from "0" on; those from "P" on say that their number goes on, which the last one must not.
_COUNTS = re.compile(rb"[0-o]*[0-O]")
# pycocotools counts the RLEs of one `area` call in a uint8.
_AREA_CALL = 255


def to_rle(segmentation: Any, height: int, width: int) -> Rle:
    """The RLE of one annotation's segmentation.

    Args:
        segmentation: polygons [[x0, y0, x1, y1, ...], ...] joined into one mask, or an RLE whose counts are a list of
            run lengths, text or bytes.
        height: H of the image.
        width: W of the image.

    Raises:
        DataError: the segmentation has another form, or another size than the image; the caller adds where.
    """
    if isinstance(segmentation, list) and segmentation:
        return _polygons_to_rle(segmentation, height, width)
    if not (isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys()):
        raise DataError(f"segmentation is {_shortened(segmentation)}; use polygons or an RLE with size and counts.")
    size, counts = segmentation["size"], segmentation["counts"]
    if not (isinstance(size, (list, tuple)) and list(size) == [height, width]):
        raise DataError(f"segmentation has size {_shortened(size)}, but its image has [{height}, {width}].")
    if isinstance(counts, list):
        runs = all(type(run) is int and run >= 0 for run in counts)
        if not runs or sum(counts) != height * width:
            raise DataError(
                f"segmentation has counts {_shortened(counts)}; they must be run lengths of all its pixels."
            )
        return dict(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))
    if isinstance(counts, str) and counts.isascii():
        counts = counts.encode()
    if not (isinstance(counts, bytes) and _COUNTS.fullmatch(counts)):
        raise DataError(f"segmentation has counts {_shortened(counts)}; use run lengths or pycocotools' text.")
    return {"size": [height, width], "counts": counts}


def decode(rle: Rle) -> npt.NDArray[np.uint8]:
    """(H, W), 0 or 1.

    Raises:
        DataError: the runs do not cover the image.
    """
    height, width = rle["size"]
    runs = _decoded_runs(rle["counts"])
    if (runs < 0).any() or runs.sum() != height * width:
        raise DataError(f"segmentation has runs of {runs.sum()} pixels, but its image has {height} x {width}.")
    pixels = np.repeat((np.arange(len(runs)) % 2).astype(np.uint8), runs)
    return pixels.reshape(width, height).T


def rle_areas(rles: Sequence[Rle]) -> IntArray:
    """Pixels of each mask."""
    calls = [coco_mask.area(list(rles[i : i + _AREA_CALL])) for i in range(0, len(rles), _AREA_CALL)]
    return np.concatenate(calls).astype(np.int64) if calls else np.zeros(0, np.int64)


def rle_ious(rles: Sequence[Rle], others: Sequence[Rle]) -> FloatArray:
    """(len(rles), len(others)) intersection over union of masks of one size."""
    if not rles or not others:
        return np.zeros((len(rles), len(others)))
    return np.asarray(coco_mask.iou(list(rles), list(others), [0] * len(others)), dtype=np.float64)


def paste(probabilities: Tensor, boxes: Tensor, height: int, width: int, *, threshold: float = 0.5) -> Tensor:
    """(D, H, W) bool on the device of the probabilities: each mask stretched over its box, cut at the threshold.

    Args:
        probabilities: (D, m, m) in [0, 1].
        boxes: (D, 4); one without extent, or with NaN, holds nothing.
        height: H of the image.
        width: W of the image.
        threshold: a pixel belongs to the mask from this value on; above 0.
    """
    # An accelerator is faster at a few products over whole canvases, a CPU at one small crop per box once images are
    # larger than about 280 px.
    is_canvas_cheap = probabilities.device.type != "cpu" or height * width <= _CHEAP_CANVAS_PX
    paste_on_device = _paste_canvases if is_canvas_cheap else _paste_crops
    return paste_on_device(probabilities, boxes.to(probabilities.device), height, width, threshold)


def encode_pasted(
    probabilities: Tensor, boxes: Tensor, height: int, width: int, *, threshold: float = 0.5
) -> list[Rle]:
    """The RLEs of `paste`, computed on the CPU without a canvas; arguments as there."""
    runs = [
        _run_lengths(crop.numpy(), top, left, height, width)
        for top, left, crop in _crops(probabilities.cpu(), boxes.cpu(), height, width, threshold)
    ]
    return [coco_mask.frPyObjects({"size": [height, width], "counts": r}, height, width) for r in runs]


def _polygons_to_rle(polygons: list[Any], height: int, width: int) -> Rle:
    for polygon in polygons:
        # pycocotools would take four numbers for a box, and fewer or an odd count without complaint.
        is_list = isinstance(polygon, list) and all(type(v) in (int, float) for v in polygon)
        if not is_list or len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all():
            raise DataError(
                f"segmentation has the polygon {_shortened(polygon)}; use at least three points as finite x, y pairs."
            )
    return dict(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))


def _decoded_runs(counts: bytes) -> IntArray:
    """Run lengths, background first.

    Each is a little-endian number of 5-bit digits in two's complement, offset by "0", bit 5 saying that it goes on.
    From the fourth run on it is the difference from the run before the previous one.
    """
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero(digits < 32) + 1
    starts = np.concatenate([[0], ends[:-1]])
    place = 5 * (np.arange(len(digits)) - np.repeat(starts, ends - starts))
    runs = np.add.reduceat((digits & 31) << place, starts)
    runs -= (digits[ends - 1] >> 4) << (place[ends - 1] + 5)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _without_empty(boxes: Tensor) -> Tensor:
    """Boxes without extent, or with NaN, become all 0, which every resampling weight answers with 0."""
    has_extent = (boxes[:, 2:] > boxes[:, :2]).all(dim=1, keepdim=True)
    return torch.where(has_extent, boxes.float(), 0.0)


def _resample(probabilities: Tensor, boxes: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(D, len(y), len(x)) float32 values at those pixels; bilinear interpolation is one matrix product per axis."""
    m = probabilities.shape[-1]
    rows, columns = (
        _axis_weights(pixels, boxes[:, axis, None], boxes[:, axis + 2, None], m) for pixels, axis in ((y, 1), (x, 0))
    )
    return rows @ probabilities.float() @ columns.transpose(-1, -2)


def _axis_weights(pixels: Tensor, low: Tensor, high: Tensor, num_cells: int) -> Tensor:
    """(D, len(pixels), num_cells): what each cell adds to each pixel of an axis."""
    position = (pixels + 0.5 - low) / (high - low) * num_cells - 0.5
    cells = torch.arange(num_cells, device=pixels.device)
    return (1 - (position[..., None] - cells).abs()).clamp(min=0)


def _paste_canvases(probabilities: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    boxes = _without_empty(boxes)
    y, x = (torch.arange(size, device=boxes.device) for size in (height, width))
    canvases = torch.empty((len(boxes), height, width), dtype=torch.bool, device=boxes.device)
    chunk = max(1, _CANVAS_VALUES // (height * width))
    for start in range(0, len(boxes), chunk):
        part = slice(start, start + chunk)
        canvases[part] = _resample(probabilities[part], boxes[part], y, x) >= threshold
    return canvases


def _paste_crops(probabilities: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    canvases = torch.zeros((len(boxes), height, width), dtype=torch.bool)
    crops = _crops(probabilities, boxes, height, width, threshold)
    for canvas, (top, left, crop) in zip(canvases, crops, strict=True):
        canvas[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return canvases


def _crops(
    probabilities: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> Iterator[tuple[int, int, Tensor]]:
    """Top, left and the bool crop of each pasted mask; nothing of it lies outside the crop."""
    boxes = _without_empty(boxes)
    # The outermost cells fade out over half a cell beyond the box.
    reach = (boxes[:, 2:] - boxes[:, :2]) / (2 * probabilities.shape[-1]) + 0.5
    size = torch.tensor([width, height])
    first = (boxes[:, :2] - reach).floor().clamp(min=torch.zeros(2), max=size).int().tolist()
    last = (boxes[:, 2:] + reach).ceil().clamp(min=torch.zeros(2), max=size).int().tolist()
    for i, ((left, top), (right, bottom)) in enumerate(zip(first, last, strict=True)):
        y, x = torch.arange(top, bottom), torch.arange(left, right)
        yield top, left, _resample(probabilities[i : i + 1], boxes[i : i + 1], y, x)[0] >= threshold


def _run_lengths(crop: npt.NDArray[np.bool_], top: int, left: int, height: int, width: int) -> IntArray:
    """Column-major run lengths, background first, of a canvas that is empty outside the crop."""
    columns = np.zeros((crop.shape[1], height), np.bool_)
    columns[:, top : top + crop.shape[0]] = crop.T
    edges = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False)) + left * height
    runs = np.diff(edges, prepend=0, append=height * width)
    return runs if runs[-1] else runs[:-1]


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
