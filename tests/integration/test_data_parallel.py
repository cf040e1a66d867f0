"""Trials and runs that two processes train together, as a person starts them."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.slow

SPACE = str(Path(__file__).with_name("small.yaml"))
# A stage-1 model that finds something, so that AP says something, and trials of a second.
LEARNED = ("--set", "stage1.schedule.epochs=60", "--set", "schedule.epochs=8")
TWO = ("--set", "resources.workers=2")


def followers(driver: Any) -> list[psutil.Process]:
    """The processes of trials' second ranks while they train."""
    return [process for process, line in driver.command_lines().items() if re.match(r"ray::Follower", line)]


def metrics_of(place: Any, study: str) -> dict[int, dict[str, float]]:
    lines = place.lines(study, "trials.jsonl")
    assert all(line["state"] == "COMPLETE" for line in lines)
    return {line["number"]: line["metrics"] for line in lines}


def test_two_workers_end_with_the_ap_of_one(bare: Any) -> None:
    one = bare.search("one", "--trials", "2", *LEARNED)
    one.finish()
    two = bare.search("two", "--trials", "2", *LEARNED, *TWO)
    two.wait_for(lambda: followers(two), "a second worker")
    two.finish()

    alone, together = metrics_of(bare, "one"), metrics_of(bare, "two")
    assert sorted(together) == [0, 1]
    assert alone[0]["AP"] > 1
    for number, metrics in alone.items():
        # The spread over seeds is 0.4; rounding alone moves a rare detection.
        assert together[number]["AP"] == pytest.approx(metrics["AP"], abs=0.2)
        losses = [loss for _, loss, _ in bare.history("one", number)]
        assert [loss for _, loss, _ in bare.history("two", number)] == pytest.approx(losses, rel=1e-4)


def test_a_second_worker_that_is_killed_costs_a_slice(prepared: Any) -> None:
    epochs = 40
    driver = prepared.search("killed", "--trials", "1", *TWO, "--set", f"schedule.epochs={epochs}")
    driver.wait_for(lambda: (prepared.study("killed") / "checkpoints" / "0000.pt").is_file(), "a slice")
    (process,) = driver.wait_for(lambda: followers(driver), "a second worker")
    process.kill()
    # The confirmation is of no interest here.
    driver.wait_for(lambda: (prepared.study("killed") / "trials.jsonl").is_file(), "the end of the trial")
    driver.end(signal.SIGINT)

    assert list(metrics_of(prepared, "killed")) == [0]
    assert [epoch for epoch, _, _ in prepared.history("killed", 0)] == list(range(1, epochs + 1))
    assert "WorkerLostError: worker 0 of 2 lost another one" in driver.stderr


def test_two_workers_train_a_configuration_as_one(prepared: Any, tmp_path: Path) -> None:
    def train(workers: int, *more: str) -> Any:
        to = tmp_path / str(workers)
        return prepared.start("train", SPACE, "--to", str(to), "--workers", str(workers), "--json", *more)

    long = ("--set", "schedule.epochs=100")
    broken_off = train(2, *long)
    checkpoint = tmp_path / "2" / "run.pt"
    broken_off.wait_for(checkpoint.is_file, "a checkpoint")
    assert any("spawn_main" in line for line in broken_off.command_lines().values())
    code = broken_off.end(signal.SIGINT, whole_group=True)
    assert code == 130
    assert "Interrupted. The same command goes on with it." in broken_off.stderr
    assert "Traceback" not in broken_off.stderr
    assert checkpoint.is_file()

    together = json.loads(train(2, *long).finish())
    alone = json.loads(train(1, *long).finish())
    for half in ("tune", "report"):
        assert together["metrics"][half]["bbox/AP"] == pytest.approx(alone["metrics"][half]["bbox/AP"], abs=0.2)

    refused = train(3)
    refused.finish(code=2)
    assert "schedule.batch_size is 2, but resources.workers is 3" in refused.stderr
