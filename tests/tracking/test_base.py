import math
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lttune.tracking import TRACKERS, Tracker
from lttune.tracking.base import finite


@pytest.fixture
def make(tmp_path: Path, free_port: int) -> Callable[[str], Tracker]:
    """Makes a tracker of the table by its name, MLflow's without a server behind it."""
    arguments = {
        "jsonl": {"folder": tmp_path},
        "mlflow": {"uri": f"http://127.0.0.1:{free_port}", "experiment": "experiment", "folder": tmp_path},
    }
    return lambda name: TRACKERS[name](**arguments[name])


@given(st.dictionaries(st.text(), st.floats()))
def test_finite_keeps_exactly_the_finite_values(metrics: dict[str, float]) -> None:
    kept = finite(metrics)
    assert kept == {name: value for name, value in metrics.items() if not (math.isnan(value) or math.isinf(value))}


def test_finite_gives_plain_floats() -> None:
    assert [type(value) for value in finite({"a": np.float32(0.5), "b": 1}).values()] == [float, float]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_takes_whatever_a_driver_may_say(
    name: str, make: Callable[[str], Tracker], caplog: pytest.LogCaptureFixture
) -> None:
    nan = float("nan")
    odd = MappingProxyType(
        {"path": Path("x"), "nested": MappingProxyType({"a": (1, 2)}), "array": np.zeros(2), "é": None}
    )
    tracker = make(name)
    tracker.report(1, step=0, metrics={"AP": nan})  # before its start, as after a crash
    tracker.start_study("a study", tags={"method": "acsl"}, artifacts={"spec.yaml": "é: 1"})
    tracker.start_trial(1, params=odd, config=odd, tags={})
    tracker.start_trial(1, params=odd, config=odd, tags={})
    tracker.report(1, step=1, metrics={"AP": np.float32(1.0), "AP_r": nan})
    tracker.end_trial(1, state="COMPLETE", metrics={"AP": 1.0}, tags={}, artifacts={"per_category.csv": "é\n" * 10**6})
    tracker.end_trial(1, state="FAIL", metrics={}, tags={"reason": "twice"})
    tracker.end_trial(2, state="FAIL", metrics={}, tags={"reason": "never started"})
    tracker.end_study(state="STOPPED", metrics={"AP": -math.inf}, tags={}, artifacts={"history.svg": "<svg/>"})
    assert "lost" not in caplog.text
    assert "could not be written" not in caplog.text
    assert tracker.close(20.0) == tracker.close(20.0) == (0 if name == "jsonl" else 14)
