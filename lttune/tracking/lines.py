"""Files with one JSON object per line that outlive the kill of their writer."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

log = logging.getLogger(__name__)


def append(file: Path, record: Mapping[str, object]) -> None:
    """Add one line in a single write; NaN and infinity become null, unknown types their text.

    Raises:
        OSError: the line could not be written; the file is as it was.
        TypeError: the record has no JSON form.
    """
    line = orjson.dumps(record, default=_plain, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY) + b"\n"
    with file.open("ab", buffering=0) as stream:
        start = stream.seek(0, 2)
        if stream.write(line) != len(line):
            stream.truncate(start)
            raise OSError(f"{file}: the disk is full; free some space.")


def read(file: Path, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """The records from a byte offset on, each with the offset behind its line.

    A last line without its end is not given: its writer may still be at it, or was killed. Damaged lines are logged
    and left out; a missing file has no records.
    """
    if not file.exists():
        return
    with file.open("rb") as stream:
        end = stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            record = _parse(line)
            if record is None:
                log.warning("%s: the line that ends at byte %d is damaged and was left out.", file, end)
            else:
                yield record, end


def repair(file: Path) -> None:
    """Mend the last line of a killed writer: complete it where only its end is missing, else cut it off.

    Only for the one process that writes the file.
    """
    if not file.exists():
        return
    with file.open("r+b") as stream:
        content = stream.read()
        tail = content[content.rfind(b"\n") + 1 :]
        if tail and _parse(tail) is not None:
            stream.write(b"\n")
        elif tail:
            stream.truncate(len(content) - len(tail))


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)
