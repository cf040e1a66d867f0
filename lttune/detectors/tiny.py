"""Parts of `tiny_mask_rcnn_fpn`: a Mask R-CNN of 1.3 million weights for images of about 160 px.

It learns a synthetic data set from scratch on two CPU cores within minutes, hence batch normalisation, few channels, an
RPN on two levels and one sample per RoI bin.
"""

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 32, 64, 96)  # stem, then stages of stride 4, 8 and 16
BLOCKS = (1, 2, 2)  # residual blocks of these stages
PYRAMID_WIDTH = 48
BOX_WIDTH = 256
MASK_WIDTH = 24


def _conv(inputs: int, outputs: int, *, size: int = 3, stride: int = 1, relu: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class _Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(_conv(inputs, outputs, stride=stride), _conv(outputs, outputs, relu=False))
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, size=1, stride=stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.convs(x) + self.shortcut(x), inplace=True)


class TinyBackbone(nn.Module):
    """Residual network with a feature pyramid; gives maps `p2`, `p3`, `p4` of strides 4, 8, 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, WIDTHS[0], stride=2), _conv(WIDTHS[0], WIDTHS[1], stride=2))
        self.stages = nn.ModuleList()
        inputs = WIDTHS[1]
        for outputs, num_blocks, stride in zip(WIDTHS[1:], BLOCKS, (1, 2, 2), strict=True):
            rest = [_Block(outputs, outputs, 1) for _ in range(num_blocks - 1)]
            self.stages.append(nn.Sequential(_Block(inputs, outputs, stride), *rest))
            inputs = outputs
        self.laterals = nn.ModuleList(_conv(width, PYRAMID_WIDTH, size=1, relu=False) for width in WIDTHS[1:])
        self.outputs = nn.ModuleList(_conv(PYRAMID_WIDTH, PYRAMID_WIDTH) for _ in WIDTHS[1:])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        stages = []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        maps: dict[str, Tensor] = {}
        above: Tensor | None = None
        for level in reversed(range(len(stages))):
            lateral = self.laterals[level](stages[level])
            above = lateral if above is None else lateral + F.interpolate(above, size=lateral.shape[-2:])
            maps[f"p{level + 2}"] = self.outputs[level](above)
        return maps


class TinyRpnHead(nn.Module):
    """Objectness and box deltas per level; levels share the 3x3 convolution, each has its own number of anchors."""

    def __init__(self, num_anchors: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(PYRAMID_WIDTH, PYRAMID_WIDTH, 3, padding=1)
        self.objectness = nn.ModuleList(nn.Conv2d(PYRAMID_WIDTH, num, 1) for num in num_anchors)
        self.deltas = nn.ModuleList(nn.Conv2d(PYRAMID_WIDTH, 4 * num, 1) for num in num_anchors)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [F.relu(self.conv(level)) for level in maps]
        objectness = [layer(level) for layer, level in zip(self.objectness, hidden, strict=True)]
        return objectness, [layer(level) for layer, level in zip(self.deltas, hidden, strict=True)]


class TinyBoxHead(nn.Module):
    """Two fully connected layers over a pooled map of 7x7."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(PYRAMID_WIDTH * 7 * 7, BOX_WIDTH)
        self.output = nn.Linear(BOX_WIDTH, BOX_WIDTH)

    def forward(self, pooled: Tensor) -> Tensor:
        rows = pooled.permute(0, 2, 3, 1).flatten(1)  # the order in memory: nothing is copied
        return F.relu(self.output(F.relu(self.hidden(rows))))


class TinyMaskLayers(nn.Module):
    """A convolution and an upsampling to twice the side, over a pooled map (R, c, s, s).

    A transposed 2x2 convolution of stride 2 is one matrix product per pixel that gives four, so it is written as one,
    a quarter faster here. Its output (R, MASK_WIDTH, s * s, 4) keeps the four together: the predictor treats pixels
    one by one, and `quads_to_pixels` then moves its few outputs instead of all channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(PYRAMID_WIDTH, PYRAMID_WIDTH, 3, padding=1)
        self.upsample = nn.Linear(PYRAMID_WIDTH, 4 * MASK_WIDTH)

    def forward(self, pooled: Tensor) -> Tensor:
        pixels = F.relu(self.conv(pooled), inplace=True).permute(0, 2, 3, 1).flatten(0, 2)
        quads = F.relu(self.upsample(pixels))
        return quads.view(len(pooled), pooled.shape[2] * pooled.shape[3], 4, MASK_WIDTH).permute(0, 3, 1, 2)


def quads_to_pixels(quads: Tensor) -> Tensor:
    """(R, s * s, 4), the 2x2 pixels of each cell, to (R, 2 * s, 2 * s)."""
    side = round(quads.shape[1] ** 0.5)
    cells = quads.view(len(quads), side, side, 2, 2)
    return cells.transpose(2, 3).reshape(len(quads), 2 * side, 2 * side)
