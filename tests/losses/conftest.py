"""Golden values and category counts for the tests of the losses."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lttune.types import CategoryFrequencies

_TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def golden() -> Callable[[str, str], dict[str, Tensor]]:
    """Arrays of one case of a golden file; labels as int64."""
    files = {}

    def read(name: str, case: str) -> dict[str, Tensor]:
        shared = Path(os.environ.get("LTTUNE_SHARED", _TESTS.parents[1] / "shared"))
        path = (shared if case == "lvis" else _TESTS) / "golden" / f"{name}.npz"
        if case == "lvis" and not path.exists():
            pytest.skip("the LVIS-sized golden values are not kept in the repository, and the shared folder is absent")
        if path not in files:
            files[path] = np.load(path)
        arrays = {key.split("/")[1]: files[path][key] for key in files[path].files if key.startswith(f"{case}/")}
        tensors = {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
        return {key: value.long() if "labels" in key else value for key, value in tensors.items()}

    return read


@pytest.fixture(scope="session")
def assert_golden() -> Callable[..., None]:
    """Equal relative to the largest expected value: to 1e-10 in float64, to 1e-5 in float32."""

    def check(actual: Tensor, expected: Tensor, tolerance: float | None = None) -> None:
        assert actual.shape == expected.shape
        if tolerance is None:
            tolerance = 1e-10 if expected.dtype == torch.float64 else 1e-5
        apart = (actual.detach().double() - expected.double()).abs().max()
        assert apart <= tolerance * expected.double().abs().max(), float(apart)

    return check


@pytest.fixture(scope="session")
def frequencies() -> Callable[..., CategoryFrequencies]:
    """Counts with groups by the LVIS rule; two annotations per image unless given."""

    def make(image_count: Sequence[int], instance_count: Sequence[int] | None = None) -> CategoryFrequencies:
        images = torch.tensor(image_count)
        instances = 2 * images if instance_count is None else torch.tensor(instance_count)
        group = (images > 10).long() + (images > 100).long()
        return CategoryFrequencies(image_count=images, instance_count=instances, group=group)

    return make
