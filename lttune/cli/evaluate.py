"""`lttune evaluate`: judge an exported folder, or anybody's detections."""

from pathlib import Path
from typing import Any

import click

from lttune.cli.options import JSON_OPTION, OUT_OPTION, print_json


@click.command(epilog="Give either DIR, or both --gt and --detections.")
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["tune", "report", "all"]), default="report", show_default=True)
@click.option("--gt", type=click.Path(path_type=Path), help="LVIS annotation file.")
@click.option("--detections", type=click.Path(path_type=Path), help="Detections in the result format of LVIS.")
@click.option("--iou-type", type=click.Choice(["bbox", "segm"]), default="segm", show_default=True)
@click.option("--max-dets", type=click.IntRange(min=1), help="Detections per image; 300, or the export's own.")
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
    data_root: Path | None,
    out: Path,
    as_json: bool,
) -> int:
    """Judge an exported folder on a half of its validation images, or a detections file against annotations."""
    if directory is not None and gt is None and detections is None:
        from lttune.cli.view import choose_view
        from lttune.export.folder import evaluate_folder
        from lttune.tuning.study import StudyFolder

        with choose_view() as view:
            metrics = evaluate_folder(
                directory,
                split=split,  # type: ignore[arg-type]
                cache=out.absolute() / "cache",
                progress=view.progress,
                max_dets=max_dets,
                data_root=data_root,
            )
        if split != "tune":
            StudyFolder(directory).look_at_report(by="evaluate", what=f"split {split}")
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
        print_metrics(report.to_json()["metrics"], as_json)
    else:
        raise click.UsageError("give either DIR, or both --gt and --detections.")
    return 0


def print_metrics(metrics: dict[str, Any], as_json: bool) -> None:
    """One flat object, or a line per metric."""
    if as_json:
        print_json({key: None if value is None or value != value else value for key, value in metrics.items()})
        return
    for key, value in metrics.items():
        click.echo(f"{key:<10} {'undefined' if value is None or value != value else format(value, '.2f'):>9}")
