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
from itertools import islice
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
_ENCODED_TOGETHER = 32
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
    crops = _crops(probabilities.cpu(), boxes.cpu(), height, width, threshold)
    rles: list[Rle] = []
    while chunk := list(islice(crops, _ENCODED_TOGETHER)):
        runs = _run_lengths(chunk, height, width)
        rles += coco_mask.frPyObjects([{"size": [height, width], "counts": own} for own in runs], height, width)
    return rles


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
    """(..., num_cells): what each cell adds to each pixel of an axis, on which the box reaches from low to high."""
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
        canvas[top : top + crop.shape[1], left : left + crop.shape[0]] = crop.T
    return canvases


def _crops(
    probabilities: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> Iterator[tuple[int, int, Tensor]]:
    """Top, left and the bool crop (w, h), columns first, of each pasted mask; nothing of it lies outside the crop."""
    boxes = _without_empty(boxes)
    probabilities = probabilities.float()
    m = probabilities.shape[-1]
    # The outermost cells fade out over half a cell beyond the box.
    reach = (boxes[:, 2:] - boxes[:, :2]) / (2 * m) + 0.5
    size = torch.tensor([width, height])
    first = (boxes[:, :2] - reach).floor().clamp(min=torch.zeros(2), max=size).long()
    last = (boxes[:, 2:] + reach).ceil().clamp(min=torch.zeros(2), max=size).long()
    # The weights of all masks together: mask by mask they would take longer than the products.
    across, down = (
        _window_weights(first[:, axis], last[:, axis], boxes[:, axis], boxes[:, axis + 2], m) for axis in (0, 1)
    )
    corners = first.tolist()
    for (left, top), cells, columns, rows in zip(corners, probabilities.mT, across, down, strict=True):
        yield top, left, columns @ cells @ rows.T >= threshold


def _window_weights(first: Tensor, last: Tensor, low: Tensor, high: Tensor, num_cells: int) -> Sequence[Tensor]:
    """(last - first, num_cells) weights of `_axis_weights` for each mask's pixels of one axis."""
    lengths = last - first
    mask = torch.repeat_interleave(torch.arange(len(first)), lengths)
    starts = torch.cumsum(lengths, 0) - lengths
    pixels = torch.arange(len(mask)) - (starts - first)[mask]
    return torch.split(_axis_weights(pixels, low[mask], high[mask], num_cells), lengths.tolist())


def _run_lengths(crops: Sequence[tuple[int, int, Tensor]], height: int, width: int) -> list[IntArray]:
    """Column-major run lengths, background first, of canvases that are empty outside their crops."""
    shapes = np.array([crop.shape for _, _, crop in crops])
    corners = np.array([(left, top) for top, left, _ in crops])
    # An empty pixel after each column keeps runs of neighbouring columns, and of neighbouring masks, apart.
    heights = shapes[:, 1] + 1
    ends = np.cumsum(shapes[:, 0] * heights)
    starts = ends - shapes[:, 0] * heights
    pixels = np.zeros(1 + ends[-1], np.bool_)
    for (_, _, crop), start, end in zip(crops, starts, ends, strict=True):
        pixels[1 + start : 1 + end].reshape(len(crop), crop.shape[1] + 1)[:, :-1] = crop.numpy()
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    mask = np.searchsorted(ends, edges, side="right")
    column, row = np.divmod(edges - starts[mask], heights[mask])
    # Their places in the canvases, laid out one after the other with a pixel between them.
    places = (corners[mask, 0] + column) * height + corners[mask, 1] + row + mask * (height * width + 1)
    # A crop as high as the image: a run goes on in the next column where one ends at its foot.
    goes_on = np.flatnonzero(places[1:] == places[:-1])
    if len(goes_on):
        keep = np.ones(len(places), np.bool_)
        keep[goes_on] = keep[goes_on + 1] = False
        places, mask = places[keep], mask[keep]
    runs = []
    for i, own in enumerate(np.split(places, np.searchsorted(mask, np.arange(1, len(crops))))):
        own = np.diff(own - i * (height * width + 1), prepend=0, append=height * width)
        runs.append(own if own[-1] else own[:-1])
    return runs


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
