import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lttune.data.transforms import flip, resize
from lttune.types import Target


def _sample(height: int, width: int) -> tuple[torch.Tensor, Target]:
    """A black image with a white rectangle, its box and its mask."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    x0, y0, x1, y1 = width // 4, height // 4, width // 2, height // 2
    image[:, y0:y1, x0:x1] = 255
    boxes = torch.tensor([[x0, y0, x1, y1]], dtype=torch.float32)
    return image, Target(boxes=boxes, labels=torch.tensor([3]), masks=(image[:1] > 0).to(torch.uint8))


def test_the_short_side_decides_the_scale() -> None:
    image, target = resize(*_sample(40, 80), short_px=20, max_long_px=100)
    assert image.shape == (3, 20, 40)
    assert image.dtype == torch.uint8
    assert target.boxes.tolist() == [[10, 5, 20, 10]]
    assert target.labels.tolist() == [3]
    assert target.masks is not None
    assert target.masks.dtype == torch.uint8
    assert target.masks.nonzero().amin(0).tolist() == [0, 5, 10]
    assert target.masks.nonzero().amax(0).tolist() == [0, 9, 19]
    assert image[0, 7, 15] == 255
    assert image[0, 15, 35] == 0


def test_the_long_side_limits_the_scale() -> None:
    image, target = resize(*_sample(40, 80), short_px=40, max_long_px=60)
    assert image.shape == (3, 30, 60)
    assert target.boxes.tolist() == [[15, 7.5, 30, 15]]


def test_the_same_size_changes_nothing() -> None:
    image, target = _sample(40, 80)
    same_image, same_target = resize(image, target, short_px=40, max_long_px=80)
    assert same_image is image
    assert same_target is target


@pytest.mark.parametrize("masks", [None, torch.zeros(0, 8, 8, dtype=torch.uint8)])
def test_targets_without_masks_or_instances_pass(masks: torch.Tensor | None) -> None:
    target = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), masks=masks)
    image, resized = resize(torch.zeros(3, 8, 8, dtype=torch.uint8), target, short_px=16, max_long_px=16)
    _, flipped = flip(image, resized)
    assert flipped.boxes.shape == (0, 4)
    assert (flipped.masks is None) == (masks is None)
    if flipped.masks is not None:
        assert flipped.masks.shape == (0, 16, 16)


@given(st.integers(8, 60), st.integers(8, 60), st.integers(8, 90), st.integers(8, 120))
def test_boxes_keep_their_place_in_the_image(height: int, width: int, short_px: int, max_long_px: int) -> None:
    image, target = _sample(height, width)
    resized, moved = resize(image, target, short_px=short_px, max_long_px=max_long_px)
    H, W = resized.shape[1:]
    assert max(H, W) <= max(max_long_px, 1)
    sides = torch.tensor([W / width, H / height] * 2)
    assert torch.allclose(moved.boxes, target.boxes * sides)
    assert moved.masks is not None
    assert moved.masks.shape == (1, H, W)


def test_a_flip_moves_boxes_and_masks() -> None:
    image, target = flip(*_sample(40, 80))
    assert target.boxes.tolist() == [[40, 10, 60, 20]]
    assert image[0, 15, 50] == 255
    assert target.masks is not None
    assert torch.equal(target.masks[0] > 0, image[0] > 0)


def test_two_flips_are_none() -> None:
    image, target = _sample(9, 13)
    back, same = flip(*flip(image, target))
    assert torch.equal(back, image)
    assert torch.equal(same.boxes, target.boxes)
    assert same.masks is not None
    assert target.masks is not None
    assert torch.equal(same.masks, target.masks)
