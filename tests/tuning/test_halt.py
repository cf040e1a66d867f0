"""A search ends when its budget does, or when somebody asks."""

from pathlib import Path

from lttune.tuning.budget import Budget
from lttune.tuning.halt import Halt


def test_nothing_ends_a_search_without_a_budget(tmp_path: Path) -> None:
    halt = Halt(tmp_path / "stop", Budget(), lambda: (1e9, 1e9))
    assert not halt.stop_all()
    assert (halt.reason, halt.is_asked) == (None, False)
    assert not halt("a trial", {})
    assert halt.__getstate__() == {}


def test_the_file_ends_it(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    halt = Halt(tmp_path / "stop", Budget(), lambda: (0, 0))
    assert halt.stop_all()
    assert (halt.reason, halt.is_asked) == ("lttune stop", True)


def test_the_budget_ends_it_for_good(tmp_path: Path) -> None:
    spent = [0.0]
    halt = Halt(tmp_path / "stop", Budget(gpu_hours=1), lambda: (0, spent[0]))
    assert not halt.stop_all()
    spent[0] = 1.0
    halt._looked = 0.0
    assert halt.stop_all()
    spent[0] = 0.0
    assert halt.stop_all()
    assert (halt.reason, halt.is_asked) == ("--gpu-hours 1 are spent", False)
