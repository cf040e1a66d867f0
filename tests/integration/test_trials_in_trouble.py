"""Workers that die, losses that diverge, trials that are stopped early, an MLflow that is broken."""

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
import yaml

pytestmark = pytest.mark.slow

EPOCHS = 24
Whole: TypeAlias = tuple[Any, str, Path]
# AdamW multiplies the weights by 1 - lr * weight_decay, here by -49, at every step: soon they are infinite.
DIVERGING_LR, WEIGHT_DECAY = 99.0, 0.5
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


def test_kill_of_a_worker(whole: Whole, prepared: Any) -> None:
    driver = prepared.search("worker", "--trials", "2", "--set", "resources.max_concurrent=1", "--json")

    def first_trial_in_its_middle() -> bool:
        trials = prepared.optuna_trials("worker")
        return len(trials) == 1 and 4 <= len(trials[0].intermediate_values) < EPOCHS - 4

    driver.wait_for(first_trial_in_its_middle, "trial 0 in its middle")
    workers = driver.workers()
    assert len(workers) == 1, driver.command_lines().values()
    worker = workers[0]
    assert WORKER_ENVIRONMENT.items() <= worker.environ().items()
    worker.send_signal(signal.SIGKILL)
    before = prepared.history("worker", 0)
    assert len(before) < EPOCHS

    document = json.loads(driver.finish())

    wanted = json.loads(whole[1])["trials"][:2]
    assert [trial["state"] for trial in document["trials"]] == ["COMPLETE"] * 2
    assert [trial["metrics"] for trial in document["trials"]] == [trial["metrics"] for trial in wanted]
    # Seconds are measured, so epochs that carry the same ones were not trained again.
    assert prepared.history("worker", 0)[: len(before)] == before
    runs = prepared.mlflow_runs("worker")
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert prepared.mlflow_steps(runs[0], "AP") == list(range(1, EPOCHS + 1))


def test_kill_of_a_worker_in_the_confirmation(whole: Whole, prepared: Any) -> None:
    confirmation = prepared.study("worker") / "confirmation.json"
    driver = prepared.search("worker", "--json")
    under_way = driver.wait_for(
        lambda: next(prepared.study("worker").glob("confirmation/best-*/run.pt"), None), "a run of the best trial"
    )
    steps = torch.load(under_way, weights_only=True)["step"]
    for worker in driver.workers():
        worker.send_signal(signal.SIGKILL)

    document = json.loads(driver.finish())

    assert steps > 0
    assert [trial["state"] for trial in document["trials"]] == ["COMPLETE"] * 4
    wanted = whole[0].study("whole") / "confirmation.json"
    assert json.loads(confirmation.read_text()) == json.loads(wanted.read_text())


def test_published_values_that_diverge_leave_the_rest_confirmed(prepared: Any, tmp_path: Path) -> None:
    space = {"optim.lr": {"choice": [0.01, DIVERGING_LR], "default": DIVERGING_LR}}
    spec = write_spec(tmp_path / "published.yaml", space, trials=4)

    stdout = prepared.start("search", str(spec)).finish()

    state = json.loads((prepared.study("published") / "confirmation.json").read_text())
    assert prepared.optuna_trials("published")[0].state.name == "FAIL"
    assert {arm: len(runs) for arm, runs in state["runs"].items()} == {"trial_0": 0, "best": 5}
    assert {arm: len(reasons) for arm, reasons in state["failures"].items()} == {"trial_0": 5}
    assert "too few runs of trial" in stdout
    assert "Confirmation of trial 0: 5 runs failed and are left out: the loss became" in stdout


def test_a_loss_that_becomes_infinite_fails_its_trial_alone(prepared: Any, tmp_path: Path) -> None:
    space = {"optim.lr": {"choice": [0.01, DIVERGING_LR], "default": 0.01}}
    spec = write_spec(tmp_path / "diverge.yaml", space, trials=4)

    document = json.loads(prepared.start("search", str(spec), "--json").finish())

    lrs = [trial["params"]["optim.lr"] for trial in document["trials"]]
    assert set(lrs) == {0.01, DIVERGING_LR}
    runs, lines = prepared.mlflow_runs("diverge"), prepared.lines("diverge", "trials.jsonl")
    reasons = {line["number"]: line["reason"] for line in lines}
    for trial, lr in zip(document["trials"], lrs, strict=True):
        number, is_sound = trial["number"], lr == 0.01
        assert trial["state"] == ("COMPLETE" if is_sound else "FAIL")
        assert runs[number].info.status == ("FINISHED" if is_sound else "FAILED")
        assert trial.get("reason") == reasons[number] == runs[number].data.tags.get("lttune.reason")
        assert is_sound or "the loss became" in reasons[number]
    stdout, _ = prepared.run("status", "diverge")
    assert "the loss became" in stdout


def test_a_search_without_a_complete_trial_ends_with_1(prepared: Any, tmp_path: Path) -> None:
    space = {"optim.lr": {"choice": [DIVERGING_LR, 2 * DIVERGING_LR / 3], "default": DIVERGING_LR}}
    spec = write_spec(tmp_path / "hopeless.yaml", space, trials=2)

    document = json.loads(prepared.start("search", str(spec), "--json").finish(code=1))

    assert document["best"] is None
    assert not prepared.study("hopeless").joinpath("report_looks.jsonl").exists()
    assert [trial["state"] for trial in document["trials"]] == ["FAIL"] * 2
    assert not prepared.study("hopeless").joinpath("confirmation.json").exists()
    assert prepared.mlflow_runs("hopeless")[None].info.status == "FAILED"
    stdout, _ = prepared.run("resume", "hopeless", code=1)
    assert "the loss became" in stdout


def test_asha_stops_trials(prepared: Any) -> None:
    asha = "{first_rung_epochs: 3, reduction_factor: 2}"
    driver = prepared.search("asha", "--trials", "8", "--set", f"search.asha={asha}", "--json")
    document = json.loads(driver.finish())

    trials, runs = prepared.optuna_trials("asha"), prepared.mlflow_runs("asha")
    states = [trial["state"] for trial in document["trials"]]
    assert set(states) == {"COMPLETE", "PRUNED"}
    for trial, state in zip(trials, states, strict=True):
        run = runs[trial.number]
        assert (trial.state.name, run.info.status) == (state, "FINISHED" if state == "COMPLETE" else "KILLED")
        epochs = list(trial.intermediate_values)
        assert epochs == list(range(1, len(epochs) + 1))
        assert epochs == prepared.mlflow_steps(run, "AP")
        assert len(epochs) in ({3, 6, 12} if state == "PRUNED" else {EPOCHS})
        last = document["trials"][trial.number]["metrics"]["AP"]
        assert math.isclose(last, trial.intermediate_values[epochs[-1]], rel_tol=0)
        assert trial.value == last
    # The best trial's runs are new ones, and no rung is theirs.
    confirmation = json.loads((prepared.study("asha") / "confirmation.json").read_text())
    assert {len(runs) for runs in confirmation["runs"].values()} == {5}
    assert confirmation["failures"] == {}


def test_mlflow_that_is_broken_stops_nothing_and_gets_all_later(prepared: Any) -> None:
    database = prepared.out / "mlflow.db"
    database.mkdir()

    driver = prepared.search("away", "--trials", "2", "--json")
    document = json.loads(driver.finish())

    assert [trial["state"] for trial in document["trials"]] == ["COMPLETE"] * 2
    waiting = len(prepared.lines("away", "mlflow_spool.jsonl"))
    assert f"MLflow still lacks {waiting} events" in driver.stderr
    assert "lttune sync away" in driver.stderr

    shutil.rmtree(database)
    stdout, _ = prepared.run("sync", "away")
    assert f"{waiting} events sent, 0 left" in stdout
    runs = prepared.mlflow_runs("away")
    assert sorted(runs, key=str) == [0, 1, None]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for number in range(2):
        assert prepared.mlflow_steps(runs[number], "AP") == list(range(1, EPOCHS + 1))


def write_spec(path: Path, space: dict[str, Any], *, trials: int) -> Path:
    """The small search with another space and a weight decay that takes part in diverging."""
    document = yaml.safe_load(Path(__file__).with_name("small.yaml").read_text().replace("\non:", "\nsetting:"))
    setting = document.pop("setting")
    setting["optim"]["weight_decay"] = WEIGHT_DECAY
    # Plain YAML reads what people write as 1e-4 as text.
    setting["stage1"]["optim"]["lr"] = float(setting["stage1"]["optim"]["lr"])
    document |= {"on": setting, "space": space}
    document["search"]["trials"] = trials
    path.write_text(yaml.safe_dump(document))
    return path
