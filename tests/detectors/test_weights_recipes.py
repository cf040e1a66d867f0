"""What a file says of the pixels and strides it was made for."""

import pytest
import torch
from torch import Tensor

from lttune.detectors.weights.recipes import BODY, FAIR, MSRA, TORCHVISION, Recipe, adapt_stem, recipe_of_file

RGB = {"pixel_mean": torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)}
BGR = {"pixel_mean": RGB["pixel_mean"].flip(0)}
PLAIN = {"pixel_std": torch.ones(3, 1, 1)}
SCALED = {"pixel_std": torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)}
RESNET = {f"{BODY}res2.0.conv2.weight": torch.zeros(64, 64, 3, 3)}
RESNEXT = {f"{BODY}res2.0.conv2.weight": torch.zeros(256, 8, 3, 3)}


@pytest.mark.parametrize(
    ("tensors", "author", "expected"),
    [
        (RESNET, "", MSRA),
        (RESNET, "torchvision", TORCHVISION),
        (RESNEXT, "Caffe2", FAIR),
        ({**RESNET, **BGR, **PLAIN}, "", MSRA),
        ({**RESNET, **RGB, **SCALED}, "", TORCHVISION),
        ({**RESNEXT, **BGR, "pixel_std": SCALED["pixel_std"].flip(0)}, "", FAIR),
        ({**RESNET, **RGB}, "", MSRA),
    ],
)
def test_a_file_of_the_zoo(tensors: dict[str, Tensor], author: str, expected: Recipe) -> None:
    found = recipe_of_file(tensors, MSRA, author=author)
    assert (found.is_bgr, found.strides_in_1x1) == (expected.is_bgr, expected.strides_in_1x1)
    # The zoo's numbers for the same pixels differ a little.
    assert found.pixel_std == pytest.approx(expected.pixel_std, rel=0.02)


def test_other_codes_have_one_recipe_whatever_the_body() -> None:
    assert recipe_of_file(RESNEXT, TORCHVISION, author="") is TORCHVISION


def test_a_stem_there_and_back_is_itself() -> None:
    weight = torch.randn(4, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    there = adapt_stem(weight, source=TORCHVISION, target=MSRA)
    torch.testing.assert_close(there[:, 2] * 58.395, weight[:, 0])
    torch.testing.assert_close(adapt_stem(there, source=MSRA, target=TORCHVISION), weight)
