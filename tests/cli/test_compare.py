"""`lttune compare` on studies that lie there."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lttune.spec.load import load_spec
from lttune.tuning.study import StudyFolder, StudyStore
from lttune.types import TrialResult

Run = Callable[..., Any]


def _study(folder: StudyFolder, method: str, confirmed: float) -> None:
    spec = load_spec(method, overrides={"search.trials": "2"})
    folder.create(spec)
    store = StudyStore(folder, spec, is_driver=True)
    for number, ap in enumerate((50.0, 52.0)):
        params = store.parameters(store.ask())
        metrics = {"AP": ap, "AP_r": 30.0, "AP_c": 50.0, "AP_f": 60.0}
        store.tell(TrialResult(number=number, state="COMPLETE", params=params, metrics=metrics, seconds=1.0))
    runs = {
        arm: {str(seed): {"20": dict.fromkeys(metrics, ap + seed / 10)} for seed in range(1, 6)}
        for arm, ap in (("trial_0", 50.0), ("best", confirmed))
    }
    stage1 = {"20": dict.fromkeys(metrics, 40.0)}
    folder.confirmation.write_text(
        json.dumps({"seeds": [1, 2, 3, 4, 5], "limits": [20], "runs": runs, "stage1": stage1})
    )


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two studies that can be ranked: `mine` is better than the control `ce`."""
    out = tmp_path / "lttune_runs"
    _study(StudyFolder(out / "mine"), "acsl", 55.0)
    _study(StudyFolder(out / "ce"), "baseline", 53.0)
    return out


def test_tables_on_the_terminal(runs: Path, lttune: Run) -> None:
    ran = lttune("compare", "ce", "mine")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].startswith("Report half, at most 20 detections per image")
    best = next(line for line in lines if "best (trial 1)" in line)
    assert best.split()[:3] == ["1", "mine", "acsl"]
    assert "55.3 [55.1, 55.5]" in best
    assert "Best trial minus the best of ce, the control, paired by seed" in ran.out
    assert "+2.0 [+2.0, +2.0]" in ran.out
    assert "Ranked by mean AP" in ran.out


def test_nothing_is_written(runs: Path, lttune: Run) -> None:
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    lttune("compare", "ce", "mine")
    assert before == {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}


def test_other_forms_hold_the_same(runs: Path, lttune: Run) -> None:
    document = json.loads(lttune("compare", "ce", "mine", "--json").out)
    assert [study["name"] for study in document["studies"]] == ["mine", "ce"]
    assert document["refusal"] is None
    rows = list(csv.DictReader(lttune("compare", "ce", "mine", "--csv").out.splitlines()))
    (best,) = [row for row in rows if (row["study"], row["what"], row["metric"]) == ("mine", "best", "AP")]
    assert float(best["mean"]) == document["studies"][0]["arms"]["best"]["AP"]["mean"] == pytest.approx(55.3)
    assert "| 1 | mine | acsl | best (trial 1) | 55.3 [" in lttune("compare", "ce", "mine", "--markdown").out
    assert r"1 & mine & acsl & best (trial 1) & 55.3 [" in lttune("compare", "ce", "mine", "--latex").out


def test_a_control_may_be_given_by_path(runs: Path, lttune: Run) -> None:
    ran = lttune("compare", "mine", "--control", runs / "ce", "--json", "--out", runs)
    assert json.loads(ran.out)["controls"] == ["ce"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["min"], "there is no study 'min' in"),
        (
            ["mine", "--max-dets", "50"],
            "--max-dets 50: the studies were measured at other limits of detections; use 20.",
        ),
        ([], "Missing argument 'STUDY...'"),
    ],
)
def test_what_cannot_be_compared(arguments: list[str], message: str, runs: Path, lttune: Run) -> None:
    ran = lttune("compare", *arguments)
    assert ran.code == 2
    assert message in ran.err
