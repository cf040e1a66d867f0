"""`lttune data`: make data, and look into it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lttune.cli.options import JSON_OPTION, OUT_OPTION, print_json
from lttune.data.frequency import MAX_COMMON, MAX_RARE

if TYPE_CHECKING:
    from lttune.types import Annotations

_PATH = click.Path(path_type=Path)
_ANNOTATIONS = click.argument("annotations", metavar="ANN", type=_PATH)
_GROUPS = click.option(
    "--groups",
    nargs=2,
    type=click.IntRange(min=0),
    default=(MAX_RARE, MAX_COMMON),
    show_default=True,
    metavar="RARE COMMON",
    help="Most training images of a rare and of a common category.",
)


@click.group(name="data")
def command() -> None:
    """Make and inspect data."""


@command.command()
@click.argument("out", type=_PATH)
@click.option("--categories", default=60, show_default=True, type=int)
@click.option("--images", default=1500, show_default=True, type=int, help="Training images.")
@click.option("--val-images", type=int, help="Validation images; by default 4 for 15 training images.")
@click.option("--size", default=160, show_default=True, type=int, help="Side of an image, px.")
@click.option("--seed", default=0, show_default=True, type=int)
@click.option("--val", type=click.Choice(["balanced", "longtail"]), default="balanced", show_default=True)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes.")
def synth(
    out: Path, categories: int, images: int, val_images: int | None, size: int, seed: int, val: str, workers: int
) -> int:
    """Write a long-tailed glyph dataset in LVIS format to OUT; the same seed gives the same bytes."""
    from lttune.cli.view import choose_view
    from lttune.data.glyphs import GlyphConfig, make_glyphs
    from lttune.errors import InputError

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not an empty folder; name another one.")
    config = GlyphConfig(
        num_categories=categories,
        num_train_images=images,
        num_val_images=val_images if val_images is not None else max(1, images * 4 // 15),
        size_px=size,
        seed=seed,
        val=val,  # type: ignore[arg-type]
    )
    with choose_view() as view:
        files = make_glyphs(
            config, out, num_workers=workers, progress=lambda done, total: view.progress("data", done, total)
        )
    click.echo(f"{files.train_annotations}\n{files.val_annotations}")
    return 0


@command.command()
@_ANNOTATIONS
@click.option("--images", type=_PATH, help="Folder of its images; each is read.")
@click.option("--val", type=_PATH, help="Validation annotations, where ANN is the training set.")
@JSON_OPTION
def validate(annotations: Path, images: Path | None, val: Path | None, as_json: bool) -> int:
    """Name every defect of ANN; exit code 1 where something would break training."""
    from dataclasses import asdict

    from lttune.cli.view import choose_view
    from lttune.data.validate import validate_annotations

    with choose_view() as view:
        report = validate_annotations(annotations, images=images, val=val, progress=view.progress)
    if as_json:
        print_json({**asdict(report), "breaks_training": report.breaks_training})
    else:
        click.echo(str(report))
    return 1 if report.breaks_training else 0


@command.command()
@_ANNOTATIONS
@_GROUPS
@click.option("--rfs-threshold", default=1e-3, show_default=True, type=click.FloatRange(0, 1, min_open=True))
@click.option("--plot", type=_PATH, metavar="PNG", help="Write the plot of rank and frequency to this file.")
@OUT_OPTION
@JSON_OPTION
def describe(
    annotations: Path, groups: tuple[int, int], rfs_threshold: float, plot: Path | None, out: Path, as_json: bool
) -> int:
    """Count images, instances, groups and the categories of the tail."""
    from lttune.data.describe import describe as describe_annotations
    from lttune.data.describe import save_plot

    found = describe_annotations(
        _load(annotations, out), max_rare=groups[0], max_common=groups[1], repeat_threshold=rfs_threshold
    )
    if plot is not None:
        save_plot(found, plot)
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(str(found))
    return 0


@command.command()
@_ANNOTATIONS
@click.option("--train", type=_PATH, help="Training annotations, which decide the groups; else those ANN states.")
@_GROUPS
@click.option("--to", type=_PATH, help="Write the halves to tune.json and report.json in this folder.")
@OUT_OPTION
@JSON_OPTION
def split(
    annotations: Path, train: Path | None, groups: tuple[int, int], to: Path | None, out: Path, as_json: bool
) -> int:
    """Show the halves of ANN as a search uses them, and the categories that each can judge."""
    from lttune.data.frequency import groups_of
    from lttune.data.halves import describe_halves, write_halves
    from lttune.data.split import split_halves

    whole = _load(annotations, out)
    halves = split_halves(whole)
    group = None if train is None else groups_of(whole, _load(train, out), max_rare=groups[0], max_common=groups[1])
    report = describe_halves(whole, halves, group=group)
    if to is not None:
        write_halves(annotations, whole, halves, to)
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(str(report))
    return 0


def _load(path: Path, out: Path) -> "Annotations":
    """Annotations, from the shared cache where a search has made one: to look at a file leaves nothing behind."""
    from lttune.data.annotation_cache import cached_annotations
    from lttune.data.lvis import load_annotations
    from lttune.engine.cache import cache_folder

    cache = cache_folder(out)
    return cached_annotations(path, cache) if cache.is_dir() else load_annotations(path)
