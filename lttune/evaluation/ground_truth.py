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

_EVALUATED, _NOT_EXHAUSTIVE = np.uint8(1), np.uint8(2)


class GroundTruth:
    """Annotations in order of image, category and place in their file, with what federated evaluation asks of them.

    LVIS labels each image for some categories only. A detection counts where its category has an annotation in the
    image or is listed as absent from it. As in lvis-api, an annotation whose area is not above 0, or not finite, does
    not exist.

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
        # Dense tables, because a trial asks them about millions of detections.
        self._group_of_cell = np.full(self.num_images * self.num_categories, -1, np.int32)
        self._group_of_cell[cells] = np.arange(len(cells))
        self._state_of_cell = np.zeros(self.num_images * self.num_categories, np.uint8)
        self._state_of_cell[cells] = _EVALUATED
        self._state_of_cell[self._cell(*annotations.negative.T)] |= _EVALUATED
        self._state_of_cell[self._cell(*annotations.not_exhaustive.T)] |= _NOT_EXHAUSTIVE

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

    def groups(self, image: IntArray, category: IntArray) -> npt.NDArray[np.int32]:
        """(N,) group of each image and category, -1 where they have no annotation."""
        groups: npt.NDArray[np.int32] = self._group_of_cell[self._cell(image, category)]
        return groups

    def is_evaluated(self, image: IntArray, category: IntArray) -> npt.NDArray[np.bool_]:
        """(N,) whether it is known where in the image the category is, or that it is absent."""
        return (self._state_of_cell[self._cell(image, category)] & _EVALUATED) > 0

    def is_not_exhaustive(self, image: IntArray, category: IntArray) -> npt.NDArray[np.bool_]:
        """(N,) whether the image may hold more of the category than is annotated."""
        return (self._state_of_cell[self._cell(image, category)] & _NOT_EXHAUSTIVE) > 0

    @cached_property
    def rles(self) -> list[Rle]:
        """The mask of each annotation.

        Raises:
            DataError: an annotation has no mask, or a malformed one.
        """
        heights, widths = self.annotations.image_heights, self.annotations.image_widths
        return [self._rle(i, heights[image], widths[image]) for i, image in zip(self.index, self.image, strict=True)]

    def _cell(self, image: IntArray, category: IntArray) -> IntArray:
        return image * self.num_categories + category

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
