"""MLflow runs of a search: one parent per study, one child per trial, found again by their tags.

The caller's thread only writes events to the spool. One background thread owns the MLflow client and sends them; while
MLflow is away the events stay in the spool. Sending an event again changes nothing, so a search that crashed may send
its last events twice.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import yaml
from filelock import FileLock

from lttune.errors import StudyError
from lttune.tracking.base import NOTHING, StudyEnd, Tracker, TrialEnd, finite
from lttune.tracking.names import cut_lines, flat_params, key, tags_by_key
from lttune.tracking.spool import Spool
from lttune.tracking.store import (
    ENVIRONMENT,
    artifact_folder,
    check_database,
    database_file,
    redact,
    remember_store,
    store_uri,
)

STUDY_TAG, TRIAL_TAG, PARENT_TAG = "lttune.study", "lttune.trial", "mlflow.parentRunId"
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "STOPPED": "KILLED", "FAIL": "FAILED"}

# Limits of one request.
MAX_PARAMS_PER_BATCH, MAX_TAGS_PER_BATCH, MAX_METRICS_PER_BATCH, MAX_RUNS_PER_PAGE = 100, 100, 1000, 1000

# Of one artifact: a larger text is cut.
MAX_ARTIFACT_BYTES = 1024 * 1024

# Pauses between attempts while MLflow is away.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0

log = logging.getLogger(__name__)
T = TypeVar("T")


class MlflowTracker(Tracker):
    """Sends a search to MLflow from a background thread.

    Sampled values become params, tags get the prefix `lttune.`, a trial's config becomes its artifact `config.yaml`.
    A pruned trial is KILLED, a failed one FAILED; its own word for that is its tag `state`.

    Args:
        uri: MLflow's store: a path of a SQLite database, or a URI. Its credentials are never logged.
        experiment: the name of the MLflow experiment; made where it does not exist.
        folder: the study's folder, for the spool.

    Raises:
        InputError: the URI is not one of a store.
        StudyError: another process sends this study's events.
    """

    def __init__(self, uri: str, experiment: str, folder: Path) -> None:
        self._sender = _Sender(store_uri(uri), Spool(folder))
        self._spool = self._sender.spool
        remember_store(folder, self._sender.uri)
        self._folder, self._experiment, self._study = folder, experiment, folder.name
        self._param_names = NOTHING
        self._num_lost = 0
        self._wake, self._is_closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="lttune-mlflow", daemon=True)
        self._thread.start()

    def start_study(
        self,
        name: str,
        *,
        tags: Mapping[str, str],
        artifacts: Mapping[str, str] = NOTHING,
        param_names: Mapping[str, str] = NOTHING,
    ) -> None:
        self._study, self._param_names = name, param_names
        self._record("start", None, tags=dict(tags))
        self._record_artifacts(None, artifacts)

    def start_trial(
        self, number: int, *, params: Mapping[str, object], config: Mapping[str, object], tags: Mapping[str, str]
    ) -> None:
        named = {self._param_names.get(name, name): value for name, value in params.items()}
        self._record("start", number, tags=dict(tags), params=named)
        self._record("artifact", number, file_name="config.yaml", content=dict(config))

    def report(self, number: int, *, step: int, metrics: Mapping[str, float]) -> None:
        self._record("report", number, step=step, metrics=finite(metrics))

    def end_trial(
        self,
        number: int,
        *,
        state: TrialEnd,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        artifacts: Mapping[str, str] = NOTHING,
    ) -> None:
        self._record_artifacts(number, artifacts)
        self._record("end", number, state=state, metrics=finite(metrics), tags={**tags, "state": state})

    def end_study(
        self,
        *,
        state: StudyEnd,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        artifacts: Mapping[str, str] = NOTHING,
    ) -> None:
        self._record_artifacts(None, artifacts)
        self._record("end", None, state=state, metrics=finite(metrics), tags=dict(tags))

    def close(self, timeout_s: float) -> int:
        self._is_closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        num_left = self._spool.num_pending()
        if num_left:
            log.warning(
                "Study %s: %d events have not reached MLflow. They are kept; send them with `lttune sync %s`.",
                self._study,
                num_left,
                self._folder,
            )
        return num_left + self._num_lost

    def _record_artifacts(self, trial: int | None, artifacts: Mapping[str, str]) -> None:
        for file_name, text in artifacts.items():
            self._record("artifact", trial, file_name=file_name, content=cut_lines(text, MAX_ARTIFACT_BYTES))

    def _record(self, kind: str, trial: int | None, **content: object) -> None:
        """Keep one event on disk and tell the thread."""
        event = {
            "experiment": self._experiment,
            "study": self._study,
            "trial": trial,
            "kind": kind,
            "time_ms": int(time.time() * 1000),
            **content,
        }
        try:
            self._spool.append(event)
        except (OSError, TypeError) as error:
            self._num_lost += 1
            log.warning("Study %s, trial %s: '%s' is lost for MLflow: %s", self._study, trial, kind, error)
        self._wake.set()

    def _run(self) -> None:
        try:
            self._send_until_closed()
        finally:
            self._spool.release()

    def _send_until_closed(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            # Both before sending: what is recorded from here on wakes the next round, which a close makes the last.
            self._wake.clear()
            is_last = self._is_closing.is_set()
            try:
                self._sender.send()
                if is_last:
                    self._spool.compact()
            except Exception as error:  # MLflow lets errors of HTTP, SQL and file libraries through
                if pause_s == FIRST_PAUSE_S:
                    log.warning(
                        "Study %s: MLflow at %s does not take events (%s). The search goes on and keeps them in %s.",
                        self._study,
                        redact(self._sender.uri),
                        _first_line(error),
                        self._spool.file,
                    )
                if is_last:
                    return
                self._is_closing.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            if pause_s > FIRST_PAUSE_S:
                log.info("Study %s: MLflow is back and has every event.", self._study)
                pause_s = FIRST_PAUSE_S
            if is_last:
                return
            self._wake.wait()


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    """What a `sync` did, in events."""

    sent: int
    remaining: int
    refused: int = 0  # MLflow called them invalid; they are named in the log and not kept
    reason: str | None = None  # why some remain


def sync(folder: Path, uri: str) -> SyncResult:
    """Send what a study's spool still holds, and wait for it.

    Raises:
        InputError: the URI is not one of a store.
        StudyError: there is no such folder, or another process sends this study's events.
    """
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder. Give the folder of a study.")
    sender = _Sender(store_uri(uri), Spool(folder))
    reason = None
    try:
        sender.send()
        sender.spool.compact()
    except Exception as error:  # as in the thread of MlflowTracker
        reason = f"MLflow at {redact(sender.uri)}: {_first_line(error)}"
    finally:
        sender.spool.release()
    return SyncResult(
        sent=sender.num_sent, remaining=sender.spool.num_pending(), refused=sender.num_refused, reason=reason
    )


class _Sender:
    """Moves events from a spool to MLflow, in order."""

    def __init__(self, uri: str, spool: Spool) -> None:
        self.uri, self.spool = uri, spool
        self.num_sent = self.num_refused = 0
        self._runs: _StudyRuns | None = None

    def send(self) -> None:
        """Send all that is pending; whatever MLflow raises ends it, with the rest still pending."""
        for event, offset in self.spool.pending():
            if self._put(event):
                self.num_sent += 1
            else:
                self.num_refused += 1
            self.spool.mark_sent(offset)

    def _put(self, event: Mapping[str, Any]) -> bool:
        """Whether MLflow took the event; False where it never will.

        An event that fails is tried again on fresh runs, which tells the two apart: where the runs cannot even be
        found, MLflow is away. A copy of an artifact is not worth holding up the rest: the study's folder has it too.
        """
        runs = self._find_runs(event["experiment"], event["study"])
        try:
            runs.put(event)
            return True
        except Exception:  # as in the thread of MlflowTracker
            self._runs = None
        runs = self._find_runs(event["experiment"], event["study"])
        try:
            runs.put(event)
            return True
        except Exception as error:
            self._runs = None
            if event["kind"] != "artifact" and not _is_refusal(error):
                raise
            what = (event["study"], event["trial"], event["kind"], _first_line(error))
            log.warning("Study %s, trial %s: MLflow refuses '%s': %s", *what)
            return False

    def _find_runs(self, experiment: str, study: str) -> "_StudyRuns":
        if self._runs is None or (self._runs.experiment, self._runs.study) != (experiment, study):
            # The spool lies in the study's folder.
            artifacts = artifact_folder(self.uri, out=self.spool.file.parent.parent)
            self._runs = _StudyRuns(_connect(self.uri), artifacts, experiment, study)
        return self._runs


@dataclass(kw_only=True)
class _Run:
    """What MLflow holds of one run already."""

    run_id: str
    status: str = "RUNNING"
    params: set[str] = field(default_factory=set)
    unread_metrics: set[str] = field(default_factory=set)  # there are steps in the store that `last_step` lacks
    last_step: dict[str, int] = field(default_factory=dict)


class _StudyRuns:
    """The runs of one study, and the one place that writes to them.

    Creating it asks MLflow for the runs that exist, so that none is made twice. `client` is an MlflowClient;
    `artifacts` is where those of a new experiment go, None where the server decides.
    """

    def __init__(self, client: Any, artifacts: Path | None, experiment: str, study: str) -> None:
        self.experiment, self.study = experiment, study
        self._client = client
        self._experiment_id = self._find_experiment(artifacts)
        self._runs = self._find_runs()

    def put(self, event: Mapping[str, Any]) -> None:
        """Write one event; a second time changes nothing."""
        trial, time_ms = event["trial"], event["time_ms"]
        run = self._run(trial, time_ms)
        match event["kind"]:
            case "start":
                self._log_params(run, event.get("params", {}))
                self._log_tags(run, event["tags"])
                if run.status != "RUNNING":
                    self._client.update_run(run.run_id, status="RUNNING")
                    run.status = "RUNNING"
            case "artifact":
                content = event["content"]
                text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
                self._client.log_text(run.run_id, text, event["file_name"])
            case "report":
                self._log_metrics(run, event["metrics"], step=event["step"], time_ms=time_ms)
            case "end":
                self._log_last_metrics(run, event["metrics"], is_study=trial is None, time_ms=time_ms)
                self._log_tags(run, event["tags"])
                run.status = STATUS[event["state"]]
                self._client.set_terminated(run.run_id, status=run.status, end_time=time_ms)

    def _find_experiment(self, artifacts: Path | None) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            location = None if artifacts is None else artifacts.absolute().as_uri()
            # Without its kind MLflow's pages open an experiment as if it were one of language models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return str(self._client.create_experiment(self.experiment, artifact_location=location, tags=kind))
        if found.lifecycle_stage != "active":
            raise StudyError(
                f"MLflow experiment '{self.experiment}' is deleted. Restore it with `mlflow experiments restore "
                f"--experiment-id {found.experiment_id}`, or use another name."
            )
        return str(found.experiment_id)

    def _find_runs(self) -> dict[int | None, _Run]:
        runs: dict[int | None, _Run] = {}
        quote = '"' if "'" in self.study else "'"
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                filter_string=f"tags.`{STUDY_TAG}` = {quote}{self.study}{quote}",
                max_results=MAX_RUNS_PER_PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            for run in page:
                number = run.data.tags.get(TRIAL_TAG)
                known = _Run(
                    run_id=run.info.run_id,
                    status=run.info.status,
                    params=set(run.data.params),
                    unread_metrics=set(run.data.metrics),
                )
                runs.setdefault(None if number is None else int(number), known)
            token = page.token
            if not token:
                return runs

    def _run(self, trial: int | None, time_ms: int) -> _Run:
        """The run of a trial, or of the study where `trial` is None; made where it does not exist."""
        if trial not in self._runs:
            tags, name = {STUDY_TAG: self.study}, self.study
            if trial is not None:
                tags |= {TRIAL_TAG: str(trial), PARENT_TAG: self._run(None, time_ms).run_id}
                name = f"trial {trial}"
            created = self._client.create_run(self._experiment_id, start_time=time_ms, tags=tags, run_name=name)
            self._runs[trial] = _Run(run_id=created.info.run_id)
        return self._runs[trial]

    def _log_params(self, run: _Run, params: Mapping[str, object]) -> None:
        """Log the params that the run lacks: MLflow refuses a second value."""
        from mlflow.entities import Param

        fresh = {name: value for name, value in flat_params(params) if name not in run.params}
        for batch in _batches(list(fresh.items()), MAX_PARAMS_PER_BATCH):
            self._client.log_batch(run.run_id, params=[Param(name, value) for name, value in batch])
        run.params.update(fresh)

    def _log_tags(self, run: _Run, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        identity = (STUDY_TAG, TRIAL_TAG, PARENT_TAG)  # by these the run is found again
        entities = [RunTag(name, value) for name, value in tags_by_key(tags).items() if name not in identity]
        for batch in _batches(entities, MAX_TAGS_PER_BATCH):
            self._client.log_batch(run.run_id, tags=batch)

    def _log_metrics(self, run: _Run, metrics: Mapping[str, float], *, step: int, time_ms: int) -> None:
        """Log the metrics that the run does not have at this step or a later one."""
        from mlflow.entities import Metric

        keyed = {key(name): value for name, value in metrics.items()}
        fresh = {name: value for name, value in keyed.items() if self._last_step(run, name) < step}
        entities = [Metric(name, value, time_ms, step) for name, value in fresh.items()]
        for batch in _batches(entities, MAX_METRICS_PER_BATCH):
            self._client.log_batch(run.run_id, metrics=batch)
        run.last_step.update(dict.fromkeys(fresh, step))

    def _log_last_metrics(self, run: _Run, metrics: Mapping[str, float], *, is_study: bool, time_ms: int) -> None:
        """Log the metrics of an end: a trial's at its last step, where it lacks them; a study's at step 0.

        A study may end again after it was resumed. Then the later time makes the new values the current ones, while
        the same event sent twice is one row to MLflow.
        """
        if is_study:
            run.unread_metrics.clear()
            run.last_step.clear()
            self._log_metrics(run, metrics, step=0, time_ms=time_ms)
            return
        last = max((self._last_step(run, name) for name in [*run.last_step, *run.unread_metrics]), default=0)
        self._log_metrics(run, metrics, step=last, time_ms=time_ms)

    def _last_step(self, run: _Run, metric: str) -> int:
        """The last step of a metric in the store, -1 where it has none."""
        if metric in run.unread_metrics:
            history = self._client.get_metric_history(run.run_id, metric)
            run.last_step[metric] = max((point.step for point in history), default=-1)
            run.unread_metrics.discard(metric)
        return run.last_step.get(metric, -1)


def _connect(uri: str) -> Any:
    """An MlflowClient; the first call imports MLflow, which takes seconds, and makes it quiet."""
    check_database(uri)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if (file := database_file(uri)) is not None:
        _make_database(file)
    return MlflowClient(uri)


def _make_database(file: Path) -> None:
    """Make MLflow's tables, all or none: it goes on with a half-made database as little as with a foreign one."""
    from mlflow import MlflowClient

    with FileLock(file.with_name(f"{file.name}.lock")):
        if file.exists() and file.stat().st_size:
            return
        with TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.", ignore_cleanup_errors=True) as folder:
            raw, whole = Path(folder, "raw.db"), Path(folder, "whole.db")
            MlflowClient(f"sqlite:///{raw}").search_experiments(max_results=1)
            # A copy of its own, since MLflow keeps its connection to the first one.
            with closing(sqlite3.connect(raw)) as source, closing(sqlite3.connect(whole)) as copy:
                source.backup(copy)
            whole.replace(file)


def _is_refusal(error: Exception) -> bool:
    """Whether the event can never be sent, by MLflow's answer or because it is malformed; else it is worth waiting."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, ArithmeticError | LookupError | TypeError | ValueError):
        return True
    return isinstance(error, MlflowException) and error.get_http_status_code() in (400, 404)


def _first_line(error: Exception) -> str:
    return redact(str(error) or type(error).__name__).splitlines()[0]


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
