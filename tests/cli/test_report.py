"""`lttune report` writes a page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lttune.spec.load import load_spec
from lttune.tuning.study import StudyFolder, StudyStore
from lttune.types import TrialResult

Run = Callable[..., Any]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """One study, `mine`, of one trial that is COMPLETE; two were asked for."""
    spec = load_spec("acsl", overrides={"search.trials": "2"})
    folder = StudyFolder(tmp_path / "lttune_runs" / "mine")
    folder.create(spec)
    store = StudyStore(folder, spec, is_driver=True)
    params = store.parameters(store.ask())
    metrics = {"AP": 50.0, "AP_r": 30.0, "AP_c": 50.0, "AP_f": 60.0}
    store.tell(TrialResult(number=0, state="COMPLETE", params=params, metrics=metrics, seconds=1.0))
    return folder.path.parent


def test_a_page_is_written(runs: Path, lttune: Run, tmp_path: Path) -> None:
    ran = lttune("report", "mine", "--to", "page", "--png")
    assert ran.code == 0
    assert ran.out == "The report is page/report.html and 2 PNG files beside it.\n"
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == [
        "mine-history.png",
        "mine-pareto.png",
        "report.html",
    ]
    assert "its search is not complete, 1 of 2 trials are" in (tmp_path / "page" / "report.html").read_text()


def test_models_can_be_left_alone(runs: Path, lttune: Run, tmp_path: Path) -> None:
    assert lttune("report", "mine", "--to", "page", "--no-models").out == "The report is page/report.html.\n"
    assert "are left out" not in (tmp_path / "page" / "report.html").read_text()


def test_a_folder_must_be_named(runs: Path, lttune: Run) -> None:
    ran = lttune("report", "mine")
    assert ran.code == 2
    assert "Missing option '--to'" in ran.err


def test_a_file_is_no_folder(runs: Path, lttune: Run, tmp_path: Path) -> None:
    (tmp_path / "page").touch()
    ran = lttune("report", "mine", "--to", "page")
    assert ran.code == 2
    assert "'page' is a file" in ran.err
