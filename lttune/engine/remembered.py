"""What evaluation reads of masks that depend on the category, remembered from trial to trial.

With a frozen trunk, the mask of a row and a category is the same in every trial that finds it; its area and its IoUs
with the annotations are all that an evaluation asks of it. They lie beside the features of their half, in one growing
file per evaluation that met masks which nobody had asked for before:

FOLDER/masks/HEX.masks    frames, each a header, masks and pairs, written by one process in one append

A frame that a killed process or a full disk cut off, or that is damaged, counts as absent: its masks are computed
again. So there is nothing to lock and nothing to repair.

Shape letters: N masks, P pairs of a mask and an annotation.
"""

import logging
import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lttune.evaluation.ground_truth import GroundTruth
from lttune.evaluation.pairs import IouPairs, mask_pairs
from lttune.masks import Rle, rle_areas
from lttune.types import FloatArray, IntArray

logger = logging.getLogger(__name__)

SUFFIX = ".masks"
# Magic, batch, numbers of masks and of pairs, CRC-32 of what follows.
_HEADER = struct.Struct("<4sIIII")
_MAGIC = b"LTM1"
_MASK = np.dtype([("key", "<i8"), ("area", "<i4"), ("num_pairs", "<i4")])
_PAIR = np.dtype([("annotation", "<i4"), ("iou", "<f8")])
_ROW_BITS = _CATEGORY_BITS = 20


def mask_keys(image: IntArray, row: IntArray, category: IntArray) -> IntArray:
    """(N,) one number for each image, row of the image and category."""
    assert row.max(initial=0) < 1 << _ROW_BITS
    assert category.max(initial=0) < 1 << _CATEGORY_BITS
    return ((image << _ROW_BITS) | row) << _CATEGORY_BITS | category


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskFacts:
    """Areas of masks, and their IoUs from 0.5 with annotations of their image and category."""

    key: IntArray  # (N,) of `mask_keys`
    area: IntArray  # (N,) pixels
    num_pairs: IntArray  # (N,)
    annotation: IntArray  # (P,) in GroundTruth order, mask by mask
    iou: FloatArray  # (P,)

    @staticmethod
    def measure(
        key: IntArray, image: IntArray, category: IntArray, rles: Sequence[Rle], ground_truth: GroundTruth
    ) -> "MaskFacts":
        pairs = mask_pairs(ground_truth, image, category, rles)
        by_mask = np.argsort(pairs.row, kind="stable")
        return MaskFacts(
            key=key,
            area=rle_areas(rles),
            num_pairs=np.bincount(pairs.row, minlength=len(key)),
            annotation=pairs.annotation[by_mask],
            iou=pairs.iou[by_mask].astype(np.float64),
        )

    @staticmethod
    def join(parts: Sequence["MaskFacts"]) -> "MaskFacts":
        return MaskFacts(
            key=np.concatenate([np.zeros(0, np.int64), *(part.key for part in parts)]),
            area=np.concatenate([np.zeros(0, np.int64), *(part.area for part in parts)]),
            num_pairs=np.concatenate([np.zeros(0, np.int64), *(part.num_pairs for part in parts)]),
            annotation=np.concatenate([np.zeros(0, np.int64), *(part.annotation for part in parts)]),
            iou=np.concatenate([np.zeros(0), *(part.iou for part in parts)]),
        )

    def take(self, masks: IntArray) -> "MaskFacts":
        num_pairs = self.num_pairs[masks]
        ends = np.cumsum(num_pairs)
        first = (np.cumsum(self.num_pairs) - self.num_pairs)[masks]
        pairs = np.arange(num_pairs.sum()) + np.repeat(first - (ends - num_pairs), num_pairs)
        return MaskFacts(
            key=self.key[masks],
            area=self.area[masks],
            num_pairs=num_pairs,
            annotation=self.annotation[pairs],
            iou=self.iou[pairs],
        )

    def pairs(self) -> IouPairs:
        """The pairs, each mask by its place among these."""
        row = np.repeat(np.arange(len(self.key)), self.num_pairs)
        return IouPairs(row=row, annotation=self.annotation, iou=self.iou)

    def find(self, keys: IntArray) -> IntArray:
        """(len(keys),) the place of each, -1 where it is not here."""
        if len(self.key) == 0:
            return np.full(len(keys), -1)
        order = np.argsort(self.key, kind="stable")
        place = np.minimum(np.searchsorted(self.key[order], keys), len(order) - 1)
        return np.where(self.key[order[place]] == keys, order[place], -1)


class RememberedMasks:
    """The masks of one half, by batches of images; in memory is only where they lie.

    Args:
        folder: of the half's features.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "masks"
        self._own = self._folder / f"{uuid.uuid4().hex}{SUFFIX}"
        self._can_write = True
        # Of each batch the file, the place and the header of its frames.
        self._frames: dict[int, list[tuple[Path, int, int, int, int]]] = {}
        self._read_to: dict[Path, int] = {}

    def refresh(self) -> None:
        """Take note of what has been written since, by whichever process."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            self._read_to[path] = self._note_frames(path, self._read_to.get(path, 0))

    def _note_frames(self, path: Path, start: int) -> int:
        """Where the whole frames from `start` on end."""
        with path.open("rb") as file:
            size = file.seek(0, 2)
            while start + _HEADER.size <= size:
                file.seek(start)
                magic, batch, num_masks, num_pairs, checksum = _HEADER.unpack(file.read(_HEADER.size))
                stop = start + _HEADER.size + num_masks * _MASK.itemsize + num_pairs * _PAIR.itemsize
                if magic != _MAGIC or stop > size:
                    break
                frame = (path, start + _HEADER.size, num_masks, num_pairs, checksum)
                self._frames.setdefault(batch, []).append(frame)
                start = stop
        return start

    def of(self, batch: int) -> MaskFacts:
        """What is known of a batch of images, as of the last `refresh`."""
        return MaskFacts.join([facts for frame in self._frames.get(batch, ()) if (facts := _read(*frame))])

    def add(self, batch: int, facts: MaskFacts) -> None:
        """Write down what was computed; where that cannot be, other trials compute it again."""
        if not self._can_write:
            return
        masks = np.zeros(len(facts.key), _MASK)
        masks["key"], masks["area"], masks["num_pairs"] = facts.key, facts.area, facts.num_pairs
        pairs = np.zeros(len(facts.iou), _PAIR)
        pairs["annotation"], pairs["iou"] = facts.annotation, facts.iou
        body = masks.tobytes() + pairs.tobytes()
        frame = _HEADER.pack(_MAGIC, batch, len(masks), len(pairs), zlib.crc32(body)) + body
        try:
            self._folder.mkdir(exist_ok=True)
            with self._own.open("ab", buffering=0) as file:
                self._can_write = file.write(frame) == len(frame)
        except OSError as error:
            self._can_write = False
            logger.warning("%s: masks are not remembered (%s).", self._own, error)


def _read(path: Path, start: int, num_masks: int, num_pairs: int, checksum: int) -> MaskFacts | None:
    """A frame's content; None where it is damaged or gone."""
    length = num_masks * _MASK.itemsize
    try:
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(length + num_pairs * _PAIR.itemsize)
    except OSError:
        return None
    if zlib.crc32(body) != checksum:
        return None
    masks, pairs = np.frombuffer(body[:length], _MASK), np.frombuffer(body[length:], _PAIR)
    return MaskFacts(
        key=masks["key"].astype(np.int64),
        area=masks["area"].astype(np.int64),
        num_pairs=masks["num_pairs"].astype(np.int64),
        annotation=pairs["annotation"].astype(np.int64),
        iou=pairs["iou"].astype(np.float64),
    )
