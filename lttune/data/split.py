"""Two halves of a validation set: one to tune on, one to report on.

A search selects its best trial by the tune half; scores on the same images would flatter it, so a study reports the
other half. Both halves shall hold every category, rare ones above all: images are dealt by iterative stratification
(Sechidis et al., ECML PKDD 2011), the category with the fewest images left first.
"""

import heapq
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from lttune.data.frequency import unique_pairs
from lttune.types import Annotations, IntArray

# Part of every draw. A new way to split gets a new salt, since scores of different halves cannot be compared.
SPLIT_SALT = "lttune-split-1"

# Moves that `_mend` may take. LVIS-sized sets need a handful.
_MAX_MOVES = 1000
# Latest moves that may not be undone, besides the very last.
_MEMORY = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Halves:
    """Image numbers of each half, and the categories that can be evaluated there, all ascending.

    A category can be evaluated where it has an annotation that is not ignored and whose area is above 0.
    """

    tune: IntArray
    report: IntArray
    tune_categories: IntArray
    report_categories: IntArray
    both_categories: IntArray


def split_halves(annotations: Annotations) -> Halves:
    """Deal the images into halves, as a function of their ids and contents alone.

    A category with two or more positive images gets one in each half wherever the bounded search of `_mend` finds how;
    sometimes the images of several categories allow no such split.
    """
    C = annotations.num_categories
    counts = (annotations.areas > 0) & ~annotations.is_ignored
    positive = unique_pairs(annotations.annotation_image[counts], annotations.annotation_category[counts], C)
    # Negative images of a category are stratified like a category of their own, numbered from C.
    labels_of = _grouped(np.concatenate([positive, np.add(annotations.negative, [0, C])]), annotations.num_images)
    ranks = [_rank(int(i)) for i in annotations.image_ids]
    half_of = _deal(labels_of, ranks, 2 * C)
    _mend(half_of, labels_of, ranks, C)
    _level(half_of, labels_of, ranks, C)

    tune, report = (np.flatnonzero(half_of == half) for half in (0, 1))
    in_tune, in_report = (np.unique(positive[half_of[positive[:, 0]] == half, 1]) for half in (0, 1))
    return Halves(
        tune=tune,
        report=report,
        tune_categories=in_tune,
        report_categories=in_report,
        both_categories=np.intersect1d(in_tune, in_report),
    )


def _rank(image_id: int) -> int:
    return int.from_bytes(blake2b(f"{SPLIT_SALT}:{image_id}".encode(), digest_size=8).digest(), "big")


def _grouped(pairs: IntArray, num_groups: int) -> list[list[int]]:
    """Second members of the pairs by their first member."""
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    for group, member in pairs.tolist():
        groups[group].append(member)
    return groups


def _inverted(labels_of: list[list[int]], ranks: list[int], num_labels: int) -> list[list[int]]:
    """Images of each label, in the order of their ranks."""
    images_of: list[list[int]] = [[] for _ in range(num_labels)]
    for image in sorted(range(len(ranks)), key=ranks.__getitem__):
        for label in labels_of[image]:
            images_of[label].append(image)
    return images_of


def _deal(labels_of: list[list[int]], ranks: list[int], num_labels: int) -> IntArray:
    """(B,) 0 or 1: the label with the fewest undealt images gives each of them to the half with fewer of its images."""
    images_of = _inverted(labels_of, ranks, num_labels)
    num_left = [len(images) for images in images_of]
    dealt = [[0, 0] for _ in range(num_labels)]
    sizes = [0, 0]
    half_of = [-1] * len(labels_of)

    def give(image: int, in_half: list[int]) -> None:
        half = min((0, 1), key=lambda h: (in_half[h], sizes[h], (ranks[image] + h) % 2))
        half_of[image] = half
        sizes[half] += 1
        for label in labels_of[image]:
            dealt[label][half] += 1
            num_left[label] -= 1

    # Positives come before negatives of the same count, because their labels are smaller.
    queue = [(count, label) for label, count in enumerate(num_left) if count]
    heapq.heapify(queue)
    while queue:
        count, label = heapq.heappop(queue)
        if count != num_left[label]:
            continue  # a newer entry of this label is in the queue, or none of its images is left
        images = [image for image in images_of[label] if half_of[image] < 0]
        for image in images:
            give(image, dealt[label])
        for touched in {other for image in images for other in labels_of[image]}:
            if num_left[touched]:
                heapq.heappush(queue, (num_left[touched], touched))
    for image in sorted(range(len(ranks)), key=ranks.__getitem__):
        if half_of[image] < 0:
            give(image, [0, 0])
    return np.array(half_of, np.int64)


def _mend(half_of: IntArray, labels_of: list[list[int]], ranks: list[int], num_categories: int) -> None:
    """Move images, in place, until no category with two or more positive images lacks one in either half.

    Dealing leaves few such categories, so a bounded search with a memory of its latest moves is enough; where it ends
    without success, the best split on its way stands.
    """
    categories_of = [[label for label in labels if label < num_categories] for labels in labels_of]
    images_of = _inverted(categories_of, ranks, num_categories)
    counts = np.array([np.bincount(half_of[images], minlength=2) for images in images_of]).reshape(-1, 2)
    is_shared = counts.sum(axis=1) >= 2

    def cost_of_moving(image: int) -> tuple[int, int, int]:
        """Categories that would lose a half minus those that would gain one, what the sizes would differ by, rank."""
        here, shared = half_of[image], [c for c in categories_of[image] if is_shared[c]]
        num_lost = int((counts[shared, here] == 1).sum()) - int((counts[shared, 1 - here] == 0).sum())
        return num_lost, abs(2 * (int(sizes[here]) - 1) - len(half_of)), ranks[image]

    best, fewest = half_of.copy(), num_categories + 1
    latest: list[int] = []
    for _ in range(_MAX_MOVES):
        lacking = np.flatnonzero(is_shared & (counts.min(axis=1) == 0))
        if len(lacking) < fewest:
            best, fewest = half_of.copy(), len(lacking)
        if not len(lacking):
            break
        sizes = np.bincount(half_of, minlength=2)
        movable = [image for image in images_of[lacking[0]] if image not in latest]
        if not movable:
            latest.clear()
            continue
        image = min(movable, key=cost_of_moving)
        counts[categories_of[image], half_of[image]] -= 1
        half_of[image] = 1 - half_of[image]
        counts[categories_of[image], half_of[image]] += 1
        latest = [*latest[-_MEMORY:], image]
    half_of[:] = best


def _level(half_of: IntArray, labels_of: list[list[int]], ranks: list[int], num_categories: int) -> None:
    """Move images, in place, from the larger half until the sizes differ by one at most, or no image may move.

    An image may move where no category loses its last image of the half; the one that makes labels most even goes.
    """
    counts = np.zeros((2 * num_categories, 2), np.int64)
    for image, labels in enumerate(labels_of):
        counts[labels, half_of[image]] += 1
    is_shared = counts[:num_categories].sum(axis=1) >= 2

    def may_move(image: int) -> bool:
        categories = [label for label in labels_of[image] if label < num_categories and is_shared[label]]
        return bool((counts[categories, larger] > 1).all())

    def unevenness_added(image: int) -> tuple[int, int]:
        """A quarter of the growth of the squared differences of the labels' counts, then the rank."""
        difference = counts[labels_of[image], larger] - counts[labels_of[image], 1 - larger]
        return int((1 - difference).sum()), ranks[image]

    while True:
        sizes = np.bincount(half_of, minlength=2)
        larger = int(sizes.argmax())
        if sizes[larger] - sizes[1 - larger] <= 1:
            return
        movable = [image for image in np.flatnonzero(half_of == larger).tolist() if may_move(image)]
        if not movable:
            return
        image = min(movable, key=unevenness_added)
        counts[labels_of[image], larger] -= 1
        counts[labels_of[image], 1 - larger] += 1
        half_of[image] = 1 - larger
