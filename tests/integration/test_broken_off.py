"""Drivers that are killed or interrupted, and what `lttune resume` makes of their studies."""

import json
import signal
import time
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch

pytestmark = pytest.mark.slow

NUM_TRIALS, EPOCHS = 4, 24
Whole: TypeAlias = tuple[Any, str, Path]


def test_kill_in_the_middle_of_trials(whole: Whole, prepared: Any) -> None:
    driver = prepared.search("kill")
    driver.wait_for(lambda: prepared.trial_in_its_middle("kill", epochs=4), "a trial in its middle")
    driver.end(signal.SIGKILL)

    trials = prepared.optuna_trials("kill")
    finished = {t.number: t for t in trials if t.state.is_finished()}
    broken = [t.number for t in trials if len(t.intermediate_values) and not t.state.is_finished()]
    before = {number: prepared.history("kill", number) for number in broken}
    assert finished
    assert any(4 <= len(history) < EPOCHS for history in before.values())

    document = json.loads(prepared.start("resume", "kill", "--json").finish())

    # The same trials as in a search that nobody killed, to the last bit.
    wanted = json.loads(whole[1])["trials"]
    for trial, same in zip(document["trials"], wanted, strict=True):
        assert {key: trial[key] for key in ("number", "state", "params", "metrics")} == {
            key: same[key] for key in ("number", "state", "params", "metrics")
        }
    after = prepared.optuna_trials("kill")
    assert [t.number for t in after] == list(range(NUM_TRIALS))
    for number, trial in finished.items():
        assert (after[number].datetime_complete, after[number].values) == (trial.datetime_complete, trial.values)
    # Seconds are measured, so epochs that carry the same ones were not trained again.
    for number, history in before.items():
        assert prepared.history("kill", number)[: len(history)] == history
    assert sorted(line["number"] for line in prepared.lines("kill", "trials.jsonl")) == list(range(NUM_TRIALS))
    check_mlflow(prepared, "kill")


def test_kill_in_the_confirmation(whole: Whole, prepared: Any) -> None:
    confirmation = prepared.study("confirm") / "confirmation.json"
    driver = prepared.search("confirm")
    driver.wait_for(
        lambda: len(read_runs(confirmation, "best")) >= 1 and checkpoints(prepared, "confirm"), "runs of the best trial"
    )
    driver.end(signal.SIGKILL)
    assert checkpoints(prepared, "confirm")

    stdout = prepared.start("resume", "confirm").finish()

    # The same runs as in a search that nobody killed, to the last bit.
    found, wanted = (
        json.loads(path.read_text()) for path in (confirmation, whole[0].study("whole") / confirmation.name)
    )
    assert found == wanted
    assert "its loss as published" in stdout
    assert [trial.number for trial in prepared.optuna_trials("confirm")] == list(range(NUM_TRIALS))
    check_mlflow(prepared, "confirm")


def test_kill_in_stage_1_in_features_and_in_the_confirmation(bare: Any) -> None:
    cache, confirmation = bare.out / "cache", bare.study("early") / "confirmation.json"
    driver = bare.search("early", "--trials", "1", "--set", "stage1.schedule.epochs=12")
    partial = driver.wait_for(lambda: next(cache.glob("stage1-*.partial.pt"), None), "a partial stage 1")
    driver.end(signal.SIGKILL)
    steps = torch.load(partial, weights_only=True)["step"]
    assert 0 < steps < 12 * 15

    driver = bare.start("resume", "early")
    driver.wait_for(lambda: next(cache.glob(".features-*"), None), "features in the making")
    driver.end(signal.SIGKILL)
    assert f"stage 1: {steps} of 180" in driver.stderr
    assert not partial.exists()
    assert not [path for path in cache.glob("features-*") if path.is_dir()]

    driver = bare.start("resume", "early")
    driver.wait_for(
        lambda: len(read_runs(confirmation)) >= 2 and checkpoints(bare, "early"), "a confirmation in its middle"
    )
    driver.end(signal.SIGKILL)
    assert "stage 1:" not in driver.stderr
    known, left = read_runs(confirmation), checkpoints(bare, "early")
    assert len(known) < 5

    document = json.loads(bare.start("resume", "early", "--json").finish())
    assert [trial["state"] for trial in document["trials"]] == ["COMPLETE"]
    runs = read_runs(confirmation)
    assert len(runs) == 5
    assert known.items() <= runs.items()
    assert left
    assert not bare.study("early").joinpath("confirmation").exists()
    # Trial 0 is the only one, hence the best: one arm.
    assert [look["by"] for look in bare.lines("early", "report_looks.jsonl")] == ["search"]
    assert list(cache.glob(".*")) == []
    assert bare.mlflow_runs("early")[None].info.status == "FINISHED"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupt(prepared: Any, sent: signal.Signals) -> None:
    driver = prepared.search("stop")
    driver.wait_for(lambda: prepared.trial_in_its_middle("stop", epochs=2), "a trial in its middle")
    workers = driver.workers()
    assert workers

    if sent == signal.SIGINT:
        _, stderr = prepared.run("resume", "stop", code=2)
        assert f"process {driver.process.pid}" in stderr
    began = time.monotonic()
    # Ctrl-C reaches every process of the terminal's group, a terminate the driver alone.
    code = driver.end(sent, whole_group=sent == signal.SIGINT)

    assert code == 130
    assert time.monotonic() - began < 15
    assert not any(worker.is_running() for worker in workers)
    assert "lttune resume stop" in driver.stderr
    assert "Traceback" not in driver.stderr

    document = json.loads(prepared.start("resume", "stop", "--json").finish())
    assert [(t["number"], t["state"]) for t in document["trials"]] == [(n, "COMPLETE") for n in range(NUM_TRIALS)]
    check_mlflow(prepared, "stop")


def read_runs(confirmation: Path, arm: str = "trial_0") -> dict[str, Any]:
    """The confirmed seeds of an arm."""
    if not confirmation.exists():
        return {}
    runs: dict[str, Any] = json.loads(confirmation.read_text())["runs"].get(arm, {})
    return runs


def checkpoints(place: Any, study: str) -> list[Path]:
    """Of the runs of the confirmation that are under way."""
    return list(place.study(study).glob("confirmation/*/run.pt"))


def check_mlflow(place: Any, study: str) -> None:
    """One finished run per trial, with each epoch once and in order."""
    runs = place.mlflow_runs(study)
    assert runs.pop(None).info.status == "FINISHED"
    assert sorted(runs) == list(range(NUM_TRIALS))
    for run in runs.values():
        assert run.info.status == "FINISHED"
        for metric in ("AP", "loss"):
            assert place.mlflow_steps(run, metric) == list(range(1, EPOCHS + 1))
