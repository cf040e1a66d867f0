"""Cosine layers against recorded values of the published codes (`normed_predictor.py` of ROG 1dad3cf and ECM-Loss
a637240), and the helpers around them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lttune.detectors.classifiers import NormedConv2d, NormedLinear, build_classifier, build_regressor, own_channel
from lttune.losses import build_loss
from lttune.types import CategoryFrequencies

GOLDEN = Path(__file__).parents[1] / "golden" / "normed_linear.npz"
SHARED = Path(os.environ.get("LTTUNE_SHARED", Path(__file__).parents[2].parent / "shared"))


def case(name: str, path: Path = GOLDEN) -> dict[str, Tensor]:
    with np.load(path) as recorded:
        return {
            key.removeprefix(f"{name}/"): torch.from_numpy(recorded[key])
            for key in recorded.files
            if key.startswith(f"{name}/")
        }


def assert_near(actual: Tensor | None, expected: Tensor, *, tolerance: float) -> None:
    """Within `tolerance` of the largest expected magnitude."""
    assert actual is not None
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def linear_of(recorded: dict[str, Tensor]) -> NormedLinear:
    rows, width = recorded["weight"].shape
    layer = NormedLinear(
        width,
        rows,
        temperature=float(recorded["temperature"]),
        power=float(recorded["power"]),
        eps=float(recorded["eps"]),
        bias="bias" in recorded,
    ).to(recorded["weight"].dtype)
    layer.load_state_dict({key: recorded[key] for key in ("weight", "bias") if key in recorded})
    return layer


@pytest.mark.parametrize("name", ["small", "medium", "zero_row", "power_0.5_T10", "no_bias_T35"])
def test_normed_linear_equals_the_published_layer(name: str) -> None:
    recorded = case(name)
    check_against(recorded, linear_of(recorded), tolerance=1e-10)


def test_normed_linear_equals_the_published_layer_on_lvis() -> None:
    path = SHARED / "golden" / "normed_linear.npz"
    if not path.is_file():
        pytest.skip("the recorded LVIS case is not here; point LTTUNE_SHARED at its folder")
    recorded = case("lvis", path)
    check_against(recorded, linear_of(recorded), tolerance=1e-5)


def test_normed_convolution_equals_the_published_layer() -> None:
    recorded = case("conv1x1")
    layer = NormedConv2d(6, 9, temperature=float(recorded["temperature"]), eps=float(recorded["eps"])).double()
    layer.load_state_dict({key: recorded[key] for key in ("weight", "bias")})
    check_against(recorded, layer, tolerance=1e-10)


def check_against(recorded: dict[str, Tensor], layer: nn.Linear | nn.Conv2d, *, tolerance: float) -> None:
    x = recorded["x"].clone().requires_grad_()
    out = layer(x)
    (out * recorded["upstream"]).sum().backward()
    assert_near(out.detach(), recorded["out"], tolerance=tolerance)
    assert_near(layer.weight.grad, recorded["grad_weight"], tolerance=tolerance)
    if layer.bias is not None:
        assert_near(layer.bias.grad, recorded["grad_bias"], tolerance=tolerance)
    assert x.grad is not None
    # A row of zeros has a gradient of size T / eps that would hide the others.
    is_zero = (recorded["x"] == 0).flatten(1).all(dim=1)
    for rows in (is_zero, ~is_zero):
        if rows.any():
            assert_near(x.grad[rows], recorded["grad_x"][rows], tolerance=tolerance)


def test_the_recorded_zero_row_is_there() -> None:
    assert (case("zero_row")["x"] == 0).all(dim=1).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_do_not_overflow_in_half_precision(dtype: torch.dtype) -> None:
    layer = NormedLinear(1024, 3)
    out = layer(torch.full((2, 1024), 300.0, dtype=dtype))  # the sum of squares is 9e7
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    torch.testing.assert_close(out, layer(torch.full((2, 1024), 300.0)))


def test_own_channel_is_one_output_of_the_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, 5, 3, generator=generator, dtype=torch.float64)
    channels = torch.tensor([2, 0, 6, 2])
    for predictor in (nn.Conv2d(6, 7, 1).double(), NormedConv2d(6, 7).double()):
        nn.init.normal_(predictor.bias)
        everything = predictor(x)
        torch.testing.assert_close(own_channel(predictor, x, channels), everything[torch.arange(4), channels])
        torch.testing.assert_close(own_channel(predictor, x, None), everything[:, 0])
    assert own_channel(nn.Conv2d(6, 7, 1), torch.zeros(0, 6, 5, 3), torch.zeros(0, dtype=torch.int64)).shape == (
        0,
        5,
        3,
    )


@pytest.mark.parametrize("normed", [False, True])
def test_a_fresh_classifier_starts_as_the_loss_asks(normed: bool) -> None:
    counts = torch.full((40,), 5)
    frequencies = CategoryFrequencies(
        image_count=counts, instance_count=counts, group=torch.zeros(40, dtype=torch.int64)
    )
    loss = build_loss("cross_entropy", num_classes=40, frequencies=frequencies)
    wanted = torch.linspace(-1, 1, loss.num_logits)
    loss.initial_bias = lambda: wanted  # type: ignore[method-assign]
    classifier = build_classifier(512, loss, normed=normed, temperature=15.0)
    assert isinstance(classifier, NormedLinear) == normed
    assert classifier.weight.shape == (loss.num_logits, 512)
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert torch.equal(classifier.bias, wanted)
    if isinstance(classifier, NormedLinear):
        assert classifier.temperature == 15.0


def test_a_fresh_regressor_starts_near_the_proposal() -> None:
    regressor = build_regressor(256, 20)
    assert regressor.weight.shape == (80, 256)
    assert regressor.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not regressor.bias.any()
