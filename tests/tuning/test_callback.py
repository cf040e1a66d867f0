"""Ray's events, as they were seen, become one record each in the storage, the trackers and the view."""

import json
import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayTaskError

from lttune.engine.assets import Assets
from lttune.spec.search import SearchSpec
from lttune.tracking.base import Tracker
from lttune.tracking.jsonl import JsonlTracker
from lttune.tuning.callback import ConfirmationCallback, StudyCallback
from lttune.tuning.categories import categories_file
from lttune.tuning.confirm import Confirmation
from lttune.tuning.listener import SilentListener
from lttune.tuning.restarts import Restarts
from lttune.tuning.study import StudyStore
from lttune.types import TrialResult


class Heard(SilentListener):
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.epochs: list[tuple[int, int]] = []
        self.ended: list[TrialResult] = []

    def trial_starts(self, number: int, params: Mapping[str, Any], *, epochs: int) -> None:
        self.started.append(number)

    def trial_reports(self, number: int, epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        self.epochs.append((number, epoch))

    def trial_ends(self, result: TrialResult) -> None:
        self.ended.append(result)


class Remembering(Tracker):
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}

    def start_study(self, name: str, **told: Any) -> None:
        self.told["study"] = told

    def start_trial(self, number: int, **told: Any) -> None:
        self.told["start"] = told

    def report(self, number: int, **told: Any) -> None:
        self.told["report"] = told

    def end_trial(self, number: int, **told: Any) -> None:
        self.told["end"] = told

    def end_study(self, **told: Any) -> None:
        self.told["study end"] = told

    def close(self, timeout_s: float) -> int:
        return 0


class Scene:
    """A study with one trial that Ray runs, and a callback that hears of it."""

    def __init__(self, store: StudyStore, make_job: Any) -> None:
        number = store.ask()
        self.store = store
        self.heard = Heard()
        self.tracker = Remembering()
        self.callback = StudyCallback(store, [self.tracker, JsonlTracker(store.folder.path)], self.heard)
        annotations = store.folder.path / "train.json"
        annotations.write_text("{}")
        assets = Assets(
            train_annotations=str(annotations),
            train_images="",
            val_annotations="",
            val_images="",
            stage1_weights="cache/stage1-0123456789ab/weights.safetensors",
        )
        path = str(store.folder.checkpoint(number))
        self.job = make_job(number, store.parameters(number), assets=assets, checkpoint=path, gpus=2.0)
        self.trial = SimpleNamespace(
            config={"job": self.job}, last_result=None, trial_id="ray's", pickled_error_file=None, error_file=None
        )

    def start(self) -> None:
        self.callback.on_trial_start(0, [], self.trial)

    def report(self, *epochs: int, **changes: Any) -> None:
        """A slice in which these epochs ended, with an AP of ten times the epoch."""
        records = [
            {
                "epoch": e,
                "loss": 1.0 / e,
                "losses": {"loss_cls": 0.75 / e, "loss_rank": 0.25 / e},
                "lr": 0.01,
                "seconds": 2.0 * e,
                "peak_memory_gb": 0.5,
                "metrics": {"AP": 10.0 * e, "AP_r": math.nan},
            }
            for e in epochs
        ]
        last: dict[str, Any] = records[-1] if records else {"epoch": 0, "seconds": 0.0, "metrics": {}}
        result = {
            "epoch": last["epoch"],
            "epochs": records,
            "seconds": last["seconds"],
            "metrics": tuple(last["metrics"].items()),
            "applied_hash": "abc",
            "failure": None,
        }
        self.trial.last_result = {**result, **changes}
        self.callback.on_trial_result(0, [], self.trial, self.trial.last_result)

    def complete(self) -> TrialResult:
        self.callback.on_trial_complete(0, [], self.trial)
        return self.ended()

    def ended(self) -> TrialResult:
        (result,) = self.heard.ended
        (stored,) = self.store.results().trials
        (line,) = (self.store.folder.path / "trials.jsonl").read_text().splitlines()
        assert stored.state == result.state == json.loads(line)["state"]
        assert stored.reason == result.reason == json.loads(line)["reason"]
        assert stored.failure == result.failure == json.loads(line)["failure"]
        return result


@pytest.fixture
def scene(open_store: Callable[..., StudyStore], spec: SearchSpec, make_job: Any) -> Scene:
    return Scene(open_store(spec), make_job)


def intermediate(scene: Scene) -> dict[int, float]:
    return dict(scene.store._trial(scene.job.number).intermediate_values)


def test_a_trial_that_runs_to_its_end(scene: Scene) -> None:
    scene.start()
    scene.report(1)
    scene.report()  # a slice within an epoch
    scene.report(2, 3)
    result = scene.complete()
    assert result.state == "COMPLETE"
    assert result.metrics["AP"] == 30.0
    assert (result.seconds, result.fidelity, result.applied_hash) == (6.0, "cached", "abc")
    assert scene.heard.started == [0]
    assert scene.heard.epochs == [(0, 1), (0, 2), (0, 3)]
    assert intermediate(scene) == {1: 10.0, 2: 20.0, 3: 30.0}
    assert scene.store.results().best == 0


def test_trackers_hear_what_answers_questions(scene: Scene) -> None:
    scene.start()
    tags = scene.tracker.told["start"]["tags"]
    assert set(tags) == {"method", "fidelity", "differs", "backend", "detector", "version", "data", "stage1"}
    assert (tags["backend"], tags["detector"], tags["stage1"]) == ("torchvision", "tiny_mask_rcnn_fpn", "0123456789ab")
    scene.report(1, 2)
    assert scene.tracker.told["report"] == {
        "step": 2,
        "metrics": {
            "loss": 0.5,
            "loss/loss_cls": 0.375,
            "loss/loss_rank": 0.125,
            "lr": 0.01,
            "seconds": 4.0,
            "gpu_hours": 4.0 * 2 / 3600,
            "peak_memory_gb": 0.5,
            "AP": 20.0,
            "AP_r": pytest.approx(math.nan, nan_ok=True),
        },
    }


@pytest.mark.parametrize("table", [None, "id,name\n1,bird\n"])
def test_the_table_of_categories_goes_to_trackers_that_keep_artifacts(table: str | None, scene: Scene) -> None:
    if table is not None:
        path = categories_file(scene.store.folder.checkpoint(0))
        path.parent.mkdir()
        path.write_text(table)
    scene.start()
    scene.report(1)
    scene.complete()
    assert scene.tracker.told["end"]["artifacts"] == ({} if table is None else {"per_category.csv": table})


def test_the_value_is_that_of_the_last_epoch_never_the_best(scene: Scene) -> None:
    scene.start()
    scene.report(1, 2)
    scene.report(3, metrics={"AP": 5.0})
    assert scene.complete().metrics == {"AP": 5.0}
    assert scene.store.results().trials[0].metrics == {"AP": 5.0}


def test_a_restarted_worker_repeats_nothing(scene: Scene) -> None:
    scene.start()
    scene.report(1, 2)
    scene.start()
    scene.report(1, 2, 3)
    scene.complete()
    assert scene.heard.started == [0]
    assert scene.heard.epochs == [(0, 1), (0, 2), (0, 3)]
    assert intermediate(scene) == {1: 10.0, 2: 20.0, 3: 30.0}


def test_a_trial_that_was_stopped_early_is_pruned(scene: Scene) -> None:
    scene.start()
    scene.report(1)
    result = scene.complete()
    assert (result.state, result.metrics["AP"], result.reason) == ("PRUNED", 10.0, None)
    assert scene.store.results().best is None


def test_a_trial_that_gave_up_says_why(scene: Scene) -> None:
    scene.start()
    scene.report(1)
    scene.report(2, failure="the loss became nan in epoch 3", failure_kind="NonFiniteLossError")
    result = scene.complete()
    assert (result.state, result.reason) == ("FAIL", "the loss became nan in epoch 3")
    assert result.failure == scene.tracker.told["end"]["tags"]["failure"] == "NonFiniteLossError"


@pytest.mark.parametrize("metrics", [{}, {"AP": math.nan}])
def test_an_undefined_objective_fails_the_trial(metrics: dict[str, float], scene: Scene) -> None:
    scene.start()
    scene.report(3, metrics=metrics)
    result = scene.complete()
    assert (result.state, result.reason) == ("FAIL", "the objective AP is undefined on this data")
    assert result.failure == "UndefinedObjective"


@pytest.mark.parametrize(
    ("error", "reason", "failure"),
    [
        (RuntimeError("Traceback:\n  somewhere\nValueError: too large\n"), "ValueError: too large", "RuntimeError"),
        (
            RayTaskError("step", "Traceback:\nMemoryError: full", MemoryError("full")),
            "MemoryError: full",
            "MemoryError",
        ),
        (ActorDiedError(), "The actor died unexpectedly before finishing this task.", "WorkerDied"),
        (None, "its worker died", "WorkerDied"),
    ],
)
def test_a_worker_that_died_for_good(error: Exception | None, reason: str, failure: str, scene: Scene) -> None:
    scene.start()
    scene.report(1)
    if error is not None:
        file = scene.store.folder.path / "error.pkl"
        file.write_bytes(cloudpickle.dumps(error))
        scene.trial.pickled_error_file = str(file)
    scene.callback.on_trial_error(0, [], scene.trial)
    result = scene.ended()
    assert (result.state, result.reason, result.seconds, result.failure) == ("FAIL", reason, 2.0, failure)


def test_a_worker_that_died_before_its_first_report(scene: Scene) -> None:
    # Its exception cannot be unpickled here; Ray also wrote its text.
    scene.start()
    folder = scene.store.folder.path
    (folder / "error.pkl").write_bytes(b"cno_such_module\nError\n.")
    (folder / "error.txt").write_text("Failure # 1\nTraceback:\nno_such_module.Error: full\n")
    scene.trial.pickled_error_file, scene.trial.error_file = str(folder / "error.pkl"), str(folder / "error.txt")
    scene.callback.on_trial_error(0, [], scene.trial)
    assert (scene.ended().reason, scene.ended().seconds) == ("no_such_module.Error: full", None)


def test_a_trial_that_was_given_up(scene: Scene) -> None:
    restarts = Restarts(max_failures=0)
    callback = StudyCallback(scene.store, [JsonlTracker(scene.store.folder.path)], scene.heard, restarts)
    callback.on_trial_start(0, [], scene.trial)
    restarts.failed(scene.trial, RayTaskError("step", "Traceback:\nMemoryError: full", MemoryError("full")))
    callback.on_trial_complete(0, [], scene.trial)
    assert (scene.ended().state, scene.ended().reason, scene.ended().failure) == (
        "FAIL",
        "MemoryError: full",
        "MemoryError",
    )


def test_a_trial_that_no_worker_took(scene: Scene) -> None:
    scene.callback.record(TrialResult(number=0, state="FAIL", params={}, metrics={}, reason="refused"))
    assert scene.ended().reason == "refused"


def test_nothing_of_ours_is_pickled(scene: Scene, confirmation_of: Callable[[StudyStore], Confirmation]) -> None:
    assert scene.callback.__getstate__() == {}
    assert ConfirmationCallback(confirmation_of(scene.store)).__getstate__() == {}


# ---- the confirmation


class Run:
    """A run of the confirmation, and both callbacks that hear of it."""

    def __init__(self, scene: Scene, confirmation: Confirmation, make_run: Any) -> None:
        self.scene = scene
        self.confirmation = confirmation
        self.callbacks = [scene.callback, ConfirmationCallback(confirmation)]
        self.job = make_run("trial_0", 8, scene.job.params)
        self.trial = SimpleNamespace(
            config={"job": self.job}, last_result=None, trial_id="ray's", pickled_error_file=None, error_file=None
        )

    def go(self, *results: dict[str, Any]) -> None:
        for callback in self.callbacks:
            callback.on_trial_start(0, [], self.trial)
        for result in results:
            self.trial.last_result = result
            for callback in self.callbacks:
                callback.on_trial_result(0, [], self.trial, result)

    def complete(self) -> None:
        for callback in self.callbacks:
            callback.on_trial_complete(0, [], self.trial)


@pytest.fixture
def run(scene: Scene, confirmation_of: Callable[[StudyStore], Confirmation], make_run: Any) -> Run:
    return Run(scene, confirmation_of(scene.store), make_run)


FOUND = {"5": {"AP": 10.0}, "300": {"AP": 20.0}}


def test_a_run_of_the_confirmation_is_no_trial(run: Run) -> None:
    run.go(
        {"found": None, "failure": None, "done": False},
        {"found": FOUND, "failure": None, "done": True},
    )
    run.complete()
    assert run.confirmation.state["runs"] == {"trial_0": {"8": FOUND}}
    assert run.confirmation.state["failures"] == {}
    heard = run.scene.heard
    assert (heard.started, heard.epochs, heard.ended) == ([], [], [])
    assert [trial.state for trial in run.scene.store.results().trials] == ["RUNNING"]
    assert not (run.scene.store.folder.path / "trials.jsonl").exists()


def test_a_run_of_the_confirmation_that_gave_up_says_why(run: Run) -> None:
    run.go({"found": None, "failure": "the loss became nan in epoch 3", "done": True})
    run.complete()
    assert run.confirmation.state["failures"] == {"trial_0": {"8": "the loss became nan in epoch 3"}}


def test_a_run_of_the_confirmation_whose_worker_died_for_good(run: Run) -> None:
    run.go()
    for callback in run.callbacks:
        callback.on_trial_error(0, [], run.trial)
    assert run.confirmation.state["failures"] == {"trial_0": {"8": "its worker died"}}
    assert run.scene.heard.ended == []
