"""A large annotation file parsed part by part: as Python objects, its polygons would take ten times their text.

The list of annotations is cut between two entries, each part is parsed, and its segmentations are packed into arrays
before the next part is.
"""

import re
from typing import Any

import orjson

from lttune.data.segmentations import Columns, join_segmentations, pack_segmentations

# Bytes of text that are parsed at a time; a smaller file is not worth cutting.
_PART = 1 << 25
_LIST = re.compile(rb'"annotations"\s*:\s*\[')
_BETWEEN_ENTRIES = re.compile(rb"\}(\s*,\s*)\{")
# How far back from the end of a part an entry may begin, and how many places are tried for it.
_LONGEST_ENTRY = 1 << 20
_TRIES = 8


def parse_in_parts(text: bytes) -> tuple[dict[str, Any], Columns] | None:
    """The document without its annotations' segmentations, and those as columns, one for each entry.

    None where the text is small, or is not what it has to be for this: parsed as a whole, it shows what is wrong.
    """
    found = _LIST.search(text) if len(text) > 2 * _PART else None
    if found is None:
        return None
    entries: list[Any] = []
    columns: list[Columns] = []
    try:
        # If the key belongs to something within the document, or to text, this is no JSON.
        document = orjson.loads(text[: found.start()] + b'"annotations":[]}')
        start = found.end()
        while (part := _next_part(text, start)) is not None:
            some, start = part
            columns.append(_take_segmentations(some))
            entries += some
        rest = orjson.loads(b'{"annotations":[' + text[start:])
        columns.append(_take_segmentations(rest["annotations"]))
    except (ValueError, TypeError, AttributeError):
        return None
    entries += rest["annotations"]
    return {**document, **rest, "annotations": entries}, join_segmentations(columns)


def _next_part(text: bytes, start: int) -> tuple[list[Any], int] | None:
    """The entries of about a part from `start` on, and where the next one begins; None where the list may end."""
    stop = start + _PART
    if stop >= len(text):
        return None
    # A cut may fall into an entry that holds objects of its own, or into text; what stands before it is then no list.
    for cut in reversed(list(_BETWEEN_ENTRIES.finditer(text, max(start, stop - _LONGEST_ENTRY), stop))[-_TRIES:]):
        try:
            return orjson.loads(b"[" + text[start : cut.start() + 1] + b"]"), cut.end() - 1
        except ValueError:
            continue
    return None


def _take_segmentations(entries: list[dict[str, Any]]) -> Columns:
    return pack_segmentations([entry.pop("segmentation", None) for entry in entries])
