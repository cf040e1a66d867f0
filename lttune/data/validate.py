"""Every defect of an annotation file and its images in one report.

An error stops training or teaches it what is not there; a warning is a defect that training survives, for example a
box without extent, which it leaves out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from lttune.data.frequency import positive_pairs
from lttune.data.lvis import FEDERATED, parse_json, read_document, read_text
from lttune.data.records import BoolArray, Faults
from lttune.errors import DataError
from lttune.masks import decode, rle_areas, to_rle
from lttune.types import Annotations, IntArray

Severity = Literal["error", "warning"]
# What is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]

_MAX_SHOWN = 10
# A box may leave its image by this much: annotation tools round.
_SLACK_PX = 1.0
# No common format holds longer sides, and masks of such an image would fill the memory.
_MAX_SIDE_PX = 65_535
# Fields that may be absent: a faulty one is dropped so that the rest of its entry is judged.
_OPTIONAL = {"frequency", "ignore", "iscrowd", *FEDERATED}
_PROGRESS_EVERY = 1000
_IMAGE_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of defect.

    Attributes:
        what: the defect, and what to do where that is not plain.
        count: how often it occurs.
        ids: ids of the entries that have it; empty where it is the file's.
        places: places in their list of entries without a usable id, counted from 0.
        details: of the first few, what exactly.
    """

    severity: Severity
    what: str
    count: int = 1
    ids: tuple[int, ...] = ()
    places: tuple[int, ...] = ()
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = [f"{_ids_word(self.ids)} {_shown(self.ids)}"] if self.ids else []
        shown += [f"at {_shown(self.places)} of the list, from 0"] if self.places else []
        times = f" ({self.count} times)" if self.count > 1 else ""
        where = f": {'; '.join(shown)}" if shown else ""
        return "\n".join([f"{self.severity + ':':<8} {self.what}{times}{where}", *(f"{'':9}{d}" for d in self.details)])


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """What was found in one file, errors first."""

    source: str
    num_images: int
    num_annotations: int
    num_categories: int
    findings: tuple[Finding, ...]

    @property
    def breaks_training(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)

    def __str__(self) -> str:
        counts = f"{self.num_images} images, {self.num_annotations} annotations, {self.num_categories} categories"
        errors = sum(finding.severity == "error" for finding in self.findings)
        end = f"{_counted(errors, 'error')}, {_counted(len(self.findings) - errors, 'warning')}."
        return "\n".join([f"{self.source}: {counts} of sound form", *map(str, self.findings), end])


def validate_annotations(
    path: Path, *, images: Path | None = None, val: Path | None = None, progress: Progress | None = None
) -> ValidationReport:
    """Look for every defect.

    Args:
        path: LVIS- or COCO-format file; the training set where `val` is given.
        images: folder that its file names start from; every image is read.
        val: validation annotations, whose categories are compared.
        progress: told how far masks and images are.

    Raises:
        DataError: a file or the folder is missing or cannot be read; whatever is in the file is reported.
    """
    tell = progress or (lambda *_: None)
    if images is not None and not images.is_dir():
        raise DataError(f"{images}: there is no such folder of images; correct --images.")
    source = str(path)
    text = read_text(path)
    try:
        annotations, findings = _sound_part(parse_json(text, source), source)
    except DataError as error:
        return ValidationReport(
            source=source, num_images=0, num_annotations=0, num_categories=0, findings=(_of_error(error, source),)
        )
    del text
    findings += [*_emptiness(annotations), *_ids_of_0(annotations), *_repeated_names(annotations)]
    findings += [*_boxes(annotations), *_labels(annotations), *_masks(annotations, tell)]
    if val is not None:
        findings += _against(annotations, val)
    if images is not None:
        findings += _images(annotations, images, tell)
    return ValidationReport(
        source=source,
        num_images=annotations.num_images,
        num_annotations=len(annotations.annotation_ids),
        num_categories=annotations.num_categories,
        findings=tuple(sorted(findings, key=lambda finding: finding.severity != "error")),
    )


def _sound_part(document: Any, source: str) -> tuple[Annotations, list[Finding]]:
    """What is left of a document without its faulty entries, and the faults."""
    faults = Faults(source)
    annotations = read_document(document, source, faults)
    findings = [
        Finding(
            severity="error", what=what, count=found.count, ids=tuple(found.ids), places=tuple(sorted(found.places))
        )
        for what, found in faults.problems.items()
    ]
    while faults.problems:
        # An entry without its image or category falls in the second round; it is no defect of its own.
        document = _without_faults(document, faults)
        faults = Faults(source)
        annotations = read_document(document, source, faults, require_federated=False)
    return annotations, findings


def _without_faults(document: dict[str, Any], faults: Faults) -> dict[str, Any]:
    kept = {}
    for name in ("categories", "images", "annotations"):
        entries = document.get(name)
        faulty = faults.fields.get(name, {})
        kept[name] = [
            {key: value for key, value in entry.items() if key not in faulty[i]} if i in faulty else entry
            for i, entry in enumerate(entries if isinstance(entries, list) else [])
            if isinstance(entry, dict) and faulty.get(i, set()) <= _OPTIONAL
        ]
    return kept


def _of_error(error: DataError, source: str) -> Finding:
    return Finding(severity="error", what=str(error).removeprefix(f"{source}: ").rstrip("."))


def _finding(
    severity: Severity, what: str, ids: IntArray | Sequence[int], details: Iterable[str] = ()
) -> list[Finding]:
    """A finding on the entries of the ids, or nothing where there are none."""
    if not len(ids):
        return []
    found = tuple(int(i) for i in ids)
    return [Finding(severity=severity, what=what, count=len(found), ids=found, details=tuple(details)[:_MAX_SHOWN])]


def _emptiness(annotations: Annotations) -> Iterator[Finding]:
    for name, number in (
        ("images", annotations.num_images),
        ("categories", annotations.num_categories),
        ("annotations", len(annotations.annotation_ids)),
    ):
        if not number:
            yield Finding(severity="error", what=f"there are no {name} without faults, so nothing can be learnt")
    occurs = np.bincount(annotations.annotation_category, minlength=annotations.num_categories) > 0
    if occurs.any():
        yield from _finding("warning", "category without annotations", annotations.category_ids[~occurs])


def _ids_of_0(annotations: Annotations) -> Iterator[Finding]:
    for name, ids in (("annotation", annotations.annotation_ids), ("category", annotations.category_ids)):
        yield from _finding(
            "warning",
            f"{name} with the id 0, which lttune takes and other tools mistake for none: lvis-api counts a match with "
            "annotation 0 as wrong"
            if name == "annotation"
            else f"{name} with the id 0, which lttune takes and some tools keep for background",
            ids[ids == 0],
        )


def _repeated_names(annotations: Annotations) -> list[Finding]:
    return [
        *_finding(
            "warning",
            "image with the file name of another image",
            annotations.image_ids[_repeats(annotations.file_names)],
        ),
        *_finding(
            "warning",
            "category with the name of another category",
            annotations.category_ids[_repeats(annotations.category_names)],
        ),
    ]


def _repeats(names: Sequence[str]) -> list[int]:
    """Places of the names that occur before."""
    first: dict[str, int] = {}
    return [i for i, name in enumerate(names) if first.setdefault(name, i) != i]


def _boxes(annotations: Annotations) -> list[Finding]:
    x, y, width, height = annotations.boxes_xywh.T
    W, H = (side[annotations.annotation_image] for side in (annotations.image_widths, annotations.image_heights))
    has_extent = (width > 0) & (height > 0)
    is_outside = has_extent & ((x >= W) | (y >= H) | (x + width <= 0) | (y + height <= 0))
    leaves = np.max([-x, -y, x + width - W, y + height - H], axis=0) > _SLACK_PX
    sides = np.maximum(annotations.image_widths, annotations.image_heights)

    def of(chosen: BoolArray) -> IntArray:
        return annotations.annotation_ids[chosen]

    return [
        *_finding(
            "error",
            f"image said to be longer than {_MAX_SIDE_PX} px; its masks are not looked at",
            annotations.image_ids[sides > _MAX_SIDE_PX],
        ),
        *_finding("error", "box lies outside its image", of(is_outside)),
        *_finding("warning", "box reaches over the edge of its image", of(has_extent & leaves & ~is_outside)),
        *_finding("warning", "box has no extent, so training leaves it out", of(~has_extent)),
        *_finding("warning", "area is not above 0, so evaluation leaves it out", of(~(annotations.areas > 0))),
    ]


def _labels(annotations: Annotations) -> list[Finding]:
    C = max(1, annotations.num_categories)
    present, absent = (pairs @ [C, 1] for pairs in (positive_pairs(annotations), annotations.negative))
    both = np.intersect1d(present, absent) // C
    return _finding(
        "warning",
        "image with annotations of a category that its neg_category_ids call absent",
        annotations.image_ids[np.unique(both)],
    )


def _masks(annotations: Annotations, tell: Progress) -> list[Finding]:
    total = len(annotations.annotation_ids)
    # Files without masks often hold empty lists.
    has_mask = np.fromiter((s is not None and s != [] for s in annotations.segmentations), np.bool_, total)
    if not has_mask.any():
        return []
    heights, widths = (
        side[annotations.annotation_image].tolist() for side in (annotations.image_heights, annotations.image_widths)
    )
    ids = annotations.annotation_ids.tolist()
    faulty: dict[str, list[int]] = {"malformed": [], "outside": [], "empty": []}
    details: list[str] = []
    for row in np.flatnonzero(has_mask).tolist():
        if row and row % _PROGRESS_EVERY == 0:
            tell("masks", row, total)
        if max(heights[row], widths[row]) > _MAX_SIDE_PX:
            continue
        try:
            state = _mask_state(annotations.segmentations[row], heights[row], widths[row])
        except DataError as error:
            faulty["malformed"].append(ids[row])
            details.append(f"annotation {ids[row]}: {error}")
            continue
        if state is not None:
            faulty[state].append(ids[row])
    return [
        *_finding("error", "mask is malformed", faulty["malformed"], details),
        *_finding("error", "mask has points farther from its image than the image is large", faulty["outside"]),
        *_finding("warning", "mask has no pixels in its image", faulty["empty"]),
        *_finding(
            "error",
            "annotation has no segmentation, while others have; masks cannot be trained",
            annotations.annotation_ids[~has_mask],
        ),
    ]


def _mask_state(segmentation: Any, height: int, width: int) -> Literal["outside", "empty"] | None:
    """What is wrong with a mask of the right form.

    Raises:
        DataError: its form is wrong.
    """
    far = max(height, width)
    if isinstance(segmentation, list) and any(_reaches(polygon, -far, 2 * far) for polygon in segmentation):
        return "outside"  # to draw it would take memory without bound
    rle = to_rle(segmentation, height, width)
    num_pixels = int(rle_areas([rle])[0]) if isinstance(segmentation, list) else int(decode(rle).sum())
    return None if num_pixels else "empty"


def _reaches(polygon: Any, low: int, high: int) -> bool:
    return isinstance(polygon, list) and any(type(v) in (int, float) and (v < low or v > high) for v in polygon)


def _against(train: Annotations, val: Path) -> list[Finding]:
    """What the categories of training and validation annotations lack of each other."""
    try:
        other, faults = _sound_part(parse_json(read_text(val), str(val)), str(val))
    except DataError as error:
        return [_of_error(error, "")]
    found = []
    if faults:
        found.append(
            Finding(severity="error", what=f"{val} has {_counted(len(faults), 'kind')} of faults; validate it, too")
        )
    found += _finding("error", f"category is not listed in {val}", np.setdiff1d(train.category_ids, other.category_ids))
    found += _finding(
        "error", f"category of {val} is not listed here", np.setdiff1d(other.category_ids, train.category_ids)
    )
    learnt, judged = (np.unique(a.category_ids[a.annotation_category]) for a in (train, other))
    common = np.intersect1d(train.category_ids, other.category_ids)
    learnt, judged = np.intersect1d(learnt, common), np.intersect1d(judged, common)
    found += _finding(
        "warning", f"category is trained, but {val} has no annotation to judge it by", np.setdiff1d(learnt, judged)
    )
    found += _finding(
        "warning", f"category is judged by {val}, but has no training annotation", np.setdiff1d(judged, learnt)
    )
    names = [dict(zip(a.category_ids.tolist(), a.category_names, strict=True)) for a in (train, other)]
    renamed = [i for i in common.tolist() if names[0][i] != names[1][i]]
    found += _finding("warning", f"category has another name in {val}", renamed)
    return found


def _images(annotations: Annotations, root: Path, tell: Progress) -> list[Finding]:
    bad = bad_images(annotations, root, tell)
    lines = [f"{annotations.file_names[i]}: {reason}" for i, reason in bad.items()]
    return _finding("error", "image cannot be used", annotations.image_ids[list(bad)], lines)


def bad_images(annotations: Annotations, root: Path, tell: Progress) -> dict[int, str]:
    """Numbers of the images that are missing, unreadable or of another size than stated, each with its reason."""
    total = annotations.num_images
    bad: dict[int, str] = {}

    def look(image: int) -> str | None:
        stated = (int(annotations.image_widths[image]), int(annotations.image_heights[image]))
        return _fault_of_image(root / annotations.file_names[image], stated)

    with ThreadPoolExecutor(_IMAGE_THREADS) as pool:
        for image, reason in enumerate(pool.map(look, range(total))):
            if image and image % _PROGRESS_EVERY == 0:
                tell("images", image, total)
            if reason is not None:
                bad[image] = reason
    return bad


def _fault_of_image(path: Path, stated: tuple[int, int]) -> str | None:
    try:
        with Image.open(path) as file:
            size = file.size
            if size == stated:
                file.load()
    except FileNotFoundError:
        return "there is no such file"
    # Pillow raises all of these on a damaged file, the last on one that claims to be too large.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"cannot be read: {error}"
    if size != stated:
        return f"is {size[0]} x {size[1]} px (width x height), but the annotations say {stated[0]} x {stated[1]}"
    return None


def _shown(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:_MAX_SHOWN])) + (", ..." if len(numbers) > _MAX_SHOWN else "")


def _ids_word(ids: Sequence[int]) -> str:
    return "id" if len(ids) == 1 else "ids"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
