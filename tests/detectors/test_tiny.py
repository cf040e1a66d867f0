"""Parts of the small detector."""

import torch
from torch import nn

from lttune.detectors.tiny import MASK_WIDTH, PYRAMID_WIDTH, TinyBackbone, TinyMaskLayers, TinyRpnHead, quads_to_pixels


def test_maps_have_the_strides_their_names_say() -> None:
    maps = TinyBackbone().eval()(torch.zeros(1, 3, 96, 64))
    assert {name: level.shape for name, level in maps.items()} == {
        f"p{level}": (1, PYRAMID_WIDTH, 96 // 2**level, 64 // 2**level) for level in (2, 3, 4)
    }


def test_the_rpn_head_gives_each_level_its_anchors() -> None:
    objectness, deltas = TinyRpnHead((2, 1))([torch.zeros(1, PYRAMID_WIDTH, 6, 4), torch.zeros(1, PYRAMID_WIDTH, 3, 2)])
    assert [level.shape for level in objectness] == [(1, 2, 6, 4), (1, 1, 3, 2)]
    assert [level.shape for level in deltas] == [(1, 8, 6, 4), (1, 4, 3, 2)]


def test_mask_layers_are_a_convolution_and_a_transposed_convolution() -> None:
    torch.manual_seed(0)
    layers, predictor = TinyMaskLayers(), nn.Conv2d(MASK_WIDTH, 1, 1)
    upsample = nn.ConvTranspose2d(PYRAMID_WIDTH, MASK_WIDTH, 2, stride=2)
    with torch.no_grad():
        # Its output columns are (line, column, channel) of the 2x2 pixels.
        weight = layers.upsample.weight.view(2, 2, MASK_WIDTH, PYRAMID_WIDTH)
        upsample.weight.copy_(weight.permute(3, 2, 0, 1))
        # One bias per channel there, one per channel and pixel here.
        layers.upsample.bias.copy_(layers.upsample.bias[:MASK_WIDTH].repeat(4))
        upsample.bias.copy_(layers.upsample.bias[:MASK_WIDTH])
        x = torch.randn(3, PYRAMID_WIDTH, 14, 14)
        expected = predictor(upsample(layers.conv(x).relu()).relu())[:, 0]
        actual = quads_to_pixels(predictor(layers(x))[:, 0])
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
