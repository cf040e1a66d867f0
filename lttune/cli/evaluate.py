"""`lttune evaluate`: judge an exported folder, or anybody's detections."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lttune.cli.options import JSON_OPTION, OUT_OPTION, print_json

if TYPE_CHECKING:
    from lttune.evaluation import CategoryTable


@click.command(epilog="Give either DIR, or both --gt and --detections.")
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["tune", "report", "all"]), default="report", show_default=True)
@click.option("--gt", type=click.Path(path_type=Path), help="LVIS annotation file.")
@click.option(
    "--detections",
    type=click.Path(path_type=Path),
    help="Results of lvis-api, detectron2 or mmdetection: .json, .pth or .pkl.",
)
@click.option("--iou-type", type=click.Choice(["bbox", "segm"]), default="segm", show_default=True)
@click.option("--max-dets", type=click.IntRange(min=1), help="Detections per image; 300, or the export's own.")
@click.option("--per-category", is_flag=True, help="Also a line per category; with --detections.")
@click.option("--csv", type=click.Path(path_type=Path), help="Write the categories to this file; with --detections.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where relative data paths start; else LTTUNE_DATA.")
@OUT_OPTION
@JSON_OPTION
def command(
    directory: Path | None,
    split: str,
    gt: Path | None,
    detections: Path | None,
    iou_type: str,
    max_dets: int | None,
    per_category: bool,
    csv: Path | None,
    data_root: Path | None,
    out: Path,
    as_json: bool,
) -> int:
    """Judge an exported folder on a half of its validation images, or a detections file against annotations."""
    if directory is not None and (per_category or csv):
        raise click.UsageError("--per-category and --csv need --gt and --detections instead of DIR.")
    if directory is not None and gt is None and detections is None:
        from lttune.api.training import evaluate
        from lttune.cli.view import choose_view

        with choose_view() as view:
            metrics = evaluate(
                directory,
                split=split,  # type: ignore[arg-type]
                max_dets=max_dets,
                out=out,
                data_root=data_root,
                progress=view.progress,
            )
        print_metrics(metrics, as_json)
    elif directory is None and gt is not None and detections is not None:
        from lttune.data.lvis import load_annotations
        from lttune.evaluation.files import evaluate_files

        report, warnings = evaluate_files(
            load_annotations(gt),
            detections,
            iou_type=iou_type,  # type: ignore[arg-type]
            max_dets=max_dets or 300,
        )
        for line in warnings:
            click.echo(line, err=True)
        table = report.categories[iou_type]  # type: ignore[index]
        if csv is not None:
            table.write_csv(csv)
        metrics = report.to_json()["metrics"]
        print_metrics(metrics | {"per_category": list(table.rows())} if per_category and as_json else metrics, as_json)
        if per_category and not as_json:
            print_categories(table)
    else:
        raise click.UsageError("give either DIR, or both --gt and --detections.")
    return 0


def print_metrics(metrics: dict[str, Any], as_json: bool) -> None:
    """One flat object, or a line per metric."""
    if as_json:
        print_json(without_nan(metrics))
        return
    for key, value in metrics.items():
        click.echo(f"{key:<10} {'undefined' if value is None or value != value else format(value, '.2f'):>9}")


def print_categories(table: "CategoryTable") -> None:
    """A line per category, each column as wide as its widest value."""
    lines = [
        [format(value, ".2f") if isinstance(value, float) else str(value) for value in row.values()]
        for row in table.rows()
    ]
    lines.insert(0, ["id", "name", "group", "images", "annotations", *table.values])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (f"{c:<{w}}" if i in (1, 2) else f"{c:>{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        click.echo("  ".join(cells))


def without_nan(value: Any) -> Any:
    """The same with None for NaN, inside lists and objects too."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value
