"""Searches from Python."""

from pathlib import Path
from typing import TYPE_CHECKING

from lttune.api.shared import OUT, tracker_opener, trainable_or_own
from lttune.api.studies import open_study
from lttune.engine.cache import cache_folder
from lttune.spec.search import SearchSpec
from lttune.tuning import search
from lttune.tuning.budget import Budget
from lttune.tuning.study import find_study

if TYPE_CHECKING:
    from lttune.tuning.listener import Listener
    from lttune.tuning.search import SearchEnd
    from lttune.tuning.trainable import MethodTrainable


def run_search(
    spec: SearchSpec,
    study: str,
    *,
    out: str | Path = OUT,
    trainable: "type[MethodTrainable] | None" = None,
    mlflow: bool = False,
    resume: bool = False,
    listener: "Listener | None" = None,
    address: str | None = None,
    time_s: float | None = None,
    gpu_hours: float | None = None,
) -> "SearchEnd":
    """Run a new search to its end, on a Ray of its own that is gone afterwards, or on a cluster that exists.

    Args:
        spec: of `load_spec`.
        study: name of the study, a folder of `out`; or a path.
        trainable: of a method of one's own, the same as `load_spec` had.
        mlflow: also send everything to MLflow: to the store that MLFLOW_TRACKING_URI names, else that of `out`;
            `trials.jsonl` is written in any case.
        resume: go on with the study where it exists; its own spec is taken then.
        listener: told of progress.
        address: of a Ray cluster, `auto` or HOST:PORT.
        time_s, gpu_hours: budget of this call; a search that it ends is gone on with by `resume`.

    Raises:
        StudyError: the study exists, or another process drives it.
    """
    out = Path(out).absolute()
    if resume and find_study(study, out).exists:
        return resume_search(
            study,
            out=out,
            trainable=trainable,
            mlflow=mlflow,
            listener=listener,
            address=address,
            time_s=time_s,
            gpu_hours=gpu_hours,
        )
    return search.run_search(
        spec,
        find_study(study, out),
        trainable=trainable_or_own(trainable, spec.methods),
        cache=cache_folder(out),
        open_trackers=tracker_opener(out, mlflow=mlflow),
        listener=listener,
        place=_place(address, time_s, gpu_hours),
    )


def resume_search(
    study: str,
    *,
    out: str | Path = OUT,
    trainable: "type[MethodTrainable] | None" = None,
    mlflow: bool = False,
    listener: "Listener | None" = None,
    address: str | None = None,
    time_s: float | None = None,
    gpu_hours: float | None = None,
) -> "SearchEnd":
    """Go on with a search that was broken off; arguments as of `run_search`.

    Raises:
        StudyError: there is no such study, or another process drives it.
    """
    opened = open_study(study, out=out, trainable=trainable)
    out = Path(out).absolute()
    return search.resume_search(
        opened.folder,
        trainable=trainable_or_own(trainable, opened.spec.methods),
        cache=cache_folder(out),
        open_trackers=tracker_opener(out, mlflow=mlflow),
        listener=listener,
        place=_place(address, time_s, gpu_hours),
    )


def _place(address: str | None, time_s: float | None, gpu_hours: float | None) -> search.Place:
    return search.Place(address=address, budget=Budget(seconds=time_s, gpu_hours=gpu_hours))
