"""What a comparison knows of a study, finished, running, or hardly begun."""

import json
import math
from typing import Any

import pytest

from lttune.errors import StudyError
from lttune.reporting.records import read_record
from lttune.tuning.study import StudyFolder
from trainables import recipe_of

ARMS = {"trial_0": [50.0, 51.0, 52.0, 50.0, 51.0], "best": [53.0, 53.5, 54.0, 53.0, 54.0]}


def test_a_finished_study(make_study: Any) -> None:
    record = make_study("mine", arms=ARMS)
    assert (record.name, record.method, record.trains, record.fidelity) == ("mine", "acsl", "classifier", "cached")
    assert record.result.best == 1
    assert record.tuned_values() == [50.0, 52.0, 51.0, 49.0]
    assert record.values("best", 20, "AP") == {1: 53.0, 2: 53.5, 3: 54.0, 4: 53.0, 5: 54.0}
    assert record.values("best", 300, "AP")[1] == 55.0
    assert math.isnan(record.values("best", 20, "AP_r")[1])
    assert record.stage1(20, "AP") == 30.0
    assert record.values("optimiser_only", 20, "AP") == {}
    assert record.trial(1).metrics["AP"] == 52.0
    assert record.trial(7) is None


def test_a_study_without_trials_or_confirmation(make_study: Any) -> None:
    record = make_study("new", tuned=())
    assert not record.folder.journal.exists()
    assert (record.result.best, record.complete, record.confirmation) == (None, [], None)
    assert record.values("best", 20, "AP") == {}
    assert record.stage1(20, "AP") is None


def test_reading_changes_nothing(make_study: Any) -> None:
    record = make_study("mine", arms=ARMS)
    before = {path: path.read_bytes() for path in record.folder.path.rglob("*") if path.is_file()}
    read_record(record.folder, recipe_of)
    assert before == {path: path.read_bytes() for path in record.folder.path.rglob("*") if path.is_file()}


def test_where_trial_0_is_best_it_stands_for_all_arms(make_study: Any) -> None:
    record = make_study("mine", tuned=(53.0, 52.0), arms={"trial_0": ARMS["trial_0"]})
    for arm in ("best", "optimiser_only"):
        assert record.values(arm, 20, "AP") == record.values("trial_0", 20, "AP") != {}


def test_where_only_the_optimiser_was_searched_it_brought_everything(make_study: Any) -> None:
    record = make_study("ce", method="baseline", arms=ARMS)
    assert record.method == "cross_entropy"
    assert record.values("optimiser_only", 20, "AP") == record.values("best", 20, "AP") != {}


def test_where_only_the_loss_was_searched_the_optimiser_brought_nothing(make_study: Any) -> None:
    record = make_study("acsl", overrides={"optim.lr": "0.01"}, arms=ARMS)
    assert record.values("optimiser_only", 20, "AP") == record.values("trial_0", 20, "AP") != {}


def test_an_unfinished_confirmation(make_study: Any) -> None:
    record = make_study("mine", arms=ARMS)
    state = json.loads(record.folder.confirmation.read_text())
    del state["stage1"], state["runs"]["best"]
    record.folder.confirmation.write_text(json.dumps(state))
    again = read_record(record.folder, recipe_of)
    assert again.values("best", 20, "AP") == {}
    assert len(again.values("trial_0", 20, "AP")) == 5
    assert again.stage1(20, "AP") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"runs": {}}'])
def test_a_damaged_confirmation_is_refused(text: str, make_study: Any) -> None:
    record = make_study("mine")
    record.folder.confirmation.write_text(text)
    with pytest.raises(StudyError, match=r"confirmation\.json: not a confirmation .*lttune resume mine"):
        read_record(record.folder, recipe_of)


def test_a_study_that_is_not_there(make_study: Any) -> None:
    folder = make_study("mine").folder.path.with_name("min")
    with pytest.raises(StudyError, match="there is no study 'min'"):
        read_record(StudyFolder(folder), recipe_of)
