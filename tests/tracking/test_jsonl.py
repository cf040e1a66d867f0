import logging
from pathlib import Path

import orjson
import pytest

from lttune.tracking.jsonl import JsonlTracker, read_trials

NAN = float("nan")


def finish(tracker: JsonlTracker, number: int, *, ap: float = 1.0, state: str = "COMPLETE", **tags: str) -> None:
    tracker.start_trial(number, params={"optim": {"lr": 0.1}}, config={}, tags={"fidelity": "cached"})
    tracker.end_trial(number, state=state, metrics={"segm/AP": ap, "segm/AP_r": NAN}, tags=tags)


def test_a_finished_trial_is_one_line(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path / "study")
    tracker.start_study("study", tags={}, artifacts={"spec.yaml": "a: 1"})
    finish(tracker, 3, applied_hash="abc", host="node1")
    finish(tracker, 1, state="FAIL", reason="The loss became NaN.", failure="NonFiniteLossError")
    tracker.end_study(state="COMPLETE", metrics={}, tags={})
    assert tracker.close(1.0) == 0

    written = [orjson.loads(line) for line in (tmp_path / "study/trials.jsonl").read_bytes().splitlines()]
    assert [line["number"] for line in written] == [3, 1]
    assert written[0]["tags"] == {"host": "node1"}

    first, second = read_trials(tmp_path / "study")
    assert (first.number, first.state, first.reason) == (1, "FAIL", "The loss became NaN.")
    assert (second.number, second.state, second.reason) == (3, "COMPLETE", None)
    assert (first.failure, second.failure) == ("NonFiniteLossError", None)
    assert second.params == {"optim": {"lr": 0.1}}
    assert second.metrics == {"segm/AP": 1.0}
    assert (second.fidelity, second.applied_hash) == ("cached", "abc")
    assert second.seconds is not None
    assert 0 <= second.seconds < 60


def test_a_trial_that_did_not_start_here_has_no_duration(tmp_path: Path) -> None:
    JsonlTracker(tmp_path).end_trial(0, state="FAIL", metrics={}, tags={"reason": "The search was killed."})
    (trial,) = read_trials(tmp_path)
    assert (trial.seconds, trial.params, trial.reason) == (None, {}, "The search was killed.")


def test_the_first_end_of_a_trial_stays_also_after_attaching_again(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path)
    finish(tracker, 0, ap=1.0)
    finish(tracker, 0, ap=2.0)
    again = JsonlTracker(tmp_path)
    finish(again, 0, ap=3.0)
    finish(again, 1, ap=4.0)
    assert [(trial.number, trial.metrics["segm/AP"]) for trial in read_trials(tmp_path)] == [(0, 1.0), (1, 4.0)]


def test_a_half_written_last_line_is_repaired_and_its_trial_written_anew(tmp_path: Path) -> None:
    finish(JsonlTracker(tmp_path), 0)
    with (tmp_path / "trials.jsonl").open("ab") as stream:
        stream.write(b'{"number":1,"state":"COMP')
    assert [trial.number for trial in read_trials(tmp_path)] == [0]

    again = JsonlTracker(tmp_path)
    finish(again, 1, ap=5.0)
    assert [(trial.number, trial.metrics["segm/AP"]) for trial in read_trials(tmp_path)] == [(0, 1.0), (1, 5.0)]


def test_no_trials_yet(tmp_path: Path) -> None:
    assert read_trials(tmp_path) == ()


def test_a_folder_that_went_away_does_not_stop_the_search(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = JsonlTracker(tmp_path / "study")
    (tmp_path / "study").rmdir()
    with caplog.at_level(logging.WARNING):
        finish(tracker, 7)
    assert "trial 7 could not be written" in caplog.text
    assert tracker.close(1.0) == 1
