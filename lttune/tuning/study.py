"""A study's folder and its Optuna storage, which is the truth about its trials.

OUT/STUDY/spec.yaml           everything resolved, the setting in full
OUT/STUDY/optuna.journal      trials, parameters, values
OUT/STUDY/trials.jsonl        one line per finished trial, for people and scripts
OUT/STUDY/checkpoints/NNNN.pt unfinished and finished trials: what trains, newest only
OUT/STUDY/categories/NNNN.csv AP of each category at a trial's last evaluation
OUT/STUDY/confirmation.json   the stage-1 model, trial 0 and the best on the report half
OUT/STUDY/confirmation/       checkpoints of the runs behind it, while they run
OUT/STUDY/report_looks.jsonl  every look at the report half
OUT/STUDY/events.jsonl        what happened when: workers, nodes, budgets
OUT/STUDY/costs.json          hours of CPUs and GPUs by kind
OUT/STUDY/state.json          what runs and what waits, while the search does
OUT/STUDY/stop                there while somebody asks the driver to end
OUT/STUDY/driver.lock         held by the process that drives the search
OUT/STUDY/ended               there once the search, its confirmation and its trackers' end are done
"""

import json
import math
import os
import re
import signal
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from lttune.engine.checkpoint import replacing
from lttune.engine.seeds import stream_seed
from lttune.errors import StudyError, did_you_mean
from lttune.losses import LOSSES
from lttune.spec.load import load_spec
from lttune.spec.parameters import FloatRange, IntRange, Parameter, Scalar
from lttune.spec.search import Losses, RecipeOf, SearchSpec, classifier_alone
from lttune.spec.yaml_text import to_yaml
from lttune.types import StudyResult, TrialResult

# What a trial's report keeps beside its parameters, as Optuna user attributes.
_ATTRIBUTES = ("metrics", "seconds", "fidelity", "differs", "reason", "applied_hash", "failure")


class StudyFolder:
    """Paths of one study, and who may write to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / "driver.lock")

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def spec_path(self) -> Path:
        return self.path / "spec.yaml"

    @property
    def journal(self) -> Path:
        return self.path / "optuna.journal"

    @property
    def confirmation(self) -> Path:
        return self.path / "confirmation.json"

    @property
    def state_file(self) -> Path:
        return self.path / "state.json"

    @property
    def stop_file(self) -> Path:
        return self.path / "stop"

    @property
    def exists(self) -> bool:
        return self.spec_path.is_file()

    @property
    def is_ended(self) -> bool:
        """Whether nothing is left to do, the trackers' end of the study included."""
        return (self.path / "ended").is_file()

    def mark_ended(self) -> None:
        (self.path / "ended").touch()

    def checkpoint(self, number: int) -> Path:
        return self.path / "checkpoints" / f"{number:04d}.pt"

    @property
    def confirmation_runs(self) -> Path:
        return self.path / "confirmation"

    def run_checkpoint(self, arm: str, seed: int) -> Path:
        """Of one run of the confirmation, in a folder of its own."""
        return self.confirmation_runs / f"{arm}-{seed}" / "run.pt"

    def create(self, spec: SearchSpec) -> None:
        """Make the folder and write the resolved spec.

        Raises:
            StudyError: the study exists.
        """
        self.refuse_existing()
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.spec_path) as temporary:
            text = f"# lttune resume {self.name}\n{to_yaml(spec.to_document())}"
            temporary.write_text(text, encoding="utf-8")

    def refuse_existing(self) -> None:
        """Raise StudyError, with the command that continues it, where the folder holds a study."""
        if self.exists:
            raise StudyError(
                f"study '{self.name}' exists in {self.path.parent}; continue it with `lttune resume {self.name}`, "
                "or name another one with --study."
            )

    def load_spec(
        self, *, needs_files: bool = True, recipe_of: RecipeOf = classifier_alone, losses: Losses = LOSSES
    ) -> SearchSpec:
        """The resolved spec that the study was started with; arguments as of `lttune.spec.load.load_spec`.

        Raises:
            StudyError: there is no such study.
        """
        self.require()
        return load_spec(self.spec_path, needs_files=needs_files, recipe_of=recipe_of, losses=losses)

    def require(self) -> None:
        """Raise StudyError, with the nearest known name, where there is no such study."""
        if not self.exists:
            known = sorted(spec.parent.name for spec in self.path.parent.glob("*/spec.yaml"))
            hint = did_you_mean(self.name, known) if known else ""
            raise StudyError(f"there is no study '{self.name}' in {self.path.parent}.{hint}")

    def acquire(self) -> None:
        """Become the study's one driver, until `release` or the end of the process.

        Raises:
            StudyError: another process drives it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            # Another command that looks whether the study is driven holds the lock for a moment.
            self._lock.acquire(timeout=1)
        except Timeout as error:
            raise StudyError(f"study '{self.name}' is driven by {self.holder()}; wait for it or stop it.") from error
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        (self.path / "driver.json").write_text(json.dumps(holder))

    def release(self) -> None:
        self._lock.release()

    def is_driven(self) -> bool:
        """Whether a living process drives the study."""
        probe = FileLock(self.path / "driver.lock")
        try:
            probe.acquire(timeout=0)
        except Timeout:
            return True
        probe.release()
        return False

    def holder(self) -> str:
        """Who drives the study, or drove it last."""
        try:
            holder = json.loads((self.path / "driver.json").read_text())
            return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        except (OSError, ValueError, KeyError):
            return "another process"

    def stop(self, patience_s: float) -> bool:
        """Ask the driver to end; a driver on this machine is told at once, any other one reads a file of the folder.

        Args:
            patience_s: how long to wait for its end.

        Returns:
            Whether it has ended.

        Raises:
            StudyError: nobody drives the study.
        """
        if not self.is_driven():
            raise StudyError(f"study '{self.name}' is not running; see: lttune status {self.name}")
        self.stop_file.touch()
        with suppress(OSError, ValueError, KeyError):
            holder = json.loads((self.path / "driver.json").read_text())
            if holder["host"] == socket.gethostname():
                os.kill(holder["pid"], signal.SIGTERM)
        deadline = time.monotonic() + patience_s
        while is_driven := self.is_driven():
            if time.monotonic() >= deadline:
                break
            time.sleep(0.2)
        if not is_driven:
            self.stop_file.unlink(missing_ok=True)
        return not is_driven

    def read_trial(self, spec: SearchSpec, which: str) -> TrialResult:
        """A COMPLETE trial, by number or `best`.

        Raises:
            StudyError: there is no such trial, or it is not COMPLETE.
        """
        result = StudyStore(self, spec, is_driver=False).results()
        number = str(result.best) if which == "best" else which
        found = next((trial for trial in result.trials if str(trial.number) == number), None)
        if found is None:
            what = "no COMPLETE trial yet" if which == "best" else f"no trial {which}; it has {len(result.trials)}"
            raise StudyError(f"study '{self.name}' has {what}. See: lttune status {self.name}")
        if found.state != "COMPLETE":
            raise StudyError(f"trial {found.number} of '{self.name}' is {found.state}; choose a COMPLETE one.")
        return found

    def look_at_report(self, *, by: str, what: str) -> None:
        """Append a line to the list of looks at the report half."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "by": by, "what": what}
        with (self.path / "report_looks.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


class StudyStore:
    """The Optuna study of a folder: asks for trials, records what became of them.

    Args:
        folder: the study's folder; with `is_driver` its lock must be held.
        spec: what is searched.
        is_driver: whether this process writes; a reader never does.
    """

    def __init__(self, folder: StudyFolder, spec: SearchSpec, *, is_driver: bool) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder = folder
        self.spec = spec
        if is_driver:
            _mend_journal(folder.journal)
        storage = JournalStorage(JournalFileBackend(str(folder.journal), lock_obj=_DriverLock(str(folder.journal))))
        is_maximised = spec.objective.mode == "max"
        if is_driver:
            self._study = optuna.create_study(
                storage=storage,
                study_name=folder.name,
                direction="maximize" if is_maximised else "minimize",
                pruner=optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            # A driver that was killed before the last of them had asked for no trial yet.
            for values in spec.initial()[len(self._trials()) :]:
                active = (draw for draw in spec.draws() if draw.is_active(values))
                self._study.enqueue_trial({draw.name: values[draw.key] for draw in active})
        else:
            try:
                self._study = optuna.load_study(storage=storage, study_name=folder.name)
            except KeyError:  # its driver has not come to the first trial
                self._study = optuna.create_study()

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    # ---- asking

    def unfinished(self) -> list[int]:
        """Numbers of trials that were asked for and have no end yet, in order."""
        return [trial.number for trial in self._trials(TrialState.RUNNING)]

    def num_asked(self) -> int:
        """Trials that have been asked for, whatever became of them."""
        return sum(trial.state != TrialState.WAITING for trial in self._trials())

    def ask(self) -> int:
        """Create the next trial; its draws are a function of the search's seed and its number."""
        self._study.sampler = self._sampler(self.num_asked(), 0)
        return self._study.ask().number

    def parameters(self, number: int) -> dict[str, Scalar]:
        """The trial's sampled values, by key; those that a killed driver had not drawn yet are drawn now."""
        trial = Trial(self._study, self._trial(number)._trial_id)
        values: dict[str, Scalar] = {}
        for position, draw in enumerate(self.spec.draws(), 1):
            if draw.is_active(values):
                # A stream of its own for each parameter: what was drawn before a kill must not shift the rest.
                self._study.sampler = self._sampler(number, position)
                values[draw.key] = _suggest(trial, draw.name, draw.parameter)
        return values

    def _sampler(self, number: int, position: int) -> optuna.samplers.BaseSampler:
        seed = stream_seed(self.spec.search.seed, "sampler", number, position) % 2**32
        if self.spec.search.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)

    def _trial(self, number: int) -> FrozenTrial:
        return self._trials()[number]

    # ---- telling

    def report(self, number: int, epoch: int, value: float) -> None:
        """Record an intermediate value; one that is known, as after a restart, is left alone."""
        trial = self._trial(number)
        if not trial.state.is_finished() and epoch not in trial.intermediate_values and math.isfinite(value):
            Trial(self._study, trial._trial_id).report(value, epoch)

    def tell(self, result: TrialResult) -> None:
        """Record the end of a trial; one that has ended already is left alone."""
        trial = self._trial(result.number)
        if trial.state.is_finished():
            return
        live = Trial(self._study, trial._trial_id)
        attributes = {
            "metrics": {key: value if math.isfinite(value) else None for key, value in result.metrics.items()},
            "seconds": result.seconds,
            "fidelity": result.fidelity,
            "reason": result.reason,
            "applied_hash": result.applied_hash,
            "failure": result.failure,
        }
        for key, value in attributes.items():
            if value is not None:
                live.set_user_attr(key, value)
        if result.state == "COMPLETE":
            self._study.tell(result.number, result.metrics[self.spec.objective.metric])
        else:
            self._study.tell(result.number, state=TrialState[result.state])

    # ---- reading

    def results(self) -> StudyResult:
        """Every trial as the storage tells it."""
        keys = {draw.name: draw.key for draw in self.spec.draws()}
        trials = tuple(_trial_result(trial, keys) for trial in self._trials() if trial.state != TrialState.WAITING)
        complete = [t for t in self._trials(TrialState.COMPLETE) if t.value is not None]
        sign = 1 if self.spec.objective.mode == "max" else -1
        best = max(complete, key=lambda t: (sign * (t.value or 0.0), -t.number), default=None)
        return StudyResult(
            study=self.folder.name,
            objective={"metric": self.spec.objective.metric, "mode": self.spec.objective.mode},
            best=None if best is None else best.number,
            trials=trials,
        )


class _DriverLock(JournalFileOpenLock):
    """The driver's lock on the folder already keeps other writers away."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return


def _mend_journal(path: Path) -> None:
    """Cut off a line that a killed driver wrote in part: the next one would be glued to it."""
    if not path.is_file():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)


def _suggest(trial: Trial, name: str, parameter: Parameter) -> Scalar:
    if isinstance(parameter, FloatRange):
        return trial.suggest_float(name, *parameter.bounds, log=parameter.log)
    if isinstance(parameter, IntRange):
        return trial.suggest_int(name, *parameter.bounds, step=parameter.step, log=parameter.log)
    return trial.suggest_categorical(name, parameter.values)


def _trial_result(trial: FrozenTrial, keys: Mapping[str, str]) -> TrialResult:
    attributes: Mapping[str, Any] = {key: trial.user_attrs.get(key) for key in _ATTRIBUTES}
    metrics = attributes["metrics"] or {}
    return TrialResult(
        number=trial.number,
        state=trial.state.name,  # type: ignore[arg-type]
        params={keys[name]: value for name, value in trial.params.items()},
        metrics={key: math.nan if value is None else value for key, value in metrics.items()},
        seconds=attributes["seconds"],
        fidelity=attributes["fidelity"],
        reason=attributes["reason"],
        applied_hash=attributes["applied_hash"],
        failure=attributes["failure"],
    )


def find_study(study: str, out: Path) -> StudyFolder:
    """The study that a name under OUT or a path means."""
    if not re.fullmatch(r"[\w.~/-]+", study) or study in {".", ".."}:
        raise StudyError(f"'{study}' cannot name a study; use letters, digits, '.', '_' and '-', or give a path.")
    path = Path(study).expanduser()
    is_path = "/" in study or (path.is_dir() and (path / "spec.yaml").is_file())
    return StudyFolder((path if is_path else out / study).absolute())


def known_studies(out: Path) -> Iterable[StudyFolder]:
    """Every study of an output folder, by name."""
    return (StudyFolder(spec.parent) for spec in sorted(out.glob("*/spec.yaml")))
