"""Ranked where studies are alike, differences by seed, and nothing claimed that was not measured."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from lttune.errors import InputError
from lttune.reporting.compare import compare
from lttune.tuning.study import StudyFolder

PUBLISHED = [50.0, 51.0, 52.0, 50.0, 51.0]
BETTER = [53.0, 53.5, 54.0, 53.0, 54.0]
OPTIMISER = [51.0, 52.0, 53.0, 51.0, 52.0]
CONTROL = [52.0, 52.5, 53.1, 52.0, 53.0]


@pytest.fixture
def two(make_study: Any) -> list[Any]:
    acsl = make_study("mine", arms={"trial_0": PUBLISHED, "best": BETTER, "optimiser_only": OPTIMISER})
    return [make_study("ce", method="baseline", arms={"trial_0": PUBLISHED, "best": CONTROL}), acsl]


def test_alike_studies_are_ranked(two: list[Any]) -> None:
    found = compare(two)
    assert found.refusal is None
    assert [(study.name, study.rank) for study in found.studies] == [("mine", 1), ("ce", 2)]
    assert (found.controls, found.max_dets, found.common_trials) == (("ce",), 20, 4)


def test_means_and_gains(two: list[Any]) -> None:
    mine = compare(two).studies[0]
    assert mine.arms["best"]["AP"].mean == pytest.approx(53.5)  # type: ignore[union-attr]
    assert mine.stage1["AP"] == 30.0
    parts = {part: values["AP"].mean for part, values in mine.gains.items()}  # type: ignore[union-attr]
    assert parts == pytest.approx({"total": 2.7, "optimiser": 1.0, "loss": 1.7})
    assert math.isnan(mine.gains["total"]["AP_r"].mean)  # type: ignore[union-attr]


def test_differences_to_the_control_are_paired(two: list[Any]) -> None:
    (found,) = compare(two).differences
    assert (found.study, found.control, found.reason) == ("mine", "ce", None)
    ap = found.values["AP"]
    assert ap is not None
    assert ap.mean == pytest.approx(0.98)
    # All five differences lie between 0.9 and 1, far closer together than the seeds.
    assert ap.is_shown
    assert ap.high - ap.low < 0.2


def test_cost_and_expected_best(two: list[Any]) -> None:
    mine = compare(two).studies[0]
    assert (mine.trial_s, mine.total_s) == (3.5, 14.0)
    assert mine.expected_best == pytest.approx((50.5, 51 + 1 / 6 + 1 / 6, 51.75, 52.0))


def test_another_limit_of_detections(two: list[Any]) -> None:
    found = compare(two, max_dets=300)
    assert found.studies[0].arms["best"]["AP"].mean == pytest.approx(55.5)  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"--max-dets 100: .* use 20, 300"):
        compare(two, max_dets=100)


def test_a_study_can_be_named_control(make_study: Any) -> None:
    first, second = make_study("a", arms={"trial_0": PUBLISHED, "best": BETTER}), make_study("b")
    assert compare([first, second]).controls == ()
    assert compare([second], controls=[first]).controls == ("a",)
    assert compare([first, second], controls=[first]).controls == ("a",)


def test_other_data_are_neither_ranked_nor_subtracted(make_study: Any) -> None:
    arms = {"trial_0": PUBLISHED, "best": BETTER}
    other = make_study("other", method="baseline", arms=arms, overrides={"data.glyphs.seed": "1"})
    found = compare([make_study("mine", arms=arms), other])
    assert found.refusal == "Not ranked: the studies differ in data."
    assert [study.rank for study in found.studies] == [None, None]
    assert found.differences[0].reason == "they differ in data"
    assert set(found.differences[0].values.values()) == {None}


def test_another_number_of_trials_is_not_ranked(make_study: Any) -> None:
    arms = {"trial_0": PUBLISHED, "best": BETTER}
    found = compare([make_study("a", arms=arms), make_study("b", arms=arms, tuned=(50.0, 52.0))])
    assert found.refusal == "Not ranked: the studies differ in number of trials (2, 4)."
    assert found.common_trials == 2


def test_without_a_confirmation_nothing_is_ranked(make_study: Any) -> None:
    found = compare([make_study("a", arms={"trial_0": PUBLISHED, "best": BETTER}), make_study("b")])
    assert found.refusal == "Not ranked: no confirmation of b."
    assert "b: not confirmed on the report half at 20 detections; lttune resume b" in found.notes


def test_a_running_study_says_so(make_study: Any) -> None:
    found = compare([make_study("new", tuned=(), num_trials=9)])
    assert found.notes == ["new: its search is not complete, 0 of 9 trials are", "new: no trial is COMPLETE"]
    assert found.refusal is None
    assert (found.studies[0].rank, found.studies[0].expected_best) == (None, ())


def test_a_gain_at_the_lower_limit_only_is_flagged(make_study: Any) -> None:
    record = make_study("mine", arms={"trial_0": PUBLISHED, "best": BETTER})
    state = json.loads(record.folder.confirmation.read_text())
    for seed in state["seeds"]:
        state["runs"]["best"][str(seed)]["300"] = state["runs"]["trial_0"][str(seed)]["300"]
    again = replace(record, confirmation=replace(record.confirmation, runs=state["runs"]))
    assert "mine: its gain in AP exists at 20 detections per image, not at 300" in compare([again]).notes


def test_as_json_it_holds_no_nan(two: list[Any]) -> None:
    document = compare(two).to_json()
    text = json.dumps(document, allow_nan=False)
    assert json.loads(text) == document
    assert document["differences"][0]["values"]["AP"]["is_shown"] is True
    assert document["differences"][0]["values"]["AP_r"]["mean"] is None
    assert len(document["studies"][0]["expected_best"]) == 4


def test_two_studies_of_one_name_are_refused(make_study: Any, tmp_path: Any) -> None:
    first = make_study("mine")
    (tmp_path / "elsewhere").mkdir()
    first.folder.path.rename(tmp_path / "elsewhere" / "mine")
    moved = replace(first, folder=StudyFolder(tmp_path / "elsewhere" / "mine"))
    with pytest.raises(InputError, match="two studies are called 'mine'"):
        compare([make_study("mine"), moved])


def test_seeds_that_are_missing_are_counted(make_study: Any) -> None:
    record = make_study("mine", arms={"trial_0": PUBLISHED, "best": BETTER[:3]})
    found = compare([record])
    assert "mine: confirmed with 3 of 5 seeds" in found.notes
    assert found.studies[0].gains["total"]["AP"].num == 3  # type: ignore[union-attr]
