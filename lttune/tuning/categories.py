"""AP of each category at a trial's last evaluation: a file in the study's folder that the worker writes.

OUT/STUDY/categories/NNNN.csv: written before the checkpoint of the same slice, so a trial that ended has it, whatever
was killed.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from lttune.engine.assets import Assets
from lttune.engine.checkpoint import replacing
from lttune.evaluation.report import IouType
from lttune.tracking.names import cut_lines
from lttune.types import GROUP_LETTERS

MAX_BYTES = 256 * 1024
_IOU_TYPES: tuple[IouType, ...] = ("segm", "bbox")


def categories_file(checkpoint: Path) -> Path:
    """Where the categories of the trial with this checkpoint are."""
    return checkpoint.parent.parent / "categories" / f"{checkpoint.stem}.csv"


def read_categories(checkpoint: Path) -> str | None:
    """The table of a trial; None where it was never evaluated."""
    try:
        return categories_file(checkpoint).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def write_categories(checkpoint: Path, assets: Assets, per_category: Mapping[IouType, Mapping[int, float]]) -> None:
    """Write the table of a trial.

    Args:
        per_category: AP in points by IoU type and category id; NaN where no annotation counts.
    """
    path = categories_file(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(categories_csv(assets, per_category), encoding="utf-8")


def categories_csv(assets: Assets, per_category: Mapping[IouType, Mapping[int, float]]) -> str:
    """A row per category in ascending order of ids, at most `MAX_BYTES`; an undefined AP is empty."""
    train, frequencies = assets.train, assets.frequencies
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "name", "group", "training_images", *(f"{kind}_AP" for kind in _IOU_TYPES)])
    groups, counts = frequencies.group.tolist(), frequencies.image_count.tolist()
    columns = zip(train.category_ids.tolist(), train.category_names, groups, counts, strict=True)
    for category_id, name, group, num_images in columns:
        found = (per_category.get(kind, {}).get(category_id) for kind in _IOU_TYPES)
        shown = ("" if value is None or value != value else round(value, 3) for value in found)
        writer.writerow([category_id, name, GROUP_LETTERS[group], num_images, *shown])
    return cut_lines(text.getvalue(), MAX_BYTES)
