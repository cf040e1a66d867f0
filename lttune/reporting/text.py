"""Numbers and names as people read them."""

import math
from collections.abc import Sequence

DASH = "–"


def number(value: float | None, form: str = ".1f") -> str:
    """A metric; a dash where it is undefined or was not measured."""
    return DASH if value is None or math.isnan(value) else format(value, form)


def duration(seconds: float) -> str:
    """12 s, 3:04 or 1:02:03."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted name, without underscores; the whole where two would be the same."""
    last = {name: _last_part(name).replace("_", " ") for name in names}
    return {name: short if list(last.values()).count(short) == 1 else name for name, short in last.items()}


def _last_part(name: str) -> str:
    """Of `loss.gamma` and of `loss.gamma [method=rog]`."""
    key, bracket, conditions = name.partition(" [")
    return key.rsplit(".", 1)[-1] + bracket + conditions
