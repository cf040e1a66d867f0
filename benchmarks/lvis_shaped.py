"""LVIS-shaped annotations and detections as columns, and the JSON files that rivals read.

Shape letters: B images, A annotations, N detections.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from pycocotools import mask as coco_mask

from lttune.masks import Rle
from lttune.types import Annotations, FloatArray, IntArray

NUM_CATEGORIES = 1203
NUM_RARE, NUM_COMMON = 337, 461
DETECTIONS_PER_IMAGE = 297
SIDE = 640
# Corners of the polygon that stands for the mask of a box, as shares of its sides.
_OUTLINE = np.array([[0.5, 0], [0.9, 0.2], [1, 0.6], [0.7, 1], [0.2, 0.9], [0, 0.4]])


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Annotations, and detections in the order of images."""

    annotations: Annotations
    image: IntArray  # (N,)
    category: IntArray  # (N,)
    score: npt.NDArray[np.float32]  # (N,)
    boxes: FloatArray  # (N, 4) xywh

    def repeated(self, times: int) -> "Scene":
        """The same images again and again, under new ids."""
        old, number = self.annotations, self.annotations.num_images
        shift = np.arange(times) * number

        def images(column: IntArray) -> IntArray:
            return (column + shift[:, None]).ravel()

        def pairs(table: IntArray) -> IntArray:
            return np.stack([images(table[:, 0]), np.tile(table[:, 1], times)], axis=1)

        annotations = _annotations(
            num_images=times * number,
            frequency_group=old.frequency_group,
            image=images(old.annotation_image),
            category=np.tile(old.annotation_category, times),
            boxes=np.tile(old.boxes_xywh, (times, 1)),
            negative=pairs(old.negative),
            not_exhaustive=pairs(old.not_exhaustive),
        )
        return Scene(
            annotations=annotations,
            image=images(self.image),
            category=np.tile(self.category, times),
            score=np.tile(self.score, times),
            boxes=np.tile(self.boxes, (times, 1)),
        )


def make_scene(rng: np.random.Generator, num_images: int) -> Scene:
    """About 13 annotations and 297 detections per image, of which about half are in categories it is labelled for.

    Some detections are shifted copies of annotations and score the higher the nearer they are; the rest lie anywhere.
    """
    # Category numbers are dealt at random; the frequent ones are drawn far more often.
    popularity = 1.0 / (np.arange(NUM_CATEGORIES) + 5.0)
    popularity = rng.permutation(popularity / popularity.sum())
    rank = np.argsort(np.argsort(popularity))
    drawn = np.repeat(np.arange(num_images), rng.integers(1, 10, num_images))
    present = np.unique(drawn * NUM_CATEGORIES + rng.choice(NUM_CATEGORIES, len(drawn), p=popularity))
    drawn = np.repeat(np.arange(num_images), 10)
    absent = np.setdiff1d(drawn * NUM_CATEGORIES + rng.integers(NUM_CATEGORIES, size=len(drawn)), present)

    cell = np.repeat(present, rng.geometric(0.36, len(present)).clip(max=30))
    boxes = _random_boxes(rng, len(cell))
    annotations = _annotations(
        num_images=num_images,
        frequency_group=np.digitize(rank, [NUM_RARE, NUM_RARE + NUM_COMMON]),
        image=cell // NUM_CATEGORIES,
        category=cell % NUM_CATEGORIES,
        boxes=boxes,
        negative=_pairs(absent),
        not_exhaustive=_pairs(present[rng.random(len(present)) < 0.15]),
    )

    copied = np.repeat(np.arange(len(cell)), rng.integers(0, 8, len(cell)))
    first = np.searchsorted(cell[copied] // NUM_CATEGORIES, np.arange(num_images))
    copied = copied[np.arange(len(copied)) - first[cell[copied] // NUM_CATEGORIES] < DETECTIONS_PER_IMAGE]
    shift = rng.exponential(0.12, (len(copied), 1))
    near = boxes[copied]
    near[:, :2] += near[:, 2:] * rng.normal(0, 1, (len(copied), 2)) * shift
    near[:, 2:] *= np.exp(rng.normal(0, 1, (len(copied), 2)) * shift)

    image = np.repeat(
        np.arange(num_images),
        DETECTIONS_PER_IMAGE - np.bincount(cell[copied] // NUM_CATEGORIES, minlength=num_images),
    )
    labelled = np.union1d(present, absent)
    start = np.searchsorted(labelled // NUM_CATEGORIES, np.arange(num_images + 1))
    one = labelled[(start[image] + rng.random(len(image)) * np.diff(start)[image]).astype(np.int64)]
    category = np.where(
        rng.random(len(image)) < 0.4, one % NUM_CATEGORIES, rng.integers(NUM_CATEGORIES, size=len(image))
    )
    columns = (
        np.concatenate([cell[copied] // NUM_CATEGORIES, image]),
        np.concatenate([cell[copied] % NUM_CATEGORIES, category]),
        np.concatenate([rng.beta(3, 2 + 10 * shift[:, 0]), rng.beta(1, 12, len(image))]).astype(np.float32),
        np.concatenate([near, _random_boxes(rng, len(image))]).round(2),
    )
    order = np.argsort(columns[0], kind="stable")
    image, category, score, found = (column[order] for column in columns)
    return Scene(annotations=annotations, image=image, category=category, score=score, boxes=found)


def outlines(boxes: FloatArray) -> list[Rle]:
    """A six-cornered mask in each box."""
    corners = boxes[:, None, :2] + boxes[:, None, 2:] * _OUTLINE
    return [coco_mask.frPyObjects([polygon], SIDE, SIDE)[0] for polygon in corners.reshape(len(boxes), -1).tolist()]


def write_files(scene: Scene, annotations_path: Path, detections_path: Path, *, rles: list[Rle] | None = None) -> None:
    """The JSON of LVIS; with `rles`, detections carry masks instead of boxes, and annotations both."""
    annotations_path.write_bytes(orjson.dumps(_document(scene.annotations, with_masks=rles is not None)))
    with detections_path.open("wb") as file:
        for i, line in enumerate(_entries(scene, rles)):
            file.write(b",\n" if i else b"[")
            file.write(line)
        file.write(b"]")


def _random_boxes(rng: np.random.Generator, number: int) -> FloatArray:
    size = np.exp(rng.normal(4.0, 0.9, (number, 2))).clip(4, SIDE / 2)
    return np.round(np.concatenate([rng.random((number, 2)) * (SIDE - size), size], axis=1), 2)


def _pairs(cell: IntArray) -> IntArray:
    return np.stack([cell // NUM_CATEGORIES, cell % NUM_CATEGORIES], axis=1)


def _annotations(
    *,
    num_images: int,
    frequency_group: IntArray,
    image: IntArray,
    category: IntArray,
    boxes: FloatArray,
    negative: IntArray,
    not_exhaustive: IntArray,
) -> Annotations:
    return Annotations(
        source="benchmark",
        image_ids=np.arange(num_images) + 1,
        image_heights=np.full(num_images, SIDE),
        image_widths=np.full(num_images, SIDE),
        file_names=tuple(f"{i + 1:012}.jpg" for i in range(num_images)),
        category_ids=np.arange(NUM_CATEGORIES) + 1,
        category_names=tuple(f"category {i + 1}" for i in range(NUM_CATEGORIES)),
        frequency_group=frequency_group,
        annotation_ids=np.arange(len(image)) + 1,
        annotation_image=image,
        annotation_category=category,
        boxes_xywh=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        is_ignored=np.zeros(len(image), np.bool_),
        segmentations=[None] * len(image),
        negative=negative,
        not_exhaustive=not_exhaustive,
    )


def _document(annotations: Annotations, *, with_masks: bool) -> dict[str, Any]:
    lists: dict[str, list[list[int]]] = {}
    for key, pairs in (
        ("neg_category_ids", annotations.negative),
        ("not_exhaustive_category_ids", annotations.not_exhaustive),
    ):
        lists[key] = [[] for _ in range(annotations.num_images)]
        for image, category in pairs.tolist():
            lists[key][image].append(category + 1)
    corners = annotations.boxes_xywh[:, None, :2] + annotations.boxes_xywh[:, None, 2:] * _OUTLINE
    columns = zip(
        annotations.annotation_image.tolist(),
        annotations.annotation_category.tolist(),
        annotations.boxes_xywh.tolist(),
        annotations.areas.tolist(),
        corners.reshape(len(corners), -1).tolist(),
        strict=True,
    )
    return {
        "images": [
            {"id": i + 1, "height": SIDE, "width": SIDE, "file_name": name, **{key: lists[key][i] for key in lists}}
            for i, name in enumerate(annotations.file_names)
        ],
        "categories": [
            {"id": i + 1, "name": name, "frequency": "rcf"[group]}
            for i, (name, group) in enumerate(
                zip(annotations.category_names, annotations.frequency_group.tolist(), strict=True)
            )
        ],
        "annotations": [
            {"id": i + 1, "image_id": image + 1, "category_id": category + 1, "bbox": box, "area": area}
            | ({"segmentation": [polygon]} if with_masks else {})
            for i, (image, category, box, area, polygon) in enumerate(columns)
        ],
    }


def _entries(scene: Scene, rles: list[Rle] | None) -> Iterator[bytes]:
    # A row at a time: as objects, all detections of 5000 images take a gigabyte.
    for i in range(len(scene.image)):
        entry = {"image_id": int(scene.image[i]) + 1, "category_id": int(scene.category[i]) + 1}
        entry["score"] = scene.score[i].item()
        if rles is None:
            entry["bbox"] = scene.boxes[i].tolist()
        else:
            entry["segmentation"] = {"size": rles[i]["size"], "counts": rles[i]["counts"].decode()}
        yield orjson.dumps(entry)
