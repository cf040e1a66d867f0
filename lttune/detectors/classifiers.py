"""Linear and cosine classifier layers that every backend shares.

Shape letters: N rows, D width of the features, K outputs (categories and background), h w pixels of a RoI.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lttune.losses.base import ClassificationLoss, at_least_float32


def normalised(x: Tensor, *, dim: int, power: float = 1.0, eps: float = 1e-6) -> Tensor:
    """`x / (||x||^power + eps)` with norms along `dim`, in float32 at least.

    Half precision is raised first: the sum of 1024 squares overflows float16 from values of about 8. A vector that is
    exactly zero stays zero, and its gradient is `1 / eps` times the incoming one, as in the published layer; gradient
    clipping has to take care of it.
    """
    x = at_least_float32(x)
    norms: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / (norms.pow(power) + eps)


class NormedLinear(nn.Linear):
    """Cosine classifier: features and weight rows are normalised, their product is scaled, the bias is not.

    Of the published ECM and ROG codes (`models/utils/normed_predictor.py`), equal to them in value and gradient. The
    weight starts as N(0, 0.01), the bias as zeros.

    Args:
        in_features: D.
        out_features: K.
        temperature: scale of the cosine; without a bias, logits lie within it on both sides.
        power: exponent of the norms that are divided by, 1 for a true cosine.
        eps: added to each of them.
        bias: whether there is one.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        temperature: float = 20.0,
        power: float = 1.0,
        eps: float = 1e-6,
        bias: bool = True,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.temperature, self.power, self.eps = temperature, power, eps

    def reset_parameters(self) -> None:
        _start(self, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        weight = normalised(self.weight, dim=1, power=self.power, eps=self.eps)
        x = normalised(x, dim=1, power=self.power, eps=self.eps)
        return F.linear(x * self.temperature, weight, self.bias)


class NormedConv2d(nn.Conv2d):
    """`NormedLinear` at every pixel: a 1x1 convolution between normalised channels and normalised kernels.

    Args:
        in_channels: channels that are normalised together at each pixel.
        out_channels: K.
        temperature: scale of the cosine.
        eps: added to the norms.
    """

    def __init__(self, in_channels: int, out_channels: int, *, temperature: float = 20.0, eps: float = 1e-6) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)
        self.temperature, self.eps = temperature, eps

    def reset_parameters(self) -> None:
        _start(self, std=0.01)

    def scaled_input(self, x: Tensor) -> Tensor:
        """(N, in_channels, h, w) of length `temperature` at each pixel."""
        return normalised(x, dim=1, eps=self.eps) * self.temperature

    def unit_weight(self) -> Tensor:
        """(K, in_channels, 1, 1) kernels of length 1."""
        return normalised(self.weight, dim=1, eps=self.eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.scaled_input(x), self.unit_weight(), self.bias)


def own_channel(predictor: nn.Conv2d, x: Tensor, channels: Tensor | None) -> Tensor:
    """(N, h, w) of a 1x1 convolution: of row i only output `channels[i]`, or the first where `channels` is None.

    All outputs of 1203 categories would be a gigabyte for 300 masks of 28x28; each row needs one of them.

    Args:
        predictor: 1x1 convolution with a bias, plain or normed.
        x: (N, in_channels, h, w).
        channels: (N,) int64.
    """
    weight, bias = predictor.weight, predictor.bias
    assert bias is not None
    if isinstance(predictor, NormedConv2d):
        x, weight = predictor.scaled_input(x), predictor.unit_weight()
    pixels, weight = x.permute(0, 2, 3, 1), weight.flatten(1)
    if channels is None:
        return pixels @ weight[0] + bias[0]
    logits = torch.bmm(pixels.flatten(1, 2), weight[channels, :, None])[:, :, 0] + bias[channels, None]
    return logits.view(pixels.shape[:3])


def build_classifier(width: int, loss: ClassificationLoss, *, normed: bool, temperature: float) -> nn.Linear:
    """A fresh classifier of `loss`'s width: weight N(0, 0.01), bias as the loss asks, else zeros."""
    if normed:
        classifier: nn.Linear = NormedLinear(width, loss.num_logits, temperature=temperature)
    else:
        classifier = nn.Linear(width, loss.num_logits)
        _start(classifier, std=0.01)
    bias = loss.initial_bias()
    if bias is not None:
        with torch.no_grad():
            classifier.bias.copy_(bias)
    return classifier


def build_regressor(width: int, num_boxes: int) -> nn.Linear:
    """A fresh box regressor of 4 deltas per box: weight N(0, 0.001), bias zeros."""
    regressor = nn.Linear(width, 4 * num_boxes)
    _start(regressor, std=0.001)
    return regressor


def _start(layer: nn.Linear | nn.Conv2d, *, std: float) -> None:
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
