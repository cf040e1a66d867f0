"""Commands on studies that exist: what they show, and what they refuse."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lttune.spec.load import load_spec
from lttune.tuning.study import StudyFolder, StudyStore
from lttune.types import TrialResult
from trainables import recipe_of

Run = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    """A study `mine` of three trials: one COMPLETE, one failed, one running; its driver is gone."""
    spec = load_spec("acsl", overrides={"search.trials": "5"})
    folder = StudyFolder(tmp_path / "lttune_runs" / "mine")
    folder.create(spec)
    store = StudyStore(folder, spec, is_driver=True)
    for _ in range(3):
        store.parameters(store.ask())
    metrics = {"AP": 41.25, "AP_r": float("nan"), "AP_c": 40.0, "AP_f": 60.0}
    store.tell(
        TrialResult(number=0, state="COMPLETE", params={}, metrics=metrics, seconds=2.5, fidelity="cached"),
    )
    store.tell(TrialResult(number=1, state="FAIL", params={}, metrics={}, reason="the loss became nan in epoch 2"))
    return store


def test_no_study_at_all(lttune: Run, tmp_path: Path) -> None:
    ran = lttune("status")
    assert (ran.code, ran.out) == (0, "There is no study in lttune_runs. Start one: lttune search acsl\n")
    assert json.loads(lttune("status", "--json").out) == {"studies": []}
    assert list(tmp_path.iterdir()) == []


def test_studies_are_listed(store: StudyStore, lttune: Run) -> None:
    assert lttune("status").out == "mine\n"


def test_status_of_an_unfinished_study(store: StudyStore, lttune: Run) -> None:
    ran = lttune("status", "mine")
    assert (ran.code, ran.err) == (0, "")
    for text in ("41.2", "COMPLETE", "FAIL", "RUNNING", "broken off; go on with: lttune resume mine"):
        assert text in ran.out
    assert "2 of 5 trials ended" in ran.out
    assert "trial 1: the loss became nan in epoch 2" in ran.out


def test_status_of_a_study_that_ended(store: StudyStore, lttune: Run) -> None:
    store.folder.confirmation.write_text("{}")  # it is begun while trials run
    assert "broken off" in lttune("status", "mine").out
    store.folder.mark_ended()
    assert "the search is complete" in lttune("status", "mine").out


def test_status_of_several_methods_has_a_column_for_them(lttune: Run, tmp_path: Path) -> None:
    spec = load_spec("all", recipe_of=recipe_of)
    folder = StudyFolder(tmp_path / "lttune_runs" / "many")
    folder.create(spec)
    store = StudyStore(folder, spec, is_driver=True)
    for _ in spec.methods:
        store.parameters(store.ask())
    ran = lttune("status", "many")
    assert ran.code == 0
    for method in spec.methods:
        assert f" {method} " in ran.out
    trials = json.loads(lttune("status", "many", "--json").out)["trials"]
    assert [trial["params"]["method"] for trial in trials] == list(spec.methods)
    assert [trial["params"] for trial in trials] == spec.initial()


def test_status_as_json(store: StudyStore, lttune: Run, tmp_path: Path) -> None:
    ran = lttune("status", "mine", "--json")
    found = json.loads(ran.out)
    assert (found["study"], found["best"], found["objective"]) == ("mine", 0, {"metric": "AP", "mode": "max"})
    assert [trial["number"] for trial in found["trials"]] == [0, 1, 2]
    assert [trial["state"] for trial in found["trials"]] == ["COMPLETE", "FAIL", "RUNNING"]
    first = found["trials"][0]
    assert first["metrics"] == {"AP": 41.25, "AP_r": None, "AP_c": 40.0, "AP_f": 60.0}
    assert (first["seconds"], first["fidelity"]) == (2.5, "cached")
    assert first["params"]["loss.score_threshold"] == 0.7
    assert found["trials"][1]["reason"] == "the loss became nan in epoch 2"
    by_path = lttune("status", tmp_path / "lttune_runs" / "mine", "--json", "--out", "elsewhere")
    assert json.loads(by_path.out) == found


def test_a_driven_study_says_by_whom(store: StudyStore, lttune: Run) -> None:
    store.folder.acquire()
    try:
        assert "driven by process" in lttune("status", "mine").out
        ran = lttune("resume", "mine")
    finally:
        store.folder.release()
    assert ran.code == 2
    assert "study 'mine' is driven by process" in ran.err


def test_why_a_trial_waits(store: StudyStore, lttune: Run) -> None:
    assert "mine is not running: nothing waits" in lttune("status", "mine", "--why").out
    now = time.time()
    state = {
        "time": now,
        "phase": "trials",
        "running": {"trial 1": {"since": now - 65, "heard": now - 2, "slices": 7, "node": "0123456789abcdef"}},
        "waiting": {"trial 2": now - 30},
        "why": "GPUs: it needs 0.5, and 0 of 4 are free",
    }
    store.folder.acquire()
    try:
        assert "starting or ending" in lttune("status", "mine", "--why").out
        store.folder.state_file.write_text(json.dumps(state))
        lines = lttune("status", "mine", "--why").out.splitlines()
    finally:
        store.folder.release()
    assert lines[1:] == [
        "trial 1 runs since 1:05 on node 0123456789ab: 7 slices, the last 2 s ago",
        "trial 2 waits since 30 s for GPUs: it needs 0.5, and 0 of 4 are free",
    ]


def test_stop_of_what_does_not_run(store: StudyStore, lttune: Run) -> None:
    ran = lttune("stop", "mine")
    assert (ran.code, ran.out) == (2, "")
    assert "study 'mine' is not running; see: lttune status mine" in ran.err


def test_stop_of_a_driver_elsewhere_leaves_it_a_file(store: StudyStore, lttune: Run) -> None:
    store.folder.acquire()
    try:
        holder = store.folder.path / "driver.json"
        holder.write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "yesterday"}))
        ran = lttune("stop", "mine", "--wait", "0")
        assert store.folder.stop_file.exists()
    finally:
        store.folder.release()
    assert ran.code == 1
    assert "mine was asked to end and is still driven by process 1 on elsewhere" in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--time", "soon"], "'soon' is not a length of time; write it like 2h30m, 45m or 90s."),
        (["--gpu-hours", "3"], "--gpu-hours 3: trials of this setting take no GPU (resources.gpus is 0); use --time."),
        (["--address", "ray://head:10001"], "use HOST:PORT (Ray's port, 6379)"),
        (["--set", "resources.gpus=2.5"], "2.5 is neither a fraction of one GPU nor a whole number; use 2 or 3."),
        (["--set", "resources.gpus=2", "--max-gpus", "1"], "max_gpus is 1, but one trial takes 2; raise it to that."),
        (["--max-concurrent", "0"], "--max-concurrent"),
    ],
)
def test_places_that_cannot_be(arguments: list[str], message: str, lttune: Run, tmp_path: Path) -> None:
    ran = lttune("search", "acsl", *arguments)
    assert ran.code == 2
    assert message in ran.err
    assert not (tmp_path / "lttune_runs" / "acsl" / "spec.yaml").exists()


def test_a_study_is_not_searched_again(store: StudyStore, lttune: Run) -> None:
    before = store.folder.journal.read_bytes()
    ran = lttune("search", "acsl", "--study", "mine")
    assert ran.code == 2
    assert "study 'mine' exists in" in ran.err
    assert "continue it with `lttune resume mine`, or name another one with --study." in ran.err
    assert store.folder.journal.read_bytes() == before


def test_several_methods_are_an_exploration(store: StudyStore, lttune: Run) -> None:
    many, one = (lttune("search", space, "--study", "mine") for space in ("all", "acsl"))
    assert "8 methods in one search: an exploration, not a ranking" in many.err
    assert "exploration" not in one.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["min"], "there is no study 'min' in"),
        (["mine", "--trial", "2"], "trial 2 of 'mine' is RUNNING; choose a COMPLETE one."),
        (["mine", "--trial", "9"], "study 'mine' has no trial 9; it has 3. See: lttune status mine"),
        (["mine"], "trial 0 of mine has no checkpoint at"),
    ],
)
def test_what_cannot_be_exported(
    arguments: list[str], message: str, store: StudyStore, lttune: Run, tmp_path: Path
) -> None:
    ran = lttune("export", *arguments, "--to", "best")
    assert ran.code == 2
    assert message in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["lttune_runs"]
    assert not (store.folder.path / "report_looks.jsonl").exists()
    assert not (tmp_path / "lttune_runs" / "cache").exists()


def test_an_export_writes_over_nothing(store: StudyStore, lttune: Run, tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "mine").touch()
    ran = lttune("export", "mine", "--to", "best")
    assert ran.code == 2
    assert "best exists and is not an empty folder; name another one." in ran.err
