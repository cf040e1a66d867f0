"""Segmentations of a whole file in a few flat arrays, each turned back into what the file says when it is asked for.

Shape letters: A annotations, P parts (a polygon, or the numbers of an RLE), V numbers, T bytes of text.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = Mapping[str, npt.NDArray[Any]]

_NONE, _POLYGONS, _RLE, _RUNS, _OTHER = range(5)
_TEXT = re.compile(r"[\x00-\x7f]*")
# Whole numbers up to here survive as float64.
_EXACT = 1 << 53


class PackedSegmentations(Sequence[Any]):
    """Reads the columns that `pack_segmentations` made; coordinates come back as floats."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._kinds = columns["segmentation_kind"]
        self._part_start = columns["segmentation_part_start"]
        self._number_start = columns["segmentation_number_start"]
        self._numbers = columns["segmentation_numbers"]
        self._text_start = columns["segmentation_text_start"]
        self._text = columns["segmentation_text"]

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, row: Any) -> Any:
        row = range(len(self))[row]
        kind = self._kinds[row]
        if kind == _NONE:
            return None
        starts = self._number_start[self._part_start[row] : self._part_start[row + 1] + 1].tolist()
        parts = [self._numbers[start:stop].tolist() for start, stop in pairwise(starts)]
        if kind == _POLYGONS:
            return parts
        text = self._text[self._text_start[row] : self._text_start[row + 1]].tobytes().decode()
        if kind == _OTHER:
            return json.loads(text)
        height, width, *runs = map(int, parts[0])
        return {"size": [height, width], "counts": text if kind == _RLE else runs}

    @property
    def are_present(self) -> npt.NDArray[np.bool_]:
        """(A,) whether the annotation has one."""
        present: npt.NDArray[np.bool_] = self._kinds != _NONE
        return present


def pack_segmentations(segmentations: Sequence[Any]) -> dict[str, npt.NDArray[Any]]:
    """Columns of polygons, RLEs and absent segmentations; what has another form is kept as JSON, to be refused where
    it is used.

    Args:
        segmentations: as they stand in a file; packed ones keep their columns.

    Returns:
        segmentation_kind (A,), segmentation_part_start (A + 1,), segmentation_number_start (P + 1,),
        segmentation_numbers (V,) float64, segmentation_text_start (A + 1,), segmentation_text (T,) uint8.
    """
    if isinstance(segmentations, PackedSegmentations):
        return dict(segmentations.columns)
    kinds: list[int] = []
    parts: list[Sequence[float]] = []
    num_parts: list[int] = []
    texts: list[bytes] = []
    for segmentation in segmentations:
        kind = _kind(segmentation)
        text, before = b"", len(parts)
        if kind == _POLYGONS:
            parts += segmentation
        elif kind == _RLE:
            parts.append(segmentation["size"])
            text = segmentation["counts"].encode()
        elif kind == _RUNS:
            parts.append([*segmentation["size"], *segmentation["counts"]])
        elif kind == _OTHER:
            text = json.dumps(segmentation).encode()
        kinds.append(kind)
        num_parts.append(len(parts) - before)
        texts.append(text)
    number_start = _starts(list(map(len, parts)))
    numbers = np.fromiter(chain.from_iterable(parts), np.float64, int(number_start[-1]))
    return {
        "segmentation_kind": np.array(kinds, np.uint8),
        "segmentation_part_start": _starts(num_parts),
        "segmentation_number_start": number_start,
        "segmentation_numbers": numbers,
        "segmentation_text_start": _starts(list(map(len, texts))),
        "segmentation_text": np.frombuffer(b"".join(texts), np.uint8),
    }


def join_segmentations(parts: Sequence[Columns]) -> dict[str, npt.NDArray[Any]]:
    """The columns of several lists of segmentations, one after the other."""
    joined: dict[str, npt.NDArray[Any]] = {}
    for name in parts[0]:
        if name.endswith("_start"):
            ends = np.cumsum([0, *(part[name][-1] for part in parts)])
            inner = [part[name][:-1] + end for part, end in zip(parts, ends, strict=False)]
            joined[name] = np.concatenate([*inner, ends[-1:]])
        else:
            joined[name] = np.concatenate([part[name] for part in parts])
    return joined


def _kind(segmentation: Any) -> int:
    if segmentation is None:
        return _NONE
    if type(segmentation) is list:
        return _POLYGONS if all(map(_is_flat, segmentation)) else _OTHER
    if type(segmentation) is dict and segmentation.keys() == {"size", "counts"}:
        size, counts = segmentation["size"], segmentation["counts"]
        if type(size) is list and len(size) == 2 and _are_counts(size):
            if type(counts) is str and _TEXT.fullmatch(counts):
                return _RLE
            if type(counts) is list and _are_counts(counts):
                return _RUNS
    return _OTHER


def _is_flat(part: Any) -> bool:
    """Whether it is a list of numbers that floats hold exactly."""
    if type(part) is not list:
        return False
    types = set(map(type, part))
    return types <= {float} or (types <= {int, float} and max(part) <= _EXACT and min(part) >= -_EXACT)


def _are_counts(numbers: list[Any]) -> bool:
    return set(map(type, numbers)) <= {int} and min(numbers, default=0) >= 0 and max(numbers, default=0) <= _EXACT


def _starts(lengths: list[int]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
