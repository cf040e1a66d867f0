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


def copies_with_area(copies: Tensor, num_instances: int) -> tuple[Tensor, Tensor]:
    """Those of an image's jittered boxes that have an area, and the instance that each is a copy of.

    One may be clamped to nothing at the border; its regression target would be infinite.

    Args:
        copies: (k, 4), as many of each instance, those of an instance in a row.
        num_instances: M.
    """
    instance = torch.arange(num_instances, device=copies.device)
    instance = instance.repeat_interleave(len(copies) // max(num_instances, 1))
    has_area = (copies[:, 2:] > copies[:, :2]).all(dim=1)
    return copies[has_area], instance[has_area]


@torch.no_grad()
def augmenting_rows(
    augmenter: RoiAugmenter,
    targets: Sequence[Target],
    image_sizes: Sequence[tuple[int, int]],
    *,
    pool: Callable[[list[Tensor]], Tensor],
    encode: Callable[[Tensor, Tensor], Tensor],
    generator: torch.Generator,
    image_generators: Sequence[torch.Generator] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Let the augmenter store this batch's boxes, then draw its rows.

    Args:
        augmenter: asks for the same number of boxes per instance, those of an instance in a row.
        targets: of the batch.
        image_sizes: (H, W) of the images, without padding.
        pool: boxes (k, 4) per image to box features (K, D).
        encode: ground-truth boxes (K, 4) and boxes (K, 4) to regression targets (K, 4).
        generator: source of the draws of rows.
        image_generators: of each image, source of the draws of its boxes; `generator` for all by default.

    Returns:
        features (R, D), labels (R,) and regression targets (R, 4).
    """
    boxes, labels, goals = [], [], []
    if image_generators is None:
        copies = augmenter.boxes(targets, image_sizes, generator)
    else:
        alone = zip(targets, image_sizes, image_generators, strict=True)
        copies = [augmenter.boxes([target], [size], own)[0] for target, size, own in alone]
    for own, target in zip(copies, targets, strict=True):
        own, instance = copies_with_area(own, len(target.boxes))
        boxes.append(own)
        labels.append(target.labels[instance])
        goals.append(target.boxes[instance])
    augmenter.update(pool(boxes), torch.cat(labels), encode(torch.cat(goals), torch.cat(boxes)))
    return augmenter.sample(generator)
