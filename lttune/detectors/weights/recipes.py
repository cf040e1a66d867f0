"""What weights expect of the pixels and the blocks they meet, which neither names nor shapes show."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BODY = "backbone.bottom_up."
STEM = f"{BODY}stem.conv1.weight"
# The first block that halves the map: in one of its first two convolutions.
_STRIDING_CONV = f"{BODY}res3.0.conv1.weight"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How images come to a backbone, and where its residual blocks stride.

    Attributes:
        is_bgr: channels are blue, green, red.
        pixel_std: what each channel is divided by, in their order, after the mean is taken off.
        strides_in_1x1: residual blocks stride in their first convolution, 1x1, else in the second, 3x3.
    """

    is_bgr: bool
    pixel_std: tuple[float, float, float]
    strides_in_1x1: bool

    def sees_pixels_of(self, other: "Recipe") -> bool:
        own, their = torch.tensor(self.pixel_std), torch.tensor(other.pixel_std)
        return self.is_bgr == other.is_bgr and torch.allclose(own, their, rtol=1e-3)


# torchvision's ImageNet weights, which mmdetection starts from, too.
TORCHVISION = Recipe(is_bgr=False, pixel_std=(58.395, 57.12, 57.375), strides_in_1x1=False)
# The original ResNets that detectron2's zoo and Caffe2 start from.
MSRA = Recipe(is_bgr=True, pixel_std=(1.0, 1.0, 1.0), strides_in_1x1=True)
# X-101-32x8d of the same zoo.
FAIR = Recipe(is_bgr=True, pixel_std=(57.375, 57.12, 58.395), strides_in_1x1=False)


def recipe_of_file(tensors: Mapping[str, Tensor], usual: Recipe, *, author: str) -> Recipe:
    """The recipe that a file was made by: `usual` unless something in it says otherwise.

    Args:
        tensors: of the file, by the zoo's names.
        usual: for files with such names.
        author: see `StoredWeights`.
    """
    if author == "torchvision":
        return TORCHVISION
    grouped = tensors.get(f"{BODY}res2.0.conv2.weight")
    if usual is MSRA and grouped is not None and grouped.ndim == 4 and grouped.shape[0] != grouped.shape[1]:
        usual = FAIR
    mean, std = tensors.get("pixel_mean"), tensors.get("pixel_std")
    if mean is None or std is None or mean.numel() != 3 or std.numel() != 3:
        return usual
    is_bgr = _is_bgr(mean)
    return Recipe(is_bgr=is_bgr, pixel_std=_triple(std), strides_in_1x1=is_bgr and usual.strides_in_1x1)


def recipe_of_module(module: nn.Module, own_names: Mapping[str, str]) -> Recipe | None:
    """The recipe that a detector is built to, or None where it has no residual body or does not say.

    Args:
        module: the detector.
        own_names: the zoo's name -> its own, of each of its tensors.
    """
    buffers = {name.rpartition(".")[2]: buffer for name, buffer in module.named_buffers()}
    if _STRIDING_CONV not in own_names or not {"pixel_mean", "pixel_std"} <= buffers.keys():
        return None
    conv = module.get_submodule(own_names[_STRIDING_CONV].rpartition(".")[0])
    return Recipe(
        is_bgr=_is_bgr(buffers["pixel_mean"]),
        pixel_std=_triple(buffers["pixel_std"]),
        strides_in_1x1=getattr(conv, "stride", None) == (2, 2),
    )


def adapt_stem(weight: Tensor, *, source: Recipe, target: Recipe) -> Tensor:
    """The first convolution (K, 3, h, w) with the same output on the pixels of `target` as before on those of `source`.

    Both take the same mean off, so that zeros around the image mean the same, too.
    """
    weight = weight.float() / weight.new_tensor(source.pixel_std, dtype=torch.float32).view(3, 1, 1)
    if source.is_bgr != target.is_bgr:
        weight = weight.flip(1)
    return weight * weight.new_tensor(target.pixel_std).view(3, 1, 1)


def _is_bgr(mean: Tensor) -> bool:
    """Whether a mean over photographs begins with blue: they have more red in them."""
    first, _, last = _triple(mean)
    return first < last


def _triple(values: Tensor) -> tuple[float, float, float]:
    first, second, third = values.detach().flatten().tolist()
    return first, second, third
