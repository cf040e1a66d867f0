"""What the halves of a validation set hold and can judge, and the halves as annotation files of their own."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from lttune.data.lvis import parse_json, read_text
from lttune.data.split import Halves
from lttune.errors import InputError
from lttune.types import Annotations, IntArray

_GROUP_NAMES = ("rare", "common", "frequent")
_MAX_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class HalfSummary:
    """One half, or both together.

    Attributes:
        per_group: categories that can be judged: rare, common, frequent.
        not_judged: ids of the categories that cannot.
    """

    name: str
    num_images: int
    num_annotations: int
    num_categories: int
    per_group: tuple[int, int, int] | None
    not_judged: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class HalvesReport:
    """The halves of one file, side by side; groups are absent where nothing states them."""

    source: str
    num_categories: int
    parts: tuple[HalfSummary, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        has_groups = self.parts[0].per_group is not None
        names = ("images", "annotations", "categories", *(_GROUP_NAMES if has_groups else ()))
        lines = [f"{self.source}: what each half of a search can judge of {self.num_categories} categories"]
        lines.append(f"{'':<8}" + "".join(f"{name:>13}" for name in names))
        for part in self.parts:
            numbers = (part.num_images, part.num_annotations, part.num_categories, *(part.per_group or ()))
            lines.append(f"{part.name:<8}" + "".join(f"{number:>13}" for number in numbers))
        for part in self.parts:
            if part.not_judged:
                shown = ", ".join(map(str, part.not_judged[:_MAX_SHOWN]))
                rest = len(part.not_judged) - _MAX_SHOWN
                more = f" and {rest} more" if rest > 0 else ""
                halves = "both halves" if part.name == "both" else f"the {part.name} half"
                lines.append(f"cannot be judged by {halves}: {len(part.not_judged)} (ids {shown}{more})")
        return "\n".join(lines)


def describe_halves(annotations: Annotations, halves: Halves, *, group: IntArray | None = None) -> HalvesReport:
    """What each half holds, and what both can judge, which is what a search compares.

    Args:
        annotations: the whole validation set.
        halves: of it.
        group: (C,) of the training annotations; by default what the file states.
    """
    groups = annotations.frequency_group if group is None else group
    everything = np.arange(annotations.num_categories)

    def part(name: str, images: IntArray, categories: IntArray) -> HalfSummary:
        per_group = None
        if (groups >= 0).all():
            rare, common, frequent = np.bincount(groups[categories], minlength=3).tolist()
            per_group = rare, common, frequent
        return HalfSummary(
            name=name,
            num_images=len(images),
            num_annotations=int(np.isin(annotations.annotation_image, images).sum()),
            num_categories=len(categories),
            per_group=per_group,
            not_judged=tuple(annotations.category_ids[np.setdiff1d(everything, categories)].tolist()),
        )

    return HalvesReport(
        source=annotations.source,
        num_categories=annotations.num_categories,
        parts=(
            part("tune", halves.tune, halves.tune_categories),
            part("report", halves.report, halves.report_categories),
            part("both", np.arange(annotations.num_images), halves.both_categories),
        ),
    )


def write_halves(path: Path, annotations: Annotations, halves: Halves, folder: Path) -> tuple[Path, Path]:
    """Write `tune.json` and `report.json`: the file's own entries of each half, all of its categories.

    Raises:
        InputError: one of the files exists already.
    """
    targets = folder / "tune.json", folder / "report.json"
    for target in targets:
        if target.exists():
            raise InputError(f"{target} exists already; name another folder.")
    document: Any = parse_json(read_text(path), str(path))
    folder.mkdir(parents=True, exist_ok=True)
    for target, images in zip(targets, (halves.tune, halves.report), strict=True):
        ids = set(annotations.image_ids[images].tolist())
        half = {
            **document,
            "images": _of(document["images"], "id", ids),
            "annotations": _of(document["annotations"], "image_id", ids),
        }
        target.write_bytes(orjson.dumps(half))
    return targets


def _of(entries: Iterable[dict[str, Any]], key: str, ids: set[int]) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry[key] in ids]
