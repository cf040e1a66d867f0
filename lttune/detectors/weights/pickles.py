"""Arrays out of a pickle that nobody has to trust.

A pickle is a program: it names functions and has them called. The few names that NumPy's arrays are written with get
stand-ins of ours here, written in Python and checked, and every other name ends the reading. NumPy's own functions are
not called, since they believe whatever shape and type a pickle states.
"""

import pickle
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from lttune.errors import InputError

_CODES = ("b1", "i1", "u1", "i2", "i4", "i8", "f2", "f4", "f8")


class RefusedError(pickle.UnpicklingError):
    """The pickle wants something that arrays do not need; the text says what."""


class _NumberType:
    """Stands for `numpy.dtype`: numbers only, whose bytes mean the same to everybody."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in _CODES:
            raise RefusedError(f"holds an array of type '{code}', where weights are plain numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if any(state[2:5]):  # of sub-arrays and records
            raise RefusedError("holds an array of records, where weights are plain numbers")
        self.dtype = self.dtype.newbyteorder(state[1])


class Array:
    """Stands for `numpy.ndarray` while it is put together."""

    def __init__(self) -> None:
        self.values: npt.NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, number_type, is_fortran, data = state[-4:]  # a version may come first
        self.fill(data, number_type, shape, "F" if is_fortran else "C")

    def fill(self, data: bytes | str, number_type: _NumberType, shape: tuple[int, ...], order: str) -> None:
        # Python 2 wrote bytes as text.
        data = data.encode("latin1") if isinstance(data, str) else bytes(data)
        if not isinstance(number_type, _NumberType) or len(data) != prod(shape) * number_type.dtype.itemsize:
            raise RefusedError(f"holds an array of {len(data)} bytes that says it has the shape {tuple(shape)}")
        flat = np.frombuffer(data, number_type.dtype)
        native = flat.astype(number_type.dtype.newbyteorder("="))  # a copy that may be written to
        self.values = native.reshape(shape, order="F" if order == "F" else "C")


def _start_array(kind: object, *_: object) -> Array:
    if kind is not Array:
        raise RefusedError(f"holds an array of class {kind!r}")
    return Array()


def _array_from_buffer(data: bytes, number_type: _NumberType, shape: tuple[int, ...], order: str) -> Array:
    array = Array()
    array.fill(data, number_type, shape, order)
    return array


def _number(number_type: _NumberType, data: bytes | str) -> float | int | bool:
    array = Array()
    array.fill(data, number_type, (1,), "C")
    assert array.values is not None
    return cast("float | int | bool", array.values[0].item())


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise RefusedError(f"holds bytes as '{encoding}' text")
    return text.encode("latin1")


# The functions and classes that pickled arrays name, under the modules of NumPy 1 and 2.
STAND_INS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): _NumberType,
    ("_codecs", "encode"): _encode,
    # Its instances would take attributes from the pickle; a plain one does not.
    ("collections", "OrderedDict"): dict,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _start_array),
            ("multiarray", "scalar", _number),
            ("numeric", "_frombuffer", _array_from_buffer),
        )
    },
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise RefusedError(f"asks for '{module}.{name}', which arrays do not need")
        return STAND_INS[module, name]

    def persistent_load(self, pid: object) -> Any:
        raise RefusedError("asks for an object outside the file")


def read_arrays(path: Path) -> object:
    """What a pickle of dicts, lists, numbers, text and arrays holds, with an `Array` for each array.

    Pickles of Python 2 and 3 and of NumPy 1 and 2 are read; Python 2's text is latin1, as NumPy needs it.

    Raises:
        InputError: the file is damaged, or asks for anything else. Nothing that it asked for has run.
    """
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except RefusedError as error:
        raise InputError(
            f"{path}: refused, nothing of it was run: it {error}. Get the file again from where it was published, or "
            "ask its author for .safetensors."
        ) from error
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable pickle ({reason}); get the file again.") from error
