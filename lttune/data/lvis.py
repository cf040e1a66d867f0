"""LVIS- and COCO-format annotations, checked and as columns, and the samples that a detector trains on.

A file is COCO's where no image says for which categories it was searched and no category states its frequency. COCO
searches every image for every category, and its crowd regions are neither right nor wrong.
"""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lttune.data.frequency import unique_pairs
from lttune.data.parts import parse_in_parts
from lttune.data.records import (
    ANYTHING,
    BOX,
    FLAG,
    FREQUENCY,
    IDS,
    NUMBER,
    SIDE,
    TEXT,
    WHOLE,
    Column,
    Faults,
    Records,
    numbers_of,
    shortened,
)
from lttune.data.segmentations import PackedSegmentations
from lttune.errors import DataError
from lttune.masks import decode, to_rle
from lttune.types import GROUP_LETTERS, Annotations, IntArray, Target

FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


def load_annotations(path: Path, *, require_federated: bool = True) -> Annotations:
    """The annotations of an LVIS- or COCO-format JSON file.

    Args:
        path: the file.
        require_federated: whether every image of a file that is not COCO's must carry `neg_category_ids` and
            `not_exhaustive_category_ids`; without it an absent list is empty.

    Raises:
        DataError: the file is missing or breaks the format; one line per fault, at most 10 of them.
    """
    return annotations_from_text(read_text(path), str(path), require_federated=require_federated)


def read_text(path: Path) -> bytes:
    """The bytes of an annotation file.

    Raises:
        DataError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give the path of an LVIS-format JSON file.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from None


def parse_json(text: bytes, source: str) -> object:
    """The document that an annotation file holds; NaN and Infinity pass, so that the field they stand in is named.

    Raises:
        DataError: it is not JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        fault = error
    if b"NaN" in text or b"Infinity" in text:
        try:
            return json.loads(text)
        except ValueError:
            pass
    raise DataError(
        f"{source}: line {fault.lineno}, column {fault.colno}: not JSON: {fault.msg}. Is the file cut short?"
    )


def annotations_from_text(text: bytes, source: str, *, require_federated: bool = True) -> Annotations:
    """The annotations of a file's bytes; `source` names it in messages. See `load_annotations`."""
    with paused_collector():
        parsed = parse_in_parts(text)
        document, packed = (parse_json(text, source), None) if parsed is None else parsed
        annotations = annotations_from_document(document, source, require_federated=require_federated)
        return annotations if packed is None else replace(annotations, segmentations=PackedSegmentations(packed))


@contextmanager
def paused_collector() -> Iterator[None]:
    """Python's cycle collector is off: it would visit millions of new lists again and again, for half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def annotations_from_document(document: object, source: str, *, require_federated: bool = True) -> Annotations:
    """The annotations of a parsed document; `source` names it in messages. See `load_annotations`."""
    faults = Faults(source)
    annotations = read_document(document, source, faults, require_federated=require_federated)
    faults.raise_any()
    return annotations


def read_document(document: object, source: str, faults: Faults, *, require_federated: bool = True) -> Annotations:
    """The same with the faults gathered; where there are any, the columns hold fillers and numbers of -1.

    Raises:
        DataError: the document is no object, so that there is nothing to read.
    """
    if not isinstance(document, dict):
        raise DataError(
            f"{source}: the top level is {shortened(document)}; it must be an object with `images`, `annotations` and "
            "`categories`."
        )
    categories = Records(document, "categories", faults)
    images = Records(document, "images", faults)
    annotations = Records(document, "annotations", faults)
    is_coco = not (categories.have("frequency") or any(map(images.have, FEDERATED)))

    category_order, category_ids = _ascending(categories.ids())
    names = categories.column("name", TEXT).values
    groups = categories.column("frequency", FREQUENCY, default=None).values

    image_order, image_ids = _ascending(images.ids())
    heights = images.column("height", SIDE).values
    widths = images.column("width", SIDE).values
    file_names = _file_names(images)
    image_numbers = np.empty(len(images), np.int64)
    image_numbers[image_order] = np.arange(len(images))
    default: dict[str, Any] = {} if require_federated and not is_coco else {"default": []}
    negative, not_exhaustive = (_category_pairs(images, key, image_numbers, category_ids, default) for key in FEDERATED)

    annotation_ids = annotations.ids().values
    annotation_image = _references(annotations, "image_id", image_ids, "image")
    annotation_category = _references(annotations, "category_id", category_ids, "category")
    boxes = annotations.column("bbox", BOX).values
    areas = annotations.column("area", NUMBER).values
    is_ignored = np.array(annotations.column("ignore", FLAG, default=0).values, np.bool_)
    if is_coco:
        is_ignored |= np.array(annotations.column("iscrowd", FLAG, default=0).values, np.bool_)
    segmentations = annotations.column("segmentation", ANYTHING, default=None).values

    return Annotations(
        source=source,
        image_ids=image_ids,
        image_heights=np.array(heights, np.int64)[image_order],
        image_widths=np.array(widths, np.int64)[image_order],
        file_names=tuple(file_names[i] for i in image_order),
        category_ids=category_ids,
        category_names=tuple(names[i] for i in category_order),
        frequency_group=np.array([_group(groups[i]) for i in category_order], np.int64),
        annotation_ids=np.array(annotation_ids, np.int64),
        annotation_image=annotation_image,
        annotation_category=annotation_category,
        boxes_xywh=np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4),
        areas=np.array(areas, np.float64),
        is_ignored=is_ignored,
        segmentations=segmentations,
        negative=negative,
        not_exhaustive=not_exhaustive,
        is_exhaustive=is_coco,
    )


class LvisDataset(Dataset[tuple[Tensor, Target]]):
    """Images (3, H, W) uint8 RGB with their targets, by image number.

    Annotations without extent are left out, and so are ignored ones, which are no example of their category.

    Args:
        annotations: of the images.
        images_root: folder that the file names start from.
        with_masks: whether targets carry masks; without, no segmentation is read.

    Raises:
        DataError: on access, where an image or a segmentation is missing, unreadable or of another size than stated.
    """

    def __init__(self, annotations: Annotations, images_root: Path, *, with_masks: bool = True) -> None:
        self._annotations = annotations
        self._root = images_root
        self._with_masks = with_masks
        kept = np.flatnonzero((annotations.boxes_xywh[:, 2:] > 0).all(axis=1) & ~annotations.is_ignored)
        images = annotations.annotation_image[kept]
        order = np.argsort(images, kind="stable")
        self._rows = kept[order]
        self._starts = np.searchsorted(images[order], np.arange(annotations.num_images + 1))

    def __len__(self) -> int:
        return self._annotations.num_images

    def __getitem__(self, image: int) -> tuple[Tensor, Target]:
        if not 0 <= image < len(self):
            raise IndexError(image)  # also what ends a plain loop over the dataset
        rows = self._rows[self._starts[image] : self._starts[image + 1]]
        boxes = self._annotations.boxes_xywh[rows].copy()
        boxes[:, 2:] += boxes[:, :2]
        target = Target(
            boxes=torch.from_numpy(boxes).float(),
            labels=torch.from_numpy(self._annotations.annotation_category[rows]),
            masks=self._masks(image, rows) if self._with_masks else None,
        )
        return self._pixels(image), target

    def _pixels(self, image: int) -> Tensor:
        path = self._root / self._annotations.file_names[image]
        try:
            with Image.open(path) as file:
                pixels = np.array(file.convert("RGB"))
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such image, named by {self._annotations.source}; check the images folder."
            ) from None
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three on a damaged file
            raise DataError(f"{path}: cannot be read as an image: {error}. Fetch the file again.") from None
        stated = (int(self._annotations.image_heights[image]), int(self._annotations.image_widths[image]))
        if pixels.shape[:2] != stated:
            raise DataError(
                f"{path}: is {pixels.shape[0]} x {pixels.shape[1]} pixels (height x width), but "
                f"{self._annotations.source} says {stated[0]} x {stated[1]}; check the images folder."
            )
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def _masks(self, image: int, rows: IntArray) -> Tensor:
        height, width = int(self._annotations.image_heights[image]), int(self._annotations.image_widths[image])
        masks = np.zeros((len(rows), height, width), np.uint8)
        for mask, row in zip(masks, rows, strict=True):
            try:
                mask[:] = decode(to_rle(self._annotations.segmentations[row], height, width))
            except DataError as error:
                where = f"{self._annotations.source}: annotation {self._annotations.annotation_ids[row]}"
                raise DataError(f"{where}: {error}") from None
        return torch.from_numpy(masks)


def _ascending(ids: Column) -> tuple[IntArray, IntArray]:
    values = np.array(ids.values, np.int64)
    order = np.argsort(values, kind="stable")
    return order, values[order]


def _group(letter: str | None) -> int:
    return -1 if letter is None else GROUP_LETTERS.index(letter)


def _file_names(images: Records) -> list[str]:
    """`file_name` where there is one, else the last two parts of `coco_url`, which is how LVIS v1 names images."""
    names = images.column("file_name", TEXT, default=None).values
    urls = images.column("coco_url", TEXT, default=None).values
    for i, name in enumerate(names):
        if name is None:
            if urls[i] is None:
                images.fault(
                    i,
                    "file_name",
                    "missing, and there is no coco_url either; give one of them.",
                    problem="is missing, and coco_url too",
                )
            else:
                names[i] = "/".join(urls[i].split("/")[-2:])
    return names


def _references(annotations: Records, key: str, known_ids: IntArray, what: str) -> IntArray:
    """(A,) numbers of the images or categories that a field refers to."""
    column = annotations.column(key, WHOLE)
    numbers = numbers_of(np.array(column.values, np.int64), known_ids)
    for i in np.flatnonzero(column.is_sound & (numbers < 0)):
        fault = f"is not the id of any {what}"
        annotations.fault(int(i), key, f"{column.values[i]} {fault}.", problem=fault)
    return numbers


def _category_pairs(
    images: Records, key: str, image_numbers: IntArray, category_ids: IntArray, default: dict[str, Any]
) -> IntArray:
    """(n, 2) pairs (image, category) of one of the two federated fields, ascending, each once."""
    lists = images.column(key, IDS, **default).values
    entries = np.repeat(np.arange(len(lists)), [len(ids) for ids in lists])
    ids = np.fromiter(chain.from_iterable(lists), np.int64, len(entries))
    categories = numbers_of(ids, category_ids)
    for j in np.flatnonzero(categories < 0):
        fault = "is not the id of any category"
        images.fault(int(entries[j]), key, f"{ids[j]} {fault}.", problem=f"holds what {fault}")
    return unique_pairs(image_numbers[entries], categories, len(category_ids))
