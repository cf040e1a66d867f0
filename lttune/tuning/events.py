"""`events.jsonl` of a study's folder: what happened when, with which resources; docs/tracking.md lists the kinds."""

import logging
import time
from pathlib import Path
from typing import Any

from lttune.tracking import lines

FILE_NAME = "events.jsonl"

logger = logging.getLogger(__name__)


class EventLog:
    """Appends a line per event; a disk that refuses one costs the line, not the search."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE_NAME
        lines.repair(self._file)

    def write(self, event: str, **fields: Any) -> None:
        """Numbers are rounded to a thousandth; a field that is None is left out."""
        known = {name: _rounded(value) for name, value in fields.items() if value is not None}
        try:
            lines.append(self._file, {"time": _now(), "event": event, **known})
        except OSError as error:
            logger.warning("%s: event '%s' could not be written: %s", self._file, event, error)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The events of a study's folder, in order; none where it was never run by a version that writes them."""
    return [record for record, _ in lines.read(folder / FILE_NAME)]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    return {name: _rounded(one) for name, one in value.items()} if isinstance(value, dict) else value


def _now() -> str:
    """Local time with milliseconds and zone."""
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03d}{time.strftime('%z')}"
