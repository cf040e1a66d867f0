"""Columns out of lists of JSON objects, with every fault of the document gathered before anything is raised."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from lttune.errors import DataError
from lttune.types import IntArray

BoolArray = npt.NDArray[np.bool_]

_MAX_SHOWN = 10
_LARGEST_FLOAT = float(np.finfo(np.float64).max)


@dataclass(eq=False)
class Problem:
    """One kind of fault: the entries that have it, by id where they have a usable one, else by place."""

    count: int = 0
    ids: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


class Faults:
    """What is wrong with one document; the first faults are kept as text, all are counted by kind.

    Attributes:
        problems: by what is wrong, in the order found, for example `annotations.area is missing`.
        fields: faulty fields by list and place; an entry that is no object has none.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._lines: list[str] = []
        self.problems: dict[str, Problem] = {}
        self.fields: dict[str, dict[int, set[str]]] = {}

    def add(self, where: str, what: str, *, problem: str, identity: object = None, place: int | None = None) -> None:
        """Add a fault; the problem is its kind, and the identity the entry's id as far as it has one."""
        if sum(found.count for found in self.problems.values()) < _MAX_SHOWN:
            self._lines.append(f"{self._source}: {where}: {what}")
        found = self.problems.setdefault(problem, Problem())
        found.count += 1
        if type(identity) is int:
            found.ids.append(identity)
        elif place is not None:
            found.places.append(place)

    def raise_any(self) -> None:
        """Raise one DataError with a line per fault, if there is any."""
        count = sum(found.count for found in self.problems.values())
        if count:
            rest = [f"... and {count - _MAX_SHOWN} more"] if count > _MAX_SHOWN else []
            raise DataError("\n".join(self._lines + rest))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a field has to hold; the filler stands in for a faulty value until the faults are raised.

    `accepts` judges many values at once, because files hold millions.
    """

    accepts: Callable[[Sequence[Any]], bool]
    words: str
    filler: Any


# `type`, not isinstance: True is an int to Python, but not to JSON.
def _are_of(values: Sequence[Any], *types: type) -> bool:
    return set(map(type, values)) <= set(types)


def _are_whole(values: Sequence[Any]) -> bool:
    return _are_of(values, int) and (not values or (min(values) >= -(1 << 63) and max(values) < 1 << 63))


def _are_numbers(values: Sequence[Any]) -> bool:
    try:
        return _are_of(values, int, float) and bool(np.isfinite(np.array(values, np.float64)).all())
    except OverflowError:  # a whole number beyond the largest float
        return False


def _are_texts(values: Sequence[Any]) -> bool:
    return _are_of(values, str) and "" not in values


WHOLE = Kind(accepts=_are_whole, words="a whole number", filler=0)
SIDE = Kind(
    accepts=lambda values: _are_whole(values) and min(values, default=1) >= 1,
    words="a whole number of pixels, at least 1",
    filler=1,
)
NUMBER = Kind(accepts=_are_numbers, words="a finite number", filler=0.0)
TEXT = Kind(accepts=_are_texts, words="text", filler="")
FLAG = Kind(
    accepts=lambda values: _are_of(values, int, bool) and set(values) <= {0, 1},
    words="0 or 1",
    filler=0,
)
FREQUENCY = Kind(
    accepts=lambda values: _are_of(values, str) and set(values) <= {"r", "c", "f"}, words='"r", "c" or "f"', filler="r"
)
IDS = Kind(
    accepts=lambda values: _are_of(values, list) and _are_whole(list(chain.from_iterable(values))),
    words="a list of whole numbers",
    filler=[],
)
BOX = Kind(
    accepts=lambda values: (
        _are_of(values, list) and set(map(len, values)) <= {4} and _are_numbers(list(chain.from_iterable(values)))
    ),
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
            faults.add(name, f"{found}; it must be a list of objects.", problem=f"{name} is no list of objects")
            entries = []
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict):
                faults.add(
                    f"{name}[{i}]",
                    f"is {shortened(entry)}; it must be an object.",
                    problem=f"an entry of {name} is not an object",
                    place=i,
                )
        self._positions = [i for i, entry in enumerate(entries) if isinstance(entry, dict)]
        self.entries: list[dict[str, Any]] = [entries[i] for i in self._positions]

    def __len__(self) -> int:
        return len(self.entries)

    def have(self, key: str) -> bool:
        """Whether any entry has the field."""
        return any(key in entry for entry in self.entries)

    def column(self, key: str, kind: Kind, *, default: Any = _REQUIRED) -> Column:
        """The field of every entry; where it is absent the default, or a fault where there is no default."""
        values = [entry.get(key, default) for entry in self.entries]
        is_sound = np.ones(len(values), np.bool_)
        given = [i for i, value in enumerate(values) if value is _REQUIRED or value is not default]
        for place in _faulty([values[i] for i in given], kind):
            i = given[place]
            is_missing = values[i] is _REQUIRED
            found = "missing" if is_missing else f"is {shortened(values[i])}"
            self.fault(
                i,
                key,
                f"{found}; it must be {kind.words}.",
                problem="is missing" if is_missing else f"is not {kind.words}",
            )
            values[i] = kind.filler
            is_sound[i] = False
        return Column(values=values, is_sound=is_sound)

    def ids(self) -> Column:
        """The column `id`, with a fault for each repetition."""
        column = self.column("id", WHOLE)
        if len(set(column.values)) < len(column.values):
            seen: set[int] = set()
            for i in np.flatnonzero(column.is_sound).tolist():
                if column.values[i] in seen:
                    self.fault(
                        i, "id", f"{column.values[i]} occurs before; ids must differ.", problem="occurs more than once"
                    )
                seen.add(column.values[i])
        return column

    def fault(self, i: int, key: str, what: str, *, problem: str) -> None:
        """Add a fault of one field; the text names the entry by place and by id."""
        position = self._positions[i]
        where = f"{self.name}[{position}].{key}"
        identity = self.entries[i].get("id")
        self._faults.add(
            where if key == "id" or identity is None else f"{where} (id {shortened(identity)})",
            what,
            problem=f"{self.name}.{key} {problem}",
            identity=identity,
            place=position,
        )
        self._faults.fields.setdefault(self.name, {}).setdefault(position, set()).add(key)


def _faulty(values: Sequence[Any], kind: Kind, start: int = 0) -> list[int]:
    """Places of the values that the kind does not accept, ascending, by halving what holds one."""
    if kind.accepts(values):
        return []
    if len(values) == 1:
        return [start]
    middle = len(values) // 2
    return _faulty(values[:middle], kind, start) + _faulty(values[middle:], kind, start + middle)


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
