"""Encodings against hand-worked pixels, pastes against a pixel loop and detectron2's definition."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from lttune import masks
from lttune.errors import DataError
from lttune.masks import decode, encode_pasted, paste, rle_areas, rle_ious, to_rle

# A 2 x 3 block in a 4 x 5 image: column-major runs 5, 2, 2, 2, 2, 2, 5.
BLOCK = np.zeros((4, 5), np.uint8)
BLOCK[1:3, 1:4] = 1
BLOCK_RUNS = [5, 2, 2, 2, 2, 2, 5]
BLOCK_COUNTS = coco_mask.encode(np.asfortranarray(BLOCK))["counts"]


def random_masks(seed: int, count: int, *, side: int = 7, size: float = 40.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and boxes that lie inside, across and outside a 30 x 36 image."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 50 - 12
    extent = torch.rand(count, 2, generator=generator) * size + 0.01
    probabilities = (torch.rand(count, side, side, generator=generator) * 1.6).clamp(max=1)
    return probabilities, torch.cat([corner, corner + extent], dim=1)


def pasted_values(probabilities: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The definition, as a grid sample over the whole image."""
    x0, y0, x1, y1 = boxes.double().unbind(1)
    x = ((torch.arange(width) + 0.5)[None] - x0[:, None]) / (x1 - x0)[:, None] * 2 - 1
    y = ((torch.arange(height) + 0.5)[None] - y0[:, None]) / (y1 - y0)[:, None] * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=3)
    return F.grid_sample(probabilities.double()[:, None], grid, align_corners=False)[:, 0]


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0]],
        [[1, 1, 3, 1, 3, 3, 1, 3], [3, 1, 4, 1, 4, 3, 3, 3]],
        {"size": [4, 5], "counts": BLOCK_RUNS},
        {"size": [4, 5], "counts": BLOCK_COUNTS},
        {"size": (4, 5), "counts": BLOCK_COUNTS.decode()},
    ],
    ids=["polygon", "two polygons", "runs", "bytes", "text"],
)
def test_every_form_of_segmentation_gives_the_same_rle(segmentation: Any) -> None:
    rle = to_rle(segmentation, 4, 5)
    assert rle == {"size": [4, 5], "counts": BLOCK_COUNTS}
    np.testing.assert_array_equal(decode(rle), BLOCK)
    assert decode(rle).dtype == np.uint8


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "segmentation is None"),
        ([], r"segmentation is \[\]"),
        ({"counts": []}, "size and counts"),
        ([[1, 1, 4, 3]], r"polygon \[1, 1, 4, 3\]; use at least three points"),
        ([[1, 1, 4, 3, 2, 2, 1]], "at least three points"),
        ([[1, 1, 4, 3, 2, math.nan]], "finite"),
        ([["1", 1, 4, 3, 2, 2]], "polygon"),
        ({"size": [5, 4], "counts": BLOCK_RUNS}, r"size \[5, 4\], but its image has \[4, 5\]"),
        ({"size": [4, 5], "counts": [5, 2]}, "run lengths of all its pixels"),
        ({"size": [4, 5], "counts": [25, -5]}, "run lengths of all its pixels"),
        ({"size": [4, 5], "counts": 7}, "counts 7"),
        ({"size": [4, 5], "counts": "Ωmega"}, "pycocotools' text"),
        ({"size": [4, 5], "counts": b""}, "pycocotools' text"),
        ({"size": [4, 5], "counts": BLOCK_COUNTS + b"P"}, "pycocotools' text"),
    ],
)
def test_refuses_other_segmentations(segmentation: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_rle(segmentation, 4, 5)


@pytest.mark.parametrize("seed", range(5))
def test_decodes_what_pycocotools_encodes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Blocks of random size, so that runs of one to several digits grow and shrink.
    blocks = rng.random((rng.integers(1, 9), rng.integers(1, 9))) < 0.5
    mask = np.kron(blocks, np.ones(rng.integers(1, 60, size=2))).astype(np.uint8)
    mask ^= rng.random(mask.shape) < 0.003
    np.testing.assert_array_equal(decode(coco_mask.encode(np.asfortranarray(mask))), mask)


@pytest.mark.parametrize("runs", [BLOCK_RUNS[:-1], [*BLOCK_RUNS, 1], [25]])
def test_decode_refuses_runs_that_do_not_cover_the_image(runs: list[int]) -> None:
    rle = coco_mask.frPyObjects({"size": [4, 5], "counts": runs}, 4, 5)
    with pytest.raises(DataError, match="4 x 5"):
        decode(rle)


def test_long_values_are_shortened_in_messages() -> None:
    with pytest.raises(DataError) as caught:
        to_rle({"size": [4, 5], "counts": [1] * 5000}, 4, 5)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("count", [0, 1, 255, 256, 700])
def test_areas_of_any_number_of_masks(count: int) -> None:
    block = to_rle({"size": [4, 5], "counts": BLOCK_RUNS}, 4, 5)
    empty = to_rle({"size": [4, 5], "counts": [20]}, 4, 5)
    areas = rle_areas([block if i % 3 else empty for i in range(count)])
    assert areas.dtype == np.int64
    np.testing.assert_array_equal(areas, [6 if i % 3 else 0 for i in range(count)])


def test_ious_of_masks() -> None:
    block = to_rle({"size": [4, 5], "counts": BLOCK_RUNS}, 4, 5)
    column = to_rle({"size": [4, 5], "counts": [4, 4, 12]}, 4, 5)
    np.testing.assert_allclose(rle_ious([block, column], [block]), [[1], [2 / 8]])
    assert rle_ious([], [block]).shape == (0, 1)
    assert rle_ious([block], []).shape == (1, 0)


def test_paste_by_hand() -> None:
    # Two cells over four pixels of a row: pixel centres lie at cell positions -0.25, 0.25, 0.75, 1.25, so the row
    # [1, 0] reads 0.75, 0.75, 0.25, 0; in y both cells are equal and only the outer pixels fade to 0.75 of it.
    probabilities = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    box = torch.tensor([[1.0, 1.0, 5.0, 5.0]])
    values = {0.6: [(2, 1), (2, 2), (3, 1), (3, 2)], 0.5: [(y, x) for y in (1, 2, 3, 4) for x in (1, 2)]}
    for threshold, pixels in values.items():
        pasted = paste(probabilities, box, 6, 7, threshold=threshold)
        assert pasted.dtype == torch.bool
        assert [tuple(p) for p in pasted[0].nonzero().tolist()] == pixels


@pytest.mark.parametrize("threshold", [0.02, 0.3, 0.5, 0.9])
@pytest.mark.parametrize(("side", "size"), [(1, 40.0), (7, 40.0), (28, 2.0)])
def test_paste_equals_its_definition(side: int, size: float, threshold: float) -> None:
    probabilities, boxes = random_masks(3, 60, side=side, size=size)
    values = pasted_values(probabilities, boxes, 30, 36)
    pasted = paste(probabilities, boxes, 30, 36, threshold=threshold)
    is_clear = (values - threshold).abs() > 1e-4
    assert torch.equal(pasted[is_clear], (values >= threshold)[is_clear])
    assert is_clear.double().mean() > 0.99
    assert pasted.any()


def test_paste_over_whole_canvases_equals_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, boxes = random_masks(5, 40)
    is_clear = (pasted_values(probabilities, boxes, 30, 36) - 0.5).abs() > 1e-4
    boxes[0, 2] = math.nan
    monkeypatch.setattr(masks, "_CANVAS_VALUES", 7 * 30 * 36)  # chunks of 7, the last one smaller
    canvases = masks._paste_canvases(probabilities, boxes, 30, 36, 0.5)
    assert torch.equal(canvases[is_clear], paste(probabilities, boxes, 30, 36)[is_clear])


@pytest.mark.detectron2
def test_paste_equals_detectron2() -> None:
    mask_ops = pytest.importorskip("detectron2.layers.mask_ops", reason="detectron2 is not installed")
    probabilities, boxes = random_masks(4, 40)
    boxes = boxes.clamp(min=torch.zeros(4), max=torch.tensor([35.0, 29.0, 36.0, 30.0]))  # as its detectors clip them
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 0.5)
    theirs = mask_ops.paste_masks_in_image(probabilities, boxes, (30, 36))
    is_clear = (pasted_values(probabilities, boxes, 30, 36) - 0.5).abs() > 1e-4
    assert torch.equal(paste(probabilities, boxes, 30, 36)[is_clear], theirs[is_clear])


@pytest.mark.gpu
def test_paste_on_a_gpu_equals_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    probabilities, boxes = random_masks(5, 40)
    is_clear = (pasted_values(probabilities, boxes, 30, 36) - 0.5).abs() > 1e-4
    on_gpu = paste(probabilities.cuda(), boxes.cuda(), 30, 36).cpu()
    assert torch.equal(on_gpu[is_clear], paste(probabilities, boxes, 30, 36)[is_clear])


@pytest.mark.parametrize("threshold", [0.02, 0.5])
def test_encode_pasted_equals_the_encoded_canvas(threshold: float) -> None:
    probabilities, boxes = random_masks(6, 80)
    # All pixels of two neighbours, so that a run crosses columns, reaches the end and must not go on in the next mask.
    boxes[:2] = torch.tensor([-5.0, -5.0, 45.0, 45.0])
    probabilities[:2] = 1
    canvases = paste(probabilities, boxes, 30, 36, threshold=threshold)
    rles = encode_pasted(probabilities, boxes, 30, 36, threshold=threshold)
    assert rles == [coco_mask.encode(np.asfortranarray(c.numpy().astype(np.uint8))) for c in canvases]
    assert canvases[0].all()
    assert canvases[1].all()
    assert not canvases[2:].flatten(1).any(dim=1).all()  # some boxes lie outside


@pytest.mark.parametrize(
    "box", [[3, 3, 3, 9], [9, 3, 3, 9], [math.nan, 3, 9, 9], [50, 50, 60, 60], [-9, -9, -3, -3]], ids=str
)
def test_a_box_without_extent_or_outside_holds_nothing(box: list[float]) -> None:
    probabilities, boxes = torch.ones(1, 7, 7), torch.tensor([box], dtype=torch.float32)
    assert not paste(probabilities, boxes, 30, 36).any()
    assert rle_areas(encode_pasted(probabilities, boxes, 30, 36)).tolist() == [0]


def test_half_precision_and_no_detections() -> None:
    probabilities, boxes = random_masks(7, 5)
    raised = probabilities.half().float()
    assert torch.equal(paste(probabilities.half(), boxes, 30, 36), paste(raised, boxes, 30, 36))
    assert paste(probabilities[:0], boxes[:0], 30, 36).shape == (0, 30, 36)
    assert encode_pasted(probabilities[:0], boxes[:0], 30, 36) == []
