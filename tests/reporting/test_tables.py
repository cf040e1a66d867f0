"""The same comparison as text, Markdown, LaTeX and CSV."""

import csv
import io
from typing import Any

import pytest

from lttune.reporting.compare import Comparison, compare
from lttune.reporting.statistics import Estimate
from lttune.reporting.tables import change, csv_text, latex, markdown, remarks, spread, tables

ARMS = {"trial_0": [50.0, 51.0, 52.0, 50.0, 51.0], "best": [53.0, 53.5, 54.0, 53.0, 54.0]}
NAN = float("nan")


@pytest.fixture
def comparison(make_study: Any) -> Comparison:
    return compare([make_study("my_study", arms=ARMS), make_study("ce", method="baseline", tuned=(50.0, None))])


def test_every_table_is_there(comparison: Comparison) -> None:
    measured, differences, gains, searches = tables(comparison)
    assert measured.rows[0] == ("stage-1 model", "", "as it is", "30.0", "–", "32.0", "40.0")
    names = [row[:3] for row in measured.rows[1:]]
    assert names[:3] == [
        ("my_study", "acsl", "published (trial 0)"),
        ("my_study", "acsl", "optimiser only"),
        ("my_study", "acsl", "best (trial 1)"),
    ]
    assert names[3] == ("ce", "cross_entropy", "default and best (trial 0)")
    assert differences.rows == (("my_study", "no seed in common yet", "–", "–", "–"),)
    assert gains.rows[0][0] == "my_study"
    assert gains.rows[0][1].startswith("+2.7 [+")
    assert searches.columns[-1] == "expected best of 1"
    assert searches.rows[1][3] == "1 of 2"
    assert all(len(row) == len(table.columns) for table in tables(comparison) for row in table.rows)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, "–"),
        (Estimate(mean=NAN, low=NAN, high=NAN, num=0), "–"),
        (Estimate(mean=1.5, low=NAN, high=NAN, num=1), "+1.5 (one seed)"),
        (Estimate(mean=1.5, low=0.5, high=2.5, num=5), "+1.5 [+0.5, +2.5]"),
        (Estimate(mean=1.5, low=-0.5, high=3.5, num=5), "no difference shown [-0.5, +3.5]"),
        (Estimate(mean=0.0, low=0.0, high=0.0, num=5), "0, the same values"),
    ],
)
def test_differences_in_words(found: Estimate | None, text: str) -> None:
    assert change(found) == text


def test_a_mean_with_its_interval() -> None:
    assert spread(Estimate(mean=55.04, low=54.0, high=56.08, num=5)) == "55.0 [54.0, 56.1]"
    assert spread(Estimate(mean=55.04, low=NAN, high=NAN, num=1)) == "55.0"


def test_refusal_and_notes_stand_below(comparison: Comparison) -> None:
    lines = remarks(comparison)
    assert lines[0] == "Not ranked: the studies differ in number of trials (1, 4)."
    assert "ce: not confirmed on the report half at 20 detections; lttune resume ce" in lines


def test_markdown_is_escaped_and_whole(comparison: Comparison) -> None:
    text = markdown(comparison)
    assert "| my\\_study | acsl | published (trial 0) | 50.8 [" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows[:6]} == {8}
    assert "Not ranked" in text


def test_latex_is_escaped_and_balanced(comparison: Comparison) -> None:
    text = latex(comparison)
    assert r"my\_study & acsl & published (trial 0) & 50.8 [" in text
    assert r"$+2.7$ [$+" in text
    assert r"95 \% interval" in text
    for part in ("table", "tabular"):
        assert text.count(rf"\begin{{{part}}}") == text.count(rf"\end{{{part}}}") == 4
    for command in ("toprule", "midrule", "bottomrule"):
        assert text.count(rf"\{command}") == 4
    assert "–" not in text
    assert all(line.startswith("%") for line in text.splitlines() if "Not ranked" in line)


def test_csv_holds_every_number_in_full(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(comparison))))
    best = [row for row in rows if (row["study"], row["what"], row["metric"]) == ("my_study", "best", "AP")]
    assert [float(row["mean"]) for row in best] == [53.5]
    assert (best[0]["max_dets"], best[0]["seeds"], best[0]["method"]) == ("20", "5", "acsl")
    assert float(best[0]["low"]) < 53.5 < float(best[0]["high"])
    kinds = {row["what"] for row in rows}
    assert {"stage1", "trial_0", "gain_total", "expected_best_of_4", "trials", "all_trials"} <= kinds
