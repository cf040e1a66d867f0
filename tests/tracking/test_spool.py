from pathlib import Path

import pytest

from lttune.errors import StudyError
from lttune.tracking.spool import Spool


def numbers(spool: Spool) -> list[int]:
    return [event["n"] for event, _ in spool.pending()]


def filled(folder: Path, *, num_sent: int) -> Spool:
    """A spool with events 0 to 3, the first of which are sent."""
    spool = Spool(folder)
    for n in range(4):
        spool.append({"n": n})
    for _, offset in list(spool.pending())[:num_sent]:
        spool.mark_sent(offset)
    return spool


@pytest.mark.parametrize("num_sent", range(5))
def test_the_unsent_tail_outlives_its_process(tmp_path: Path, num_sent: int) -> None:
    spool = filled(tmp_path, num_sent=num_sent)
    assert numbers(spool) == list(range(num_sent, 4))
    spool.release()
    again = Spool(tmp_path)
    assert numbers(again) == list(range(num_sent, 4))
    assert again.num_pending() == 4 - num_sent


def test_events_appended_while_others_are_read_come_in_the_same_pass(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append({"n": 0})
    seen = []
    for event, _ in spool.pending():
        seen.append(event["n"])
        if event["n"] < 3:
            spool.append({"n": event["n"] + 1})
    assert seen == [0, 1, 2, 3]


def test_compact_empties_only_what_is_sent(tmp_path: Path) -> None:
    spool = filled(tmp_path, num_sent=3)
    spool.compact()
    assert numbers(spool) == [3]
    spool.mark_sent(spool.file.stat().st_size)
    spool.compact()
    assert spool.file.stat().st_size == 0
    spool.append({"n": 9})
    assert numbers(spool) == [9]


def test_a_kill_between_the_two_steps_of_compact_loses_nothing(tmp_path: Path) -> None:
    filled(tmp_path, num_sent=4).release()
    offset = (tmp_path / "mlflow_spool.offset").read_text()
    spool = Spool(tmp_path)
    spool.append({"n": 5})
    spool.release()
    (tmp_path / "mlflow_spool.offset").write_text(offset)
    assert numbers(Spool(tmp_path)) == [5]


@pytest.mark.parametrize("offset", ["", "x", "-3", "5", "99999"])
def test_an_offset_that_does_not_fit_sends_everything_again(tmp_path: Path, offset: str) -> None:
    filled(tmp_path, num_sent=2).release()
    (tmp_path / "mlflow_spool.offset").write_text(offset)
    assert numbers(Spool(tmp_path)) == [0, 1, 2, 3]


def test_a_half_written_last_line_is_cut_off(tmp_path: Path) -> None:
    spool = filled(tmp_path, num_sent=1)
    spool.release()
    with spool.file.open("ab") as stream:
        stream.write(b'{"n":4')
    again = Spool(tmp_path)
    again.append({"n": 5})
    assert numbers(again) == [1, 2, 3, 5]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(StudyError, match="another process"):
        Spool(tmp_path)
    spool.release()
    Spool(tmp_path).release()
