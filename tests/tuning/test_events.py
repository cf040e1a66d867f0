"""One line per event, whatever was killed before it."""

from pathlib import Path

from lttune.tuning.events import FILE_NAME, EventLog, read_events


def test_events_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_events(tmp_path) == []
    log = EventLog(tmp_path)
    log.write("start", run="trial 0", seconds=1.23456, hours={"training": 0.00049}, why=None)
    (event,) = read_events(tmp_path)
    assert event.pop("time")[:2] == "20"
    assert event == {"event": "start", "run": "trial 0", "seconds": 1.235, "hours": {"training": 0.0}}


def test_a_line_that_a_killed_driver_wrote_in_part_is_cut_off(tmp_path: Path) -> None:
    EventLog(tmp_path).write("start")
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write('{"time": "20')
    EventLog(tmp_path).write("end")
    assert [event["event"] for event in read_events(tmp_path)] == ["start", "end"]


def test_a_folder_that_is_gone_costs_the_line_alone(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "gone")
    log.write("start")
    assert not (tmp_path / "gone").exists()
