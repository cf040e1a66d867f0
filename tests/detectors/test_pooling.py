"""Both poolers against torchvision's."""

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from lttune.detectors.pooling import AlignPool, BilinearPool

STRIDES = {"p2": 4, "p3": 8}


def maps_and_boxes(dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    maps = {
        "p3": torch.randn(3, 6, 12, 16, generator=generator, dtype=dtype),
        "p2": torch.randn(3, 6, 24, 32, generator=generator, dtype=dtype),
    }
    corners = torch.rand(3, 9, 2, generator=generator, dtype=dtype) * torch.tensor([60.0, 40.0], dtype=dtype)
    sides = 4 + torch.rand(3, 9, 2, generator=generator, dtype=dtype) * 50
    boxes = list(torch.cat([corners, corners + sides], dim=2))
    boxes[1] = boxes[1][:0]  # an image without RoIs
    boxes[2][0] = torch.tensor([0.0, 0.0, 128.0, 96.0])  # the whole image
    boxes[2][1] = torch.tensor([8.0, 8.0, 40.0, 40.0])  # exactly where the second map begins
    return maps, boxes


def test_bilinear_pool_is_roi_align_with_one_half_pixel_exact_sample() -> None:
    maps, boxes = maps_and_boxes()
    pooled = BilinearPool(STRIDES, size=7, second_side=32)(maps, boxes)
    expected = []
    for image, own in enumerate(boxes):
        for box in own:
            is_large = (box[2] - box[0]) * (box[3] - box[1]) >= 32 * 32
            name, stride = ("p3", 8) if is_large else ("p2", 4)
            row = torch.cat([torch.tensor([float(image)]), box])[None]
            expected.append(roi_align(maps[name], row, 7, 1 / stride, sampling_ratio=1, aligned=True))
    torch.testing.assert_close(pooled, torch.cat(expected), atol=1e-5, rtol=1e-5)
    assert pooled.is_contiguous(memory_format=torch.channels_last)


def test_gradients_of_bilinear_pool_are_those_of_its_values() -> None:
    maps, boxes = maps_and_boxes(torch.float64)
    pool = BilinearPool(STRIDES, size=2, second_side=32)
    boxes = [own[:2] for own in boxes]
    fine, coarse = (maps[name][:, :1, :6, :6].clone().requires_grad_() for name in ("p2", "p3"))
    assert torch.autograd.gradcheck(lambda p2, p3: pool({"p2": p2, "p3": p3}, boxes), (fine, coarse))


def test_align_pool_is_torchvisions_pooler() -> None:
    maps, boxes = maps_and_boxes()
    pool = AlignPool(STRIDES, size=7, second_side=32, samples=2)
    reference = MultiScaleRoIAlign(["p2", "p3"], 7, 2, canonical_scale=32, canonical_level=3)
    ordered = {name: maps[name] for name in STRIDES}
    assert torch.equal(pool(maps, boxes), reference(ordered, boxes, [(96, 128)] * 3))


def test_align_pool_takes_the_recipes_samples() -> None:
    maps, boxes = maps_and_boxes()
    wide = [own + torch.tensor([0.0, 0.0, 1.0, 1.0]) for own in boxes]
    for samples, is_aligned, margin, own in ((0, True, 0, boxes), (2, False, 1, wide)):
        pool = AlignPool(STRIDES, size=7, second_side=32, samples=samples, is_aligned=is_aligned, margin=margin)
        expected = []
        for image, of_image in enumerate(own):
            for box in of_image:
                is_large = (box[2] - box[0]) * (box[3] - box[1]) >= 32 * 32
                name, stride = ("p3", 8) if is_large else ("p2", 4)
                row = torch.cat([torch.tensor([float(image)]), box])[None]
                expected.append(roi_align(maps[name], row, 7, 1 / stride, samples, is_aligned))
        torch.testing.assert_close(pool(maps, boxes), torch.cat(expected))


def test_a_batch_without_rois_gives_nothing() -> None:
    maps, boxes = maps_and_boxes()
    for pool in (BilinearPool(STRIDES, size=7, second_side=32), AlignPool(STRIDES, size=7, second_side=32, samples=2)):
        assert pool(maps, [own[:0] for own in boxes]).shape == (0, 6, 7, 7)
