"""What workers hold, when they were heard, and what that costs."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from lttune.spec.search import Resources
from lttune.tuning import watch as module
from lttune.tuning.costs import Ledger
from lttune.tuning.events import EventLog, read_events
from lttune.tuning.restarts import Restarts
from lttune.tuning.watch import Watch


class Scene:
    """A watch over one trial of two CPUs and half a GPU, on a clock that the test moves."""

    def __init__(self, folder: Path, job: Any, **resources: Any) -> None:
        self.folder = folder
        self.restarts, self.ledger = Restarts(max_failures=0), Ledger(folder)
        self.notes: list[str] = []
        self.killed: list[Any] = []
        self.now = 1000.0
        self.watch = Watch(
            folder / "state.json",
            Resources(cpus=2, gpus=0.5, **resources),
            restarts=self.restarts,
            ledger=self.ledger,
            events=EventLog(folder),
            on_restart=self.notes.append,
        )
        self.trial = SimpleNamespace(
            trial_id="ray's",
            config={"job": job},
            last_result={},
            temporary_state=SimpleNamespace(ray_actor="an actor"),
            pickled_error_file=None,
            error_file=None,
        )
        self.nodes = [{"NodeID": "a", "Alive": True}, {"NodeID": "b", "Alive": True}]

    def hear(self, seconds: float, **result: Any) -> None:
        """So many seconds pass, of which the last slice worked the most part."""
        self.now += seconds
        self.watch.on_trial_result(0, [], self.trial, {"slice_seconds": seconds, "node": "a", **result})

    def look(self) -> dict[str, Any]:
        self.now += 10
        self.watch.on_step_begin(0, [])
        found: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return found

    def seconds(self, of: str = "cpu_hours") -> dict[str, float]:
        return {kind: round(3600 * hours, 3) for kind, hours in self.ledger.hours()[of].items() if hours}

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self.folder) if event["event"] == kind]


@pytest.fixture
def scene_of(tmp_path: Path, make_job: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scene]:
    def make(**resources: Any) -> Scene:
        scene = Scene(tmp_path, make_job(3, {}), **resources)
        monkeypatch.setattr(module.time, "monotonic", lambda: scene.now)
        monkeypatch.setattr(module.ray, "nodes", lambda: scene.nodes)
        monkeypatch.setattr(module.ray, "kill", scene.killed.append)
        monkeypatch.setattr(module, "why_waiting", lambda resources: "GPUs: 0 of 4 are free")
        monkeypatch.setattr(module, "draining_nodes", dict)
        return scene

    return make


def test_the_time_of_a_trial_is_split(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of()
    scene.watch.on_trial_start(0, [], scene.trial)
    scene.now += 5  # its process starts
    scene.hear(10, evaluation_seconds=4)
    assert scene.watch.gpu_hours == pytest.approx(15 * 0.5 / 3600)
    scene.hear(10, evaluation_seconds=0)
    scene.now += 1
    scene.watch.on_trial_complete(0, [], scene.trial)
    assert scene.seconds() == {"training": 32, "evaluation": 8, "idle": 12}
    assert scene.seconds("gpu_hours") == {"training": 8, "evaluation": 2, "idle": 3}
    (start,), (end,) = scene.events("start"), scene.events("end")
    assert (start["run"], start["attempt"], start["cpus"], start["gpus"]) == ("trial 3", 1, 2.0, 0.5)
    assert (end["run"], end["held_seconds"]) == ("trial 3", 26.0)


def test_what_a_dead_worker_had_done_since_its_slice_is_lost(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of()
    scene.watch.on_trial_start(0, [], scene.trial)
    scene.hear(10)
    scene.now += 3
    scene.watch.on_trial_recover(0, [], scene.trial)
    assert scene.seconds() == {"training": 20, "lost": 6}
    (restart,) = scene.events("restart")
    assert (restart["run"], restart["cause"], restart["lost_seconds"]) == ("trial 3", "worker died", 3.0)
    assert scene.notes == ["trial 3 starts again from its last slice: its worker died"]
    assert scene.look()["waiting"].keys() == {"trial 3"}
    scene.watch.on_trial_start(0, [], scene.trial)
    assert [event["attempt"] for event in scene.events("start")] == [1, 2]


def test_the_state_says_what_runs_and_what_waits(scene_of: Callable[..., Scene], make_job: Any) -> None:
    scene = scene_of()
    scene.watch.handed_out(make_job(3, {}))
    scene.watch.handed_out(make_job(4, {}))
    scene.watch.on_trial_start(0, [], scene.trial)
    scene.hear(2)
    state = scene.look()
    assert state["running"]["trial 3"]["slices"] == 1
    assert state["running"]["trial 3"]["node"] == "a"
    assert math.isclose(state["time"] - state["running"]["trial 3"]["heard"], 10, abs_tol=0.1)
    assert list(state["waiting"]) == ["trial 4"]
    assert state["why"] == "GPUs: 0 of 4 are free"
    scene.watch.close()
    assert not (scene.folder / "state.json").exists()


def test_a_silent_trial_loses_its_worker_once(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(silent_s=30)
    scene.watch.on_trial_start(0, [], scene.trial)
    scene.hear(29)
    scene.look()
    scene.look()
    scene.look()
    assert scene.killed == []
    scene.look()
    scene.look()
    assert scene.killed == ["an actor"]
    assert scene.restarts.failed(scene.trial, ActorDiedError()) == "silent"


def test_nodes_that_come_and_go(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of()
    scene.look()
    scene.nodes = [{"NodeID": "a", "Alive": False}, {"NodeID": "b", "Alive": True}, {"NodeID": "c", "Alive": True}]
    scene.look()
    scene.look()
    assert [event["node"] for event in scene.events("node_lost")] == ["a"]
    assert [event["node"] for event in scene.events("node_joined")] == ["c"]


def test_a_trial_that_fails_between_two_is_not_over(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of()
    scene.watch.on_trial_error(0, [], scene.trial)
    assert scene.events("end") == []
    for _ in range(2):
        scene.watch.on_trial_error(0, [], scene.trial)
    (end,) = scene.events("end")
    assert "3 failures in a row without progress" in end["why"]
