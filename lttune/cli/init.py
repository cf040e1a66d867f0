"""`lttune init`: a setting for a user's own data."""

from pathlib import Path

import click

from lttune.data.frequency import MAX_COMMON, MAX_RARE

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("train", metavar="ANN_TRAIN", type=_PATH)
@click.argument("val", metavar="ANN_VAL", type=_PATH)
@click.option("--images-train", required=True, type=_PATH, help="Folder that the training images' names start from.")
@click.option("--images-val", required=True, type=_PATH, help="The same for the validation images.")
@click.option("--to", required=True, type=_PATH, help="YAML file to write.")
@click.option("--weights", type=_PATH, help="Initial weights: of the backbone or of a detector.")
@click.option(
    "--groups",
    nargs=2,
    type=click.IntRange(min=0),
    default=(MAX_RARE, MAX_COMMON),
    show_default=True,
    metavar="RARE COMMON",
    help="Most training images of a rare and of a common category.",
)
def command(
    train: Path,
    val: Path,
    images_train: Path,
    images_val: Path,
    to: Path,
    weights: Path | None,
    groups: tuple[int, int],
) -> int:
    """Write a setting for your own LVIS- or COCO-format data, with the reason of each value."""
    from torch import cuda

    from lttune.data.lvis import load_annotations
    from lttune.engine.config import SplitPaths
    from lttune.errors import InputError
    from lttune.spec.draft import draft_setting

    if to.exists() or to.suffix not in {".yaml", ".yml"}:
        reason = "exists already" if to.exists() else "is not the name of a YAML file"
        raise InputError(f"{to} {reason}; name another one, for example my_data.yaml.")
    if weights is not None and not weights.is_file():
        raise InputError(f"--weights: there is no file {weights}; correct the path.")
    loaded = [load_annotations(path) for path in (train, val)]
    for annotations, folder, option in zip(
        loaded, (images_train, images_val), ("--images-train", "--images-val"), strict=True
    ):
        if annotations.num_images and not (folder / annotations.file_names[0]).is_file():
            raise InputError(
                f"{option}: there is no image {folder / annotations.file_names[0]}, the first of {annotations.source}; "
                "give the folder that its file names start from."
            )
    draft = draft_setting(
        loaded[0],
        loaded[1],
        (
            SplitPaths(annotations=str(train.absolute()), images=str(images_train.absolute())),
            SplitPaths(annotations=str(val.absolute()), images=str(images_val.absolute())),
        ),
        file=to,
        weights=None if weights is None else str(weights.absolute()),
        max_rare=groups[0],
        max_common=groups[1],
        has_gpu=cuda.is_available(),
    )
    to.write_text(draft.text, encoding="utf-8")
    for line in draft.warnings:
        click.echo(f"Warning: {line}", err=True)
    click.echo(f"{to}\nNext: lttune validate acsl --on {to}   |   lttune search acsl --on {to}")
    return 0
