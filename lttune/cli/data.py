"""`lttune data`: make data."""

from pathlib import Path

import click


@click.group(name="data")
def command() -> None:
    """Make and inspect data."""


@command.command()
@click.argument("out", type=click.Path(path_type=Path))
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
