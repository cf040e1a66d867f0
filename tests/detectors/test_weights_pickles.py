"""Pickles: arrays come out, and nothing runs."""

import builtins
import os
import pickle
import struct
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lttune.detectors.weights.pickles import Array, read_arrays
from lttune.errors import InputError

ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "float16": np.array([0.5, -2], np.float16),
    "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "big_endian": np.arange(4, dtype=">f4"),
    "bool": np.array([True, False]),
    "int64": np.array(7),
    "view": np.arange(12)[::3],
}


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol_come_out_as_they_went_in(protocol: int, tmp_path: Path) -> None:
    stored = {
        "model": OrderedDict(ARRAYS),
        "__author__": "Jürgen",
        "matching_heuristics": True,
        "step": np.int64(3),
        "lr": np.float32(0.5),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(stored, protocol=protocol))
    read: Any = read_arrays(tmp_path / "a.pkl")
    assert (read["__author__"], read["matching_heuristics"], read["step"], read["lr"]) == ("Jürgen", True, 3, 0.5)
    for name, array in ARRAYS.items():
        values = read["model"][name].values
        assert values.dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(values, array)


def test_an_array_of_python_2_is_read(tmp_path: Path) -> None:
    """Written out opcode by opcode: no Python of today writes text for bytes."""
    data = struct.pack("<6f", *range(6))
    number_type = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    state = b"(K\x01K\x02K\x03\x86" + number_type + b"\x89U\x18" + data + b"tb"
    (tmp_path / "old.pkl").write_bytes(b"\x80\x02}U\x07conv1_w" + array + state + b"s.")
    read: Any = read_arrays(tmp_path / "old.pkl")
    np.testing.assert_array_equal(read["conv1_w"].values, np.arange(6, dtype=np.float32).reshape(2, 3))


class Calls:
    """Pickled, this is a call of `function` when the file is opened."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


TOUCH = f"__import__('pathlib').Path({'pwned'!r}).touch()"
HOSTILE: dict[str, tuple[object, str]] = {
    "os.system": (Calls(os.system, "touch pwned"), r"asks for '\w+\.system'"),
    "eval": (Calls(builtins.eval, TOUCH), r"asks for '\w+\.eval'"),
    "exec": (Calls(builtins.exec, TOUCH), r"asks for '\w+\.exec'"),
    "getattr": (Calls(getattr, Path("pwned"), "touch"), r"asks for '(\w+\.getattr|pathlib\S*)'"),
    "nested": ({"model": {"conv1_w": np.ones(2), "fc": [(Calls(os.system, "touch pwned"),)]}}, r"asks for"),
    "key": ({Calls(builtins.eval, TOUCH): 1}, r"asks for '\w+\.eval'"),
    "inside an array": (np.array([1, Calls(builtins.eval, TOUCH)], dtype=object), r"array of type 'O8'|asks for"),
    "objects": (np.array([{}, None], dtype=object), "array of type 'O8'"),
    "records": (np.zeros(2, dtype=[("a", "f4")]), "array of type 'V4'"),
    "text": (np.array(["a"]), "array of type 'U1'"),
    "dates": (np.array([0], dtype="M8[s]"), "array of type 'M8'"),
    "numpy's other functions": (Calls(np.load, "pwned"), r"asks for 'numpy\S*load'"),
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_is_refused_with_a_sentence_and_runs_nothing(
    kind: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stored, message = HOSTILE[kind]
    Path("evil.pkl").write_bytes(pickle.dumps(stored, protocol=protocol))
    with pytest.raises(InputError, match=rf"evil\.pkl: refused, nothing of it was run: it .*({message})"):
        read_arrays(Path("evil.pkl"))
    assert not Path("pwned").exists()


def test_the_hostile_pickles_are_hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("os.system", "eval", "exec", "nested", "key", "inside an array"):
        pickle.loads(pickle.dumps(HOSTILE[kind][0]))
        assert Path("pwned").exists(), kind
        Path("pwned").unlink()


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        # The names that arrays need, called otherwise than arrays do.
        (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87R.", "array of class"),
        (b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.", "as 'zlib' text"),
        (b"cnumpy\ndtype\nU\x02f4\x85R(K\x03U\x01<U\x01aNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.", "records"),
        # An array that says it is larger than its bytes.
        (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            b"(K\x01J\xff\xff\xff\x7f\x85cnumpy\ndtype\nU\x02f4\x85R\x89U\x04abcdtb.",
            r"4 bytes that says it has the shape \(2147483647,\)",
        ),
        (b"U\x01aQ.", "an object outside the file"),
    ],
)
def test_stand_ins_believe_nothing(stored: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "odd.pkl").write_bytes(b"\x80\x02" + stored)
    with pytest.raises(InputError, match=message):
        read_arrays(tmp_path / "odd.pkl")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_pickle_is_an_input_error_or_arrays(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    raw = bytearray(pickle.dumps({"a": np.arange(5.0), "b": [1, "two"]}, protocol=2))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(raw)
    with suppress(InputError):
        assert isinstance(read_arrays(path), dict | list | tuple | str | int | float | bytes | Array | None)
