"""Studies are alike only where data, setting and search are."""

import json
from dataclasses import replace
from typing import Any

import pytest

from lttune.engine.config import DataConfig, SplitPaths
from lttune.reporting.identity import MEASURED_ON, identity, what_differs


def differing(*records: Any) -> list[str]:
    return what_differs([identity(record) for record in records])


def test_methods_with_the_same_search_are_alike(make_study: Any) -> None:
    assert differing(make_study("a"), make_study("b", method="baseline"), make_study("c", tuned=(1, 2, 3, 4))) == []


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ({"data.glyphs.seed": "3"}, "data"),
        ({"detector.nms_iou": "0.6"}, "detector"),
        ({"input.flip": "0.5"}, "input"),
        ({"stage1.seed": "4"}, "stage 1"),
        ({"evaluation.max_dets": "100"}, "detections per image"),
        ({"schedule.epochs": "3"}, "epochs and batches"),
        ({"sampler.name": "repeat"}, "sampler"),
        ({"optim.lr": "0.01"}, "optimiser ranges"),
        ({"optim.weight_decay": "0.01"}, "optimiser ranges"),
        ({"objective.metric": "AP_r"}, "objective"),
    ],
)
def test_each_difference_has_a_name(override: dict[str, str], name: str, make_study: Any) -> None:
    assert differing(make_study("a"), make_study("b", overrides=override)) == [name]


def test_what_is_tried_first_is_no_difference(make_study: Any) -> None:
    assert differing(make_study("a"), make_study("b", overrides={"search.seed": "5"})) == []


def test_trials_that_failed_do_not_count(make_study: Any) -> None:
    assert differing(make_study("a"), make_study("b", tuned=(50.0, None, 51.0, 52.0))) == ["number of trials"]


def test_another_recipe_differs_but_was_measured_on_the_same(make_study: Any) -> None:
    records = [make_study("a"), make_study("b", method="ecm")]
    assert "what trains" in differing(*records)
    assert what_differs([identity(record) for record in records], MEASURED_ON) == []


def test_generated_annotations_are_compared_where_they_are_kept(make_study: Any) -> None:
    record = make_study("a")
    unknown = identity(record)
    assert unknown["annotations"] is None
    folder = record.cache / "glyphs-0123"
    folder.mkdir(parents=True)
    (folder / "train.json").write_text(json.dumps({"info": {"config": unknown["data"]}}))
    (folder / "val.json").write_text("{}")
    known = identity(record)
    assert len(known["annotations"]) == 2
    assert what_differs([known, unknown]) == []
    assert what_differs([known, {**known, "annotations": ["0", known["annotations"][1]]}]) == ["annotations"]


def test_given_annotations_are_compared_by_their_bytes(make_study: Any, tmp_path: Any) -> None:
    (tmp_path / "images").mkdir()
    for name, text in (("one", "{}"), ("same", "{}"), ("other", "[]")):
        (tmp_path / f"{name}.json").write_text(text)
    record = make_study("a")

    def data(name: str) -> Any:
        paths = SplitPaths(annotations=str(tmp_path / f"{name}.json"), images=str(tmp_path / "images"))
        setting = record.spec.on.model_copy(update={"data": DataConfig(train=paths, val=paths)})
        return identity(replace(record, spec=record.spec.model_copy(update={"on": setting})))["data"]

    assert data("one") == data("same") != data("other")
    assert data("gone") == [str(tmp_path / "gone.json")] * 2
