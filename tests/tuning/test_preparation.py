"""Stage 1 and caches are watched and paid for."""

import json
from pathlib import Path

import pytest

from lttune.tuning import preparation as module
from lttune.tuning.costs import Held, Ledger
from lttune.tuning.events import EventLog, read_events
from lttune.tuning.preparation import Preparation


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_time_goes_to_what_was_under_way(tmp_path: Path, clock: list[float]) -> None:
    ledger, told = Ledger(tmp_path), []
    preparation = Preparation(
        lambda *message: told.append(message),
        Held(2, 1),
        ledger=ledger,
        events=EventLog(tmp_path),
        state_file=tmp_path / "state.json",
        stop_file=tmp_path / "stop",
    )
    for what, done, seconds in (("data", 1, 2), ("stage 1", 1, 30), ("stage 1", 2, 30), ("features", 1, 5)):
        preparation.progress(what, done, 2)
        clock[0] += seconds
    preparation.close()
    preparation.close()
    hours = ledger.hours()
    assert hours["cpu_hours"]["stage 1"] * 3600 == pytest.approx(120)
    assert hours["gpu_hours"]["caches"] * 3600 == pytest.approx(7)
    assert told[1] == ("stage 1", 1, 2)
    ends = [event for event in read_events(tmp_path) if event["event"] == "preparation_end"]
    assert [(event["what"], event["seconds"]) for event in ends] == [("data", 2), ("stage 1", 60), ("features", 5)]
    assert json.loads((tmp_path / "state.json").read_text())["phase"] == "features: 1 of 2"
    (tmp_path / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        preparation.say("memory: 1 of 9")
