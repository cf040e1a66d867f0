"""The report of studies as files."""

from typing import Any

import pytest

from lttune.reporting.report import write_report

ARMS = {"trial_0": [50.0, 51.0, 52.0, 50.0, 51.0], "best": [53.0, 53.5, 54.0, 53.0, 54.0]}


def test_a_report_of_two_studies(make_study: Any, tmp_path: Any) -> None:
    records = [make_study("mine", arms=ARMS), make_study("new", tuned=(), num_trials=3)]
    (written,) = write_report(records, tmp_path / "a" / "b")
    assert written == tmp_path / "a" / "b" / "report.html"
    text = written.read_text()
    assert "<title>lttune: mine, new</title>" in text
    assert "<h2>mine</h2>" in text
    assert "<h2>new</h2>" in text
    assert "53.5 [" in text
    assert "<td>loss.score_threshold</td>" in text
    assert "AP of categories and detections are left out: the best trial has no checkpoint." in text
    assert "No trial is COMPLETE yet, so there is nothing to draw." in text
    assert 'id="study-1-history"' in text
    assert 'id="study-2-history"' not in text


def test_it_takes_the_place_of_an_earlier_one(make_study: Any, tmp_path: Any) -> None:
    (tmp_path / "report.html").write_text("old")
    write_report([make_study("new", tuned=())], tmp_path)
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]


def test_plots_as_files(make_study: Any, tmp_path: Any) -> None:
    record = make_study("mine", tuned=(50.0,))
    written = write_report([record], tmp_path / "to", with_png=True)
    names = ["report.html", "mine-history.png", "mine-learning-curves.png", "mine-pareto.png"]
    assert [path.name for path in written] == names
    assert all(path.stat().st_size > 1000 for path in written)


@pytest.mark.parametrize("with_models", [True, False])
def test_models_can_be_left_alone(with_models: bool, make_study: Any, tmp_path: Any) -> None:
    (written,) = write_report([make_study("mine", tuned=(50.0,))], tmp_path, with_models=with_models)
    assert ("are left out" in written.read_text()) is with_models
