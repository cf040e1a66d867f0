"""Hours by kind, kept over drivers, and what trials took in earlier searches."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lttune.tuning.costs import KINDS, Held, Ledger, read_hours, record_seconds, recorded_seconds

ONE = Held(2, 0.5)


def test_hours_outlive_their_driver(tmp_path: Path) -> None:
    first = Ledger(tmp_path)
    first.add("training", 3600, ONE)
    first.add("lost", 1800, ONE)
    first.save()
    second = Ledger(tmp_path)
    second.add("training", 7200, ONE)
    second.save()
    hours = read_hours(tmp_path)
    assert set(hours["cpu_hours"]) == set(KINDS)
    assert (hours["cpu_hours"]["training"], hours["gpu_hours"]["training"]) == (6, 1.5)
    assert (hours["gpu_hours"]["lost"], hours["gpu_hours"]["idle"]) == (0.25, 0)
    assert second.gpu_hours == pytest.approx(1.0)  # a budget is its own driver's


def test_no_hours_yet(tmp_path: Path) -> None:
    assert read_hours(tmp_path) == {}


def test_seconds_of_trials_are_known_where_one_like_it_ran(tmp_path: Path, make_job: Any) -> None:
    config = make_job(0, {"optim.lr": 0.01}).config
    assert recorded_seconds(tmp_path, config, ONE) is None
    record_seconds(tmp_path, config, ONE, 12.5)
    other = replace(config, optim=replace(config.optim, lr=0.5), seed=9)
    assert recorded_seconds(tmp_path, other, ONE) == 12.5
    longer = replace(config, schedule=replace(config.schedule, epochs=99))
    assert recorded_seconds(tmp_path, longer, ONE) is None
    assert recorded_seconds(tmp_path, config, Held(4, 0.5)) is None


def test_a_damaged_record_is_no_record(tmp_path: Path, make_job: Any) -> None:
    (tmp_path / "trial_seconds.json").write_text("[")
    assert recorded_seconds(tmp_path, make_job(0, {}).config, ONE) is None
