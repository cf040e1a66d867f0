"""An index of the annotations, built once and shared by every trial of a search.

Shape letters: B images, C categories, M annotations that count, A area ranges. A group is one category in one image.
"""

from functools import cached_property

import numpy as np
import numpy.typing as npt

from lttune.errors import DataError
from lttune.masks import Rle, to_rle
from lttune.types import Annotations, FloatArray, IntArray

# Square pixels, both ends inside: all, small, medium, large.
AREA_RANGES = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
RECALLS = np.linspace(0, 1, 101)

# A label holds these two bits, and above them 1 + the group, or 0 where no annotation is.
EVALUATED, NOT_EXHAUSTIVE = np.int32(1), np.int32(2)
_GROUP_SHIFT = np.int32(2)

Labels = npt.NDArray[np.int32]


class GroundTruth:
    """Annotations in order of image, category and place in their file, with what federated evaluation asks of them.

    LVIS labels each image for some categories only. A detection counts where its category has an annotation in the
    image or is listed as absent from it, and everywhere in COCO-format annotations. As in lvis-api, an annotation
    whose area is not above 0, or not finite, does not exist.

    Attributes:
        annotations: the file's columns.
        num_dropped: annotations left out for their area.
        index: (M,) place of each annotation in the file's columns.
        image: (M,) ascending.
        category: (M,) ascending within an image.
        boxes_xywh: (M, 4) float64.
        is_ignored: (A, M) whether a match is neither right nor wrong: marked so in the file or outside the range.
        num_counted: (A, C) annotations that are not ignored.
        image_start: (B + 1,) annotations of image i are `image_start[i]` to `image_start[i + 1]`.
        group: (M,) group of each annotation.
        group_start: (G + 1,) annotations of group g are `group_start[g]` to `group_start[g + 1]`.
    """

    def __init__(self, annotations: Annotations) -> None:
        self.annotations = annotations
        areas = annotations.areas
        kept = np.flatnonzero((areas > 0) & np.isfinite(areas))
        self.num_dropped = len(areas) - len(kept)
        # One number for image and category; the stable sort keeps the file's order in a group, on which ties rest.
        cell = self._cell(annotations.annotation_image[kept], annotations.annotation_category[kept])
        order = np.argsort(cell, kind="stable")
        cell = cell[order]
        self.index: IntArray = kept[order]
        self.image: IntArray = annotations.annotation_image[self.index]
        self.category: IntArray = annotations.annotation_category[self.index]
        self.boxes_xywh: FloatArray = annotations.boxes_xywh[self.index]

        area = areas[self.index]
        in_file = annotations.is_ignored[self.index]
        self.is_ignored = np.stack([in_file | (area < low) | (area > high) for low, high in AREA_RANGES])
        counts = [np.bincount(self.category[~ignored], minlength=self.num_categories) for ignored in self.is_ignored]
        self.num_counted = np.stack(counts)

        self.image_start: IntArray = np.searchsorted(self.image, np.arange(self.num_images + 1))
        cells, first, self.group = np.unique(cell, return_index=True, return_inverse=True)
        self.group_start: IntArray = np.append(first, len(cell))
        # A dense table, because a trial asks it about millions of detections.
        everywhere = EVALUATED if annotations.is_exhaustive else np.int32(0)
        self._label_of_cell: Labels = np.full(self.num_images * self.num_categories, everywhere)
        self._label_of_cell[cells] = (np.arange(len(cells), dtype=np.int32) + 1) << _GROUP_SHIFT | EVALUATED
        self._label_of_cell[self._cell(*annotations.negative.T)] |= EVALUATED
        self._label_of_cell[self._cell(*annotations.not_exhaustive.T)] |= NOT_EXHAUSTIVE

    @property
    def num_images(self) -> int:
        return self.annotations.num_images

    @property
    def num_categories(self) -> int:
        return self.annotations.num_categories

    def __len__(self) -> int:
        return len(self.index)

    def image_annotations(self, image: int) -> IntArray:
        """The annotations of an image; the columns of its IoU table follow this order."""
        return np.arange(self.image_start[image], self.image_start[image + 1])

    def labels(self, image: npt.NDArray[np.integer], category: npt.NDArray[np.integer]) -> Labels:
        """(N,) what is known of each category in each image, 0 nothing; category -1, one the file does not list."""
        labels: Labels = self._label_of_cell[self._cell(image, np.maximum(category, 0))]
        labels[category < 0] = 0
        return labels

    def groups(self, image: npt.NDArray[np.integer], category: npt.NDArray[np.integer]) -> Labels:
        """(N,) group of each image and category, -1 where they have no annotation."""
        return group_of(self.labels(image, category))

    @cached_property
    def ignored_areas(self) -> npt.NDArray[np.uint8]:
        """(M,) the area ranges in which each annotation is ignored, as bits."""
        areas: npt.NDArray[np.uint8] = np.packbits(self.is_ignored, axis=0, bitorder="little")[0]
        return areas

    @property
    def num_images_of_category(self) -> IntArray:
        """(C,) images with an annotation of the category that is not ignored."""
        cells = np.unique(self._cell(self.image, self.category)[~self.is_ignored[0]])
        return np.bincount(cells % self.num_categories, minlength=self.num_categories)

    @cached_property
    def recall_weights(self) -> tuple[npt.NDArray[np.float64], ...]:
        """Per area range, (number counted,) by category: how many of the 101 recalls its k-th match is first to reach.

        Matches k = 1, 2, ... of category c stand from the sum of `num_counted` below c on.
        """
        return tuple(_recall_weights(counts) for counts in self.num_counted)

    @cached_property
    def rles(self) -> list[Rle]:
        """The mask of each annotation.

        Raises:
            DataError: an annotation has no mask, or a malformed one.
        """
        heights, widths = self.annotations.image_heights, self.annotations.image_widths
        return [self._rle(i, heights[image], widths[image]) for i, image in zip(self.index, self.image, strict=True)]

    def _cell(self, image: npt.NDArray[np.integer], category: npt.NDArray[np.integer]) -> IntArray:
        return image.astype(np.int64, copy=False) * self.num_categories + category

    def _rle(self, index: np.int64, height: np.int64, width: np.int64) -> Rle:
        annotations = self.annotations
        segmentation = annotations.segmentations[int(index)]
        where = f"{annotations.source}: annotation {annotations.annotation_ids[index]}"
        if segmentation is None:
            raise DataError(f"{where} has no segmentation; evaluate boxes, or add masks to the file.")
        try:
            return to_rle(segmentation, int(height), int(width))
        except DataError as error:
            raise DataError(f"{where}: {error}") from None


def group_of(labels: Labels) -> Labels:
    """The group in each label, -1 where no annotation is."""
    return (labels >> _GROUP_SHIFT) - np.int32(1)


def _recall_weights(counts: IntArray) -> FloatArray:
    num_annotations = np.repeat(counts, counts)
    match = np.arange(len(num_annotations)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    reached = np.searchsorted(RECALLS, match / num_annotations, side="right")
    return np.where(match == 1, reached, np.diff(reached, prepend=0)).astype(np.float64)
