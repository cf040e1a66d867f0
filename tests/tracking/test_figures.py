import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lttune.tracking import figures as drawn
from lttune.tracking.figures import MAX_DRAWN
from lttune.types import StudyResult, TrialResult

Study = Callable[..., StudyResult]
Figures = Callable[[StudyResult], dict[str, str]]


@pytest.fixture
def study() -> Study:
    """A study of trials with these values of AP, None for a failed one; every third was stopped early."""

    def make(values: list[float | None], **more: float) -> StudyResult:
        trials = []
        for number, value in enumerate(values):
            state: Any = "FAIL" if value is None else "PRUNED" if number % 3 == 2 else "COMPLETE"
            metrics = {} if value is None else {"AP": value, **more}
            trials.append(TrialResult(number=number, state=state, params={}, metrics=metrics))
        complete = [trial for trial in trials if trial.state == "COMPLETE"]
        best = max(complete, key=lambda trial: trial.metrics["AP"], default=None)
        return StudyResult(
            study="a < b",
            objective={"metric": "AP", "mode": "max"},
            best=best.number if best else None,
            trials=tuple(trials),
        )

    return make


@pytest.fixture
def study_figures(tmp_path: Path) -> Figures:
    """The figures, with a cache of their own."""
    return lambda result: drawn.study_figures(result, tmp_path)


def texts(svg: str) -> set[str]:
    """Everything that is written in a figure."""
    found = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return {"".join(element.itertext()).strip() for element in found}


def test_figures_name_their_axes_and_mark_the_best_trial_and_trial_0(study: Study, study_figures: Figures) -> None:
    figures = study_figures(study([1.0, 2.0, 0.5, None, 4.0, 3.0], AP_r=5.0, AP_f=9.0))
    assert set(figures) == {"history.svg", "ap_by_frequency.svg"}
    marks = {"stopped early", "trial 0", "trial 4, the best"}
    assert texts(figures["history.svg"]) >= marks | {"trial", "AP, tune half", "best so far"}
    axes = {"AP_f, frequent categories, tune half", "AP_r, rare categories, tune half"}
    assert texts(figures["ap_by_frequency.svg"]) >= marks | axes


def test_the_same_study_gives_the_same_text(study: Study, study_figures: Figures) -> None:
    result = study([1.0, 2.0], AP_r=5.0, AP_f=9.0)
    assert study_figures(result) == study_figures(result)


@pytest.mark.parametrize(
    ("values", "more", "names"),
    [
        ([None, None], {}, set()),
        ([math.nan], {}, set()),
        ([1.0], {}, {"history.svg"}),
        ([1.0], {"AP_r": math.nan, "AP_f": 1.0}, {"history.svg"}),
        ([None, None, 1.0], {}, {"history.svg"}),
    ],
)
def test_a_figure_needs_something_to_show(
    values: list[float | None], more: dict[str, float], names: set[str], study: Study, study_figures: Figures
) -> None:
    assert set(study_figures(study(values, **more))) == names


def test_a_single_trial_is_both_the_first_and_the_best(study: Study, study_figures: Figures) -> None:
    assert "trial 0, the best" in texts(study_figures(study([1.0]))["history.svg"])


def test_many_trials_do_not_make_a_large_file(study: Study, study_figures: Figures) -> None:
    many = study([float(number % 97) for number in range(2 * MAX_DRAWN)])
    assert len(study_figures(many)["history.svg"]) < 512 * 1024


def test_nothing_draws_before_it_is_asked_to() -> None:
    check = "import sys, lttune.tracking.figures; assert not {'matplotlib', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_fonts_that_were_found_are_kept_in_the_cache_and_not_in_the_home_folder(tmp_path: Path) -> None:
    draw = "import sys, pathlib, lttune.tracking.figures as f; f.preload(pathlib.Path(sys.argv[1]))"
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", f"{draw}; import matplotlib.font_manager", str(cache)]
    subprocess.run(command, check=True, env=environment)
    assert not [path for path in home.rglob("*") if path.is_file()]
    assert list((cache / "matplotlib").glob("fontlist*"))
