"""Geometry of an image and its target together.

Images are uint8 (3, H, W); boxes xyxy in pixels, masks uint8 (M, H, W) of 0 and 1.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from lttune.types import Target


def resize(image: Tensor, target: Target, *, short_px: int, max_long_px: int) -> tuple[Tensor, Target]:
    """Scale so that the short side is `short_px`, or less where the long side would pass `max_long_px`.

    The image is interpolated bilinearly with antialiasing, masks by their nearest pixel; boxes follow the rounded
    size, so that they fit the image exactly.
    """
    H, W = image.shape[1:]
    scale = min(short_px / min(H, W), max_long_px / max(H, W))
    size = (max(1, round(H * scale)), max(1, round(W * scale)))
    if size == (H, W):
        return image, target
    resized = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True, align_corners=False)[0]
    ratio = torch.tensor([size[1] / W, size[0] / H] * 2)
    masks = target.masks
    if masks is not None:
        # interpolate refuses an empty batch of masks.
        masks = F.interpolate(masks[None], size, mode="nearest-exact")[0] if len(masks) else masks.new_zeros(0, *size)
    # Rounded before the cast, which truncates.
    return resized.round().clamp(0, 255).to(torch.uint8), replace(target, boxes=target.boxes * ratio, masks=masks)


def flip(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirror left and right."""
    x0, y0, x1, y1 = target.boxes.unbind(dim=1)
    width = image.shape[-1]
    boxes = torch.stack([width - x1, y0, width - x0, y1], dim=1)
    masks = None if target.masks is None else target.masks.flip(-1)
    return image.flip(-1), replace(target, boxes=boxes, masks=masks)
