"""Named tensors out of a file of any format that can be read without running what it says."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lttune.detectors.weights.pickles import STAND_INS, Array, read_arrays
from lttune.errors import InputError

SUFFIXES = (".safetensors", ".pth", ".pt", ".pkl")
# Where training codes keep the weights inside a checkpoint.
_NESTED_KEYS = ("model", "state_dict", "blobs")


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredWeights:
    """The tensors of a file by its own names, without those of an optimiser.

    Attributes:
        author: what a file of detectron2's model zoo says it was made from, else empty.
    """

    tensors: Mapping[str, Tensor]
    author: str = ""


def read_weights_file(path: Path) -> StoredWeights:
    """Read `.safetensors`, `.pth` and `.pt` of tensors only, and `.pkl` of arrays only.

    Raises:
        InputError: the file is absent, of another kind, damaged, holds no named tensors, or would run code.
    """
    if not path.is_file():
        raise InputError(f"detector.weights: {path} is not a file; give the path of a {', '.join(SUFFIXES)} file.")
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path}: '{path.suffix}' files are not read; give a {', '.join(SUFFIXES)} file. "
            "Convert it to .safetensors, or to a .pth of plain tensors."
        )
    stored = read_arrays(path) if path.suffix == ".pkl" else _read_tensors(path)
    author = str(stored.get("__author__", "")) if isinstance(stored, Mapping) else ""
    for key in _NESTED_KEYS:
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
    tensors = dict(_named_tensors(stored)) if isinstance(stored, Mapping) else {}
    if not tensors:
        raise InputError(f"{path}: holds no named tensors; save `module.state_dict()`.")
    return StoredWeights(tensors=tensors, author=author)


def _named_tensors(stored: Mapping[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in stored.items():
        if not isinstance(name, str) or name.endswith("_momentum"):  # Caffe2's optimiser lies between the weights
            continue
        name = name.removeprefix("module.")  # of a model trained on several devices
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Array) and value.values is not None:
            yield name, torch.from_numpy(value.values)


def _read_tensors(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with _numpy_allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    # What a damaged or unsafe file raises depends on where the damage is.
    except (
        SafetensorError,
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        UnpicklingError,
    ) as error:
        wanted = re.search(r"\bGLOBAL ([\w.]+)", str(error))
        if wanted is not None:
            raise InputError(
                f"{path}: refused, nothing of it was run: it asks for '{wanted[1]}', which tensors do not need. Where "
                "you trust it, open it with the code that wrote it and save its state_dict alone."
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: cannot be read as tensors only ({reason}); save it again.") from error


@contextmanager
def _numpy_allowed() -> Iterator[None]:
    """Lets notes beside the weights, such as mmdetection's, hold NumPy's numbers; they are read by our stand-ins."""
    # Before 2.6 torch cannot be told what another NumPy calls its functions; such a file is then refused.
    can_rename = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6)
    renamed: list[Any] = [(stand_in, ".".join(name)) for name, stand_in in STAND_INS.items()]
    with torch.serialization.safe_globals(renamed) if can_rename else nullcontext():
        yield
