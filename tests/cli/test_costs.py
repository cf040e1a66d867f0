"""What a search would cost is said before a study is made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
# 6 million images of 160 px.
LONG = ("search", "acsl", "--set", "stage1.schedule.epochs=4000")


def test_a_long_stage_1_has_to_be_asked_for(lttune: Run, tmp_path: Path) -> None:
    ran = lttune(*LONG)
    assert (ran.code, ran.out) == (2, "")
    assert "stage 1 of this setting is projected to take 53 GPU hours, 1 is free; name a model with" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_does_not_fit_the_disk_is_refused(
    lttune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lttune.engine.forecast.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**8}))
    ran = lttune(*LONG, "--build-stage1")
    assert (ran.code, ran.out) == (2, "")
    assert f"the disk of {tmp_path} has 100.0 MB free; make room" in ran.err
    assert list(tmp_path.iterdir()) == []
