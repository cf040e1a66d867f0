"""Columns on disk: raw arrays that grow while they are written and are memory-mapped when they are read.

A folder holds one `NAME.bin` per column and `columns.json` with dtypes, shapes and checksums. It is written under
another name and renamed when whole, so a folder that exists is complete.
"""

import hashlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from lttune.engine.checkpoint import file_digest
from lttune.errors import CacheError

Columns = dict[str, npt.NDArray[Any]]
_INDEX = "columns.json"


class ColumnWriter:
    """Appends arrays to named columns; the first array of a column fixes its dtype and row shape."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._digests: dict[str, Any] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> "ColumnWriter":
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def append(self, **columns: npt.NDArray[Any]) -> None:
        """Add rows to each named column."""
        for name, rows in columns.items():
            if name not in self._files:
                self._files[name] = (self._folder / f"{name}.bin").open("wb")
                self._digests[name] = hashlib.sha256()
                self._dtypes[name] = rows.dtype
                self._shapes[name] = (0, *rows.shape[1:])
            assert rows.dtype == self._dtypes[name], (name, rows.dtype)
            assert rows.shape[1:] == self._shapes[name][1:], (name, rows.shape)
            data = np.ascontiguousarray(rows).tobytes()
            self._files[name].write(data)
            self._digests[name].update(data)
            self._shapes[name] = (self._shapes[name][0] + len(rows), *rows.shape[1:])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        if kind is None:
            index = {
                name: {
                    "dtype": self._dtypes[name].str,
                    "shape": self._shapes[name],
                    "sha256": self._digests[name].hexdigest(),
                }
                for name in self._files
            }
            (self._folder / _INDEX).write_text(json.dumps(index, indent=1))


def read_columns(folder: Path) -> Columns:
    """The folder's columns, memory-mapped copy-on-write; nothing is read before it is used.

    Raises:
        CacheError: the index is damaged or a file has another size than it says.
    """
    index = _read_index(folder)
    columns: Columns = {}
    for name, entry in index.items():
        dtype, shape, path = np.dtype(entry["dtype"]), tuple(entry["shape"]), folder / f"{name}.bin"
        expected = dtype.itemsize * int(np.prod(shape))
        if not path.is_file() or path.stat().st_size != expected:
            raise CacheError(f"{path}: damaged, {expected} bytes expected. Delete {folder} to build it again.")
        columns[name] = np.memmap(path, dtype, "c", shape=shape) if expected else np.empty(shape, dtype)
    return columns


def are_intact(folder: Path) -> bool:
    """Whether every column still has the checksum it was written with; reads all of it."""
    try:
        index = _read_index(folder)
        return all(file_digest(folder / f"{name}.bin") == entry["sha256"] for name, entry in index.items())
    except (CacheError, OSError):
        return False


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index: dict[str, Any] = json.loads((folder / _INDEX).read_text())
    except (OSError, ValueError) as error:
        raise CacheError(f"{folder / _INDEX}: not readable ({error}). Delete {folder} to build it again.") from error
    return index
