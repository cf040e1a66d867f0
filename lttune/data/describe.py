"""How long the tail of an annotation file is: groups, rank and frequency, and what each way to count makes of them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lttune.data.frequency import MAX_COMMON, MAX_RARE, category_frequencies, frequency_groups, positive_pairs
from lttune.data.sampling import repeat_factors
from lttune.types import Annotations, IntArray

_GROUP_NAMES = ("rare", "common", "frequent")
_GROUP_COLOURS = ("#c44e52", "#dd8452", "#4c72b0")
_MAX_NAMES = 12
_PLOT_WIDTH, _PLOT_HEIGHT = 64, 12
_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """One frequency group.

    Attributes:
        num_images: that hold any of its categories.
        from_images: fewest and most images of a category that may belong to it; the last has no end.
    """

    name: str
    num_categories: int
    num_images: int
    num_instances: int
    from_images: tuple[int, int | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Description:
    """What `lttune data describe` tells of a file.

    Attributes:
        groups: by images, rare first.
        num_stated_otherwise: categories whose `frequency` in the file is another group; None where it states none.
        image_count: (C,) in order of category ids.
        one_image: names of the categories that a single image holds.
        absent: names of those that none holds.
        bases: categories per group, rare first, by each way to count: images, instances, and images as an epoch of
            repeat-factor sampling shows them, on average.
        epoch_images: images of such an epoch.
    """

    source: str
    is_exhaustive: bool
    num_images: int
    num_empty_images: int
    num_instances: int
    num_ignored: int
    num_categories: int
    groups: tuple[GroupSummary, ...]
    num_stated_otherwise: int | None
    image_count: IntArray
    one_image: tuple[str, ...]
    absent: tuple[str, ...]
    bases: dict[str, tuple[int, int, int]]
    repeat_threshold: float
    epoch_images: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "image_count": self.image_count.tolist()}

    def __str__(self) -> str:
        form = "COCO" if self.is_exhaustive else "LVIS"
        lines = [
            f"{self.source}: {form} format, {self.num_images} images ({self.num_empty_images} without annotations), "
            f"{self.num_instances} instances ({self.num_ignored} ignored), {self.num_categories} categories",
            "",
            f"{'group':<10}{'images each':>14}{'categories':>12}{'images':>10}{'instances':>12}",
        ]
        for group in self.groups:
            low, high = group.from_images
            each = f"{low} to {high}" if high is not None else f"{low} and more"
            lines.append(
                f"{group.name:<10}{each:>14}{group.num_categories:>12}{group.num_images:>10}{group.num_instances:>12}"
            )
        if self.num_stated_otherwise:
            lines.append(
                f"{self.num_stated_otherwise} categories state another group than these annotations give: as in a part "
                "of a data set, since groups are counted on its full training set."
            )
        lines += [
            "",
            *terminal_plot(self.image_count),
            "",
            f"{'groups by':<22}{'rare':>8}{'common':>8}{'frequent':>10}",
        ]
        lines += [f"{basis:<22}{r:>8}{c:>8}{f:>10}" for basis, (r, c, f) in self.bases.items()]
        lines += [
            f"RFS repeats images of categories in fewer than {self.repeat_threshold:g} of them: "
            f"{self.epoch_images:.0f} images per epoch instead of {self.num_images}.",
            "",
            f"categories of one image: {_some(self.one_image)}",
            f"categories of no image: {_some(self.absent)}",
        ]
        return "\n".join(lines)


def describe(
    annotations: Annotations,
    *,
    max_rare: int = MAX_RARE,
    max_common: int = MAX_COMMON,
    repeat_threshold: float = 1e-3,
) -> Description:
    """Count everything; groups are those that these annotations themselves give.

    Args:
        annotations: usually the full training set.
        max_rare: most images of a rare category.
        max_common: most images of a common one.
        repeat_threshold: share of images below which repeat-factor sampling repeats a category.

    Raises:
        InputError: the limits are not ascending from 0.
    """
    frequencies = category_frequencies(annotations, max_rare=max_rare, max_common=max_common)
    images, instances, group = (
        column.numpy() for column in (frequencies.image_count, frequencies.instance_count, frequencies.group)
    )
    pairs = positive_pairs(annotations)
    factors = repeat_factors(annotations, threshold=repeat_threshold)
    shown = np.bincount(pairs[:, 1], weights=factors[pairs[:, 0]], minlength=annotations.num_categories)
    is_stated = annotations.frequency_group >= 0
    limits = ((0, max_rare), (max_rare + 1, max_common), (max_common + 1, None))

    def groups_by(counts: npt.NDArray[np.number]) -> tuple[int, int, int]:
        found = frequency_groups(counts, max_rare=max_rare, max_common=max_common)
        rare, common, frequent = np.bincount(found, minlength=3).tolist()
        return rare, common, frequent

    def names(chosen: npt.NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(annotations.category_names[i] for i in np.flatnonzero(chosen))

    return Description(
        source=annotations.source,
        is_exhaustive=annotations.is_exhaustive,
        num_images=annotations.num_images,
        num_empty_images=annotations.num_images - len(np.unique(pairs[:, 0])),
        num_instances=len(annotations.annotation_ids),
        num_ignored=int(annotations.is_ignored.sum()),
        num_categories=annotations.num_categories,
        groups=tuple(
            GroupSummary(
                name=name,
                num_categories=int((group == g).sum()),
                num_images=len(np.unique(pairs[group[pairs[:, 1]] == g, 0])),
                num_instances=int(instances[group == g].sum()),
                from_images=limits[g],
            )
            for g, name in enumerate(_GROUP_NAMES)
        ),
        num_stated_otherwise=(
            int((is_stated & (annotations.frequency_group != group)).sum()) if is_stated.any() else None
        ),
        image_count=images,
        one_image=names(images == 1),
        absent=names(images == 0),
        bases={"images": groups_by(images), "instances": groups_by(instances), "images after RFS": groups_by(shown)},
        repeat_threshold=repeat_threshold,
        epoch_images=float(factors.sum()),
    )


def terminal_plot(image_count: IntArray, *, width: int = _PLOT_WIDTH, height: int = _PLOT_HEIGHT) -> list[str]:
    """Lines of text: images of the categories, most frequent on the left, on a logarithmic scale."""
    counts = np.sort(image_count)[::-1]
    if not len(counts) or counts[0] == 0:
        return ["no category has an image"]
    width = min(width, len(counts))
    # The mean of what shares a column, of logarithms from 0.
    levels = np.array([np.log10(part + 1).mean() for part in np.array_split(counts, width)])
    decades = max(1, math.ceil(math.log10(counts[0] + 1)))
    filled = levels / decades * height
    lines = []
    for row in range(height, 0, -1):
        blocks = (np.clip(filled - (row - 1), 0, 1) * (len(_BLOCKS) - 1)).round().astype(int)
        tick = 10 ** (decades * row / height)
        is_marked = row == height or math.floor(decades * row / height) > math.floor(decades * (row - 1) / height)
        mark = f"{10 ** math.floor(math.log10(tick) + 1e-9)}" if is_marked else ""
        lines.append(f"{mark:>8} │{''.join(_BLOCKS[b] for b in blocks)}")
    lines.append(f"{'images':>8} └{'─' * width}")
    lines.append(f"{'':9} {'1':<{max(1, width - len(str(len(counts))))}}{len(counts)}  rank")
    return lines


def save_plot(description: Description, path: Path) -> None:
    """A PNG: images of each category by its rank, both scales logarithmic, in the colours of the groups."""
    # Not pyplot, which would look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.sort(description.image_count)[::-1]
    rank = np.arange(1, len(counts) + 1)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for group, colour in zip(description.groups, _GROUP_COLOURS, strict=True):
        low, high = group.from_images
        # A category without images has no place on a logarithmic scale.
        chosen = (counts >= max(1, low)) & (counts <= (high if high is not None else counts.max(initial=0)))
        axes.scatter(rank[chosen], counts[chosen], s=6, color=colour, label=f"{group.name}, {group.num_categories}")
        if high is not None:
            axes.axhline(high + 0.5, color="0.7", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="rank of the category", ylabel="images", title=description.source)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120, format="png")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"{len(names)}" + (f" ({', '.join(names[:_MAX_NAMES])}{more})" if names else "")
