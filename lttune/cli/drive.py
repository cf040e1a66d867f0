"""Drives a search for a person: trackers, view, and what is said at its end."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from lttune.cli.options import print_json, result_document
from lttune.cli.summary import print_end
from lttune.cli.view import choose_view
from lttune.engine.cache import cache_folder
from lttune.spec.search import SearchSpec
from lttune.tracking.base import Tracker
from lttune.tracking.jsonl import JsonlTracker
from lttune.tracking.mlflow import MlflowTracker
from lttune.tracking.store import experiment_name, study_store
from lttune.tuning.search import Place, resume_search, run_search
from lttune.tuning.study import StudyFolder
from trainables import recipe_of, trainable_for

NO_CHANGES: Mapping[str, float] = MappingProxyType({})


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: workers gone, trackers told, study resumable."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def drive(
    folder: StudyFolder,
    out: Path,
    spec: SearchSpec | None,
    *,
    place: Place,
    resources: Mapping[str, float] = NO_CHANGES,
    as_json: bool,
    mlflow: str | None = None,
) -> int:
    """Run a new search, or resume one where `spec` is None.

    Args:
        resources: what a resumed search changes in its setting's.
        mlflow: the store to send it to, if one is named.

    Returns:
        The exit code: 0, or 1 where no trial is COMPLETE.
    """
    methods = (spec or folder.load_spec(needs_files=False, recipe_of=recipe_of)).methods
    cache = cache_folder(out)
    store = study_store(folder.path, out, mlflow)

    def open_trackers(path: Path) -> list[Tracker]:
        # `trials.jsonl` comes last: a resumed search takes a trial that is in it for known to all.
        return [MlflowTracker(store, experiment=experiment_name(), folder=path), JsonlTracker(path)]

    try:
        with _terminable(), choose_view() as view:
            how: Any = {
                "trainable": trainable_for(methods),
                "cache": cache,
                "open_trackers": open_trackers,
                "listener": view,
                "place": place,
            }
            end = run_search(spec, folder, **how) if spec else resume_search(folder, resources=resources, **how)
    except KeyboardInterrupt:
        click.echo(f"Interrupted. Go on with: lttune resume {folder.name}", err=True)
        raise
    if end.num_untracked:
        click.echo(
            f"MLflow still lacks {end.num_untracked} events; send them with: lttune sync {folder.name}", err=True
        )
    if as_json:
        print_json(result_document(end.result))
    else:
        print_end(end, folder)
    if end.stopped:
        click.echo(f"Ended early: {end.stopped}. Go on with: lttune resume {folder.name}", err=True)
    return 0 if end.result.best is not None else 1
