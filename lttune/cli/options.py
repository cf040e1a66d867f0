"""Options that several commands share."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lttune.types import StudyResult

if TYPE_CHECKING:
    from lttune.spec.search import SearchSpec


def _folder(_: Any, __: Any, path: Path) -> Path:
    if ":/" in str(path):
        raise click.BadParameter(
            f"{path} is an object store, and a study needs a folder that can be appended to; mount it, or copy from a "
            "folder."
        )
    return path


OUT_OPTION = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    callback=_folder,
    envvar="LTTUNE_OUT",
    default="lttune_runs",
    show_default="lttune_runs, or LTTUNE_OUT",
    help="Folder of all studies, of the MLflow store and of the shared cache.",
)
MLFLOW_OPTION = click.option(
    "--mlflow",
    metavar="URI",
    help="MLflow store: a server, database or SQLite file; else MLFLOW_TRACKING_URI, that of last time, or OUT's.",
)


def _duration(_: Any, __: Any, text: str | None) -> float | None:
    if text is None:
        return None
    from lttune.errors import InputError
    from lttune.tuning.budget import parse_duration

    try:
        return parse_duration(text)
    except InputError as error:
        raise click.BadParameter(str(error)) from error


PLACE_OPTIONS: list[Callable[[Any], Any]] = [
    click.option(
        "--address", metavar="ADDR", help="A Ray cluster that exists: auto, on one of its nodes, or HOST:PORT."
    ),
    click.option("--max-gpus", type=click.FloatRange(min=0, min_open=True), help="GPUs of all trials together."),
    click.option("--max-concurrent", type=click.IntRange(min=1), help="Trials at a time."),
    click.option(
        "--time", "seconds", metavar="2h30m", callback=_duration, help="End after so long; `lttune resume` goes on."
    ),
    click.option(
        "--gpu-hours", type=click.FloatRange(min=0, min_open=True), help="End when so many are spent, stage 1 included."
    ),
]


def place_options(command: Any) -> Any:
    """Where a search runs and what it may take."""
    for option in reversed(PLACE_OPTIONS):
        command = option(command)
    return command


JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")


def assignments(_: Any, __: Any, values: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE pairs of a repeated option."""
    pairs: dict[str, str] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"'{text}' is not KEY=VALUE, for example loss.score_threshold=0.5.")
        pairs[key] = value
    return pairs


SPEC_OPTIONS: list[Callable[[Any], Any]] = [
    click.option("--on", metavar="SETTING", help="Where to run: the name or path of a setting."),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", callback=assignments, help="Fix a value."),
    click.option(
        "--data-root", type=click.Path(path_type=Path), help="Where relative data paths start; else LTTUNE_DATA."
    ),
]


def spec_options(command: Any) -> Any:
    """What changes a search space on the command line."""
    for option in reversed(SPEC_OPTIONS):
        command = option(command)
    return command


def load_runnable(
    source: str, *, on: str | None, overrides: Mapping[str, str], data_root: Path | None, needs_files: bool = True
) -> "SearchSpec":
    """A search space whose method this installation can train; arguments as of `load_spec`.

    Raises:
        SpecError: see `load_spec`; or the method's recipe and the setting do not go together.
    """
    from lttune.errors import SpecError, did_you_mean
    from lttune.spec.load import load_spec
    from trainables import TRAINABLES, recipe_of

    spec = load_spec(
        source, on=on, overrides=overrides, data_root=data_root, needs_files=needs_files, recipe_of=recipe_of
    )
    for method in spec.methods:
        if method not in TRAINABLES:
            hint = did_you_mean(method, sorted(TRAINABLES))
            raise SpecError(f"{source}: method: '{method}' is a loss without a trainable.{hint}")
    return spec


def result_document(result: StudyResult) -> dict[str, Any]:
    """A study as `--json` prints it; undefined numbers become null."""
    return {
        "study": result.study,
        "best": result.best,
        "objective": dict(result.objective),
        "trials": [
            {
                "number": trial.number,
                "state": trial.state,
                "params": dict(trial.params),
                "metrics": {key: None if value != value else value for key, value in trial.metrics.items()},
                "seconds": trial.seconds,
                "fidelity": trial.fidelity,
                **({"reason": trial.reason} if trial.reason else {}),
            }
            for trial in result.trials
        ],
    }


def print_json(document: Any) -> None:
    """One JSON document on standard output, and nothing else."""
    sys.stdout.write(json.dumps(document) + "\n")
