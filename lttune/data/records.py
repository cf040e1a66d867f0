"""Columns out of lists of JSON objects, with every fault of the document gathered before anything is raised."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lttune.errors import DataError
from lttune.types import IntArray

BoolArray = npt.NDArray[np.bool_]

_MAX_SHOWN = 10
_LARGEST_FLOAT = float(np.finfo(np.float64).max)


class Faults:
    """What is wrong with one document; the first faults are kept as text, all are counted."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lines: list[str] = []
        self._count = 0

    def add(self, where: str, what: str) -> None:
        self._count += 1
        if self._count <= _MAX_SHOWN:
            self._lines.append(f"{self._source}: {where}: {what}")

    def raise_any(self) -> None:
        """Raise one DataError with a line per fault, if there is any."""
        if self._count:
            rest = [f"... and {self._count - _MAX_SHOWN} more"] if self._count > _MAX_SHOWN else []
            raise DataError("\n".join(self._lines + rest))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a field has to hold; the filler stands in for a faulty value until the faults are raised."""

    accepts: Callable[[Any], bool]
    words: str
    filler: Any


def _is_whole(value: Any) -> bool:
    # `type`, not isinstance: True is an int to Python, but not to JSON.
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST_FLOAT  # False for NaN


WHOLE = Kind(accepts=_is_whole, words="a whole number", filler=0)
SIDE = Kind(accepts=lambda v: _is_whole(v) and v >= 1, words="a whole number of pixels, at least 1", filler=1)
NUMBER = Kind(accepts=_is_number, words="a finite number", filler=0.0)
TEXT = Kind(accepts=lambda v: type(v) is str and v != "", words="text", filler="")
FLAG = Kind(accepts=lambda v: type(v) in (int, bool) and v in (0, 1), words="0 or 1", filler=0)
FREQUENCY = Kind(accepts=lambda v: v in ("r", "c", "f"), words='"r", "c" or "f"', filler="r")
IDS = Kind(accepts=lambda v: type(v) is list and all(map(_is_whole, v)), words="a list of whole numbers", filler=[])
BOX = Kind(
    accepts=lambda v: type(v) is list and len(v) == 4 and all(map(_is_number, v)),
    words="four finite numbers: x, y, width, height",
    filler=[0.0] * 4,
)
ANYTHING = Kind(accepts=lambda _: True, words="anything", filler=None)

_REQUIRED = object()


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """One field of every entry; `is_sound` is False where a filler stands."""

    values: list[Any]
    is_sound: BoolArray


class Records:
    """One list of objects in a document, read field by field.

    Args:
        document: the whole document.
        name: key of the list.
        faults: where faults go; a missing or malformed list reads as an empty one.
    """

    def __init__(self, document: Mapping[str, Any], name: str, faults: Faults) -> None:
        self.name = name
        self._faults = faults
        entries = document.get(name)
        if not isinstance(entries, list):
            found = f"is {shortened(entries)}" if name in document else "missing"
            faults.add(name, f"{found}; it must be a list of objects.")
            entries = []
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict):
                faults.add(f"{name}[{i}]", f"is {shortened(entry)}; it must be an object.")
        self._positions = [i for i, entry in enumerate(entries) if isinstance(entry, dict)]
        self.entries: list[dict[str, Any]] = [entries[i] for i in self._positions]

    def __len__(self) -> int:
        return len(self.entries)

    def column(self, key: str, kind: Kind, *, default: Any = _REQUIRED) -> Column:
        """The field of every entry; where it is absent the default, or a fault where there is no default."""
        values = [entry.get(key, default) for entry in self.entries]
        is_sound = np.fromiter((kind.accepts(v) or v is default for v in values), np.bool_, len(values))
        if default is _REQUIRED:
            is_sound &= np.fromiter((v is not _REQUIRED for v in values), np.bool_, len(values))
        for i in np.flatnonzero(~is_sound):
            is_missing = values[i] is _REQUIRED
            found = "missing" if is_missing else f"is {shortened(values[i])}"
            self.fault(int(i), key, f"{found}; it must be {kind.words}.")
            values[i] = kind.filler
        return Column(values=values, is_sound=is_sound)

    def ids(self) -> Column:
        """The column `id`, with a fault for each repetition."""
        column = self.column("id", WHOLE)
        seen: set[int] = set()
        for i in np.flatnonzero(column.is_sound):
            if column.values[i] in seen:
                self.fault(int(i), "id", f"{column.values[i]} occurs before; ids must differ.")
            seen.add(column.values[i])
        return column

    def fault(self, i: int, key: str, what: str) -> None:
        """Add a fault of one field; the text names the entry by place and by id."""
        where = f"{self.name}[{self._positions[i]}].{key}"
        identity = self.entries[i].get("id")
        self._faults.add(where if key == "id" or identity is None else f"{where} (id {shortened(identity)})", what)


def numbers_of(ids: IntArray, known_ids: IntArray) -> IntArray:
    """Place of each id among the ascending known ids, -1 where it is not among them."""
    if not len(known_ids):
        return np.full(len(ids), -1, np.int64)
    places = np.minimum(np.searchsorted(known_ids, ids), len(known_ids) - 1)
    return np.where(known_ids[places] == ids, places, -1)


def shortened(value: object) -> str:
    """A value as an error message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
