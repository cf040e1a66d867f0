"""The rows that a loss's `RoiAugmenter` adds to a training step, the same way for every backend.

Shape letters: M instances of one image, K boxes of all images that the augmenter asks for, R added rows, D box-head
width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lttune.losses.base import RoiAugmenter
from lttune.types import Target

MEMORY_ROW = -2  # its `instance_ids`


@torch.no_grad()
def augmenting_rows(
    augmenter: RoiAugmenter,
    targets: Sequence[Target],
    image_sizes: Sequence[tuple[int, int]],
    *,
    pool: Callable[[list[Tensor]], Tensor],
    encode: Callable[[Tensor, Tensor], Tensor],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Let the augmenter store this batch's boxes, then draw its rows.

    Args:
        augmenter: asks for the same number of boxes per instance, those of an instance in a row.
        targets: of the batch.
        image_sizes: (H, W) of the images, without padding.
        pool: boxes (k, 4) per image to box features (K, D).
        encode: ground-truth boxes (K, 4) and boxes (K, 4) to regression targets (K, 4).
        generator: source of the draws.

    Returns:
        features (R, D), labels (R,) and regression targets (R, 4).
    """
    boxes, labels, goals = [], [], []
    for own, target in zip(augmenter.boxes(targets, image_sizes, generator), targets, strict=True):
        copies = len(own) // max(len(target.boxes), 1)
        # A jittered box may be clamped to nothing at the border; its regression target would be infinite.
        has_area = (own[:, 2:] > own[:, :2]).all(dim=1)
        boxes.append(own[has_area])
        labels.append(target.labels.repeat_interleave(copies)[has_area])
        goals.append(target.boxes.repeat_interleave(copies, dim=0)[has_area])
    augmenter.update(pool(boxes), torch.cat(labels), encode(torch.cat(goals), torch.cat(boxes)))
    return augmenter.sample(generator)
