"""What the trained models of a study tell: equal to what their trials recorded, and nothing where they are gone."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lttune.engine.prepare import prepare
from lttune.engine.run import TrainingRun
from lttune.reporting.models import inspect_models, sample_images
from lttune.reporting.records import StudyRecord, read_record
from lttune.spec.load import load_spec
from lttune.tuning.study import StudyFolder, StudyStore
from lttune.types import TrialResult
from trainables import recipe_of

SPEC = """\
schema: 1
method: acsl
search: {trials: 2, seed: 7}
space:
  optim.lr: {float: [1e-3, 1e-2], log: true}
on:
  data: {glyphs: {num_categories: 2, num_train_images: 24, num_val_images: 16, size_px: 64, seed: 1}}
  detector:
    name: tiny_mask_rcnn_fpn
    class_agnostic_box: true
    class_agnostic_mask: true
    num_train_proposals: 20
    num_test_proposals: 20
    num_rois: 8
    score_threshold: 0.0
  stage1: {optim: {name: adamw, lr: 4e-3}, schedule: {epochs: 8, batch_size: 4, policy: one_cycle}}
  optim: {name: adamw, lr: 0.01}
  schedule: {epochs: 1, batch_size: 4, policy: one_cycle}
  evaluation: {max_dets: 20}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    """A study of two trials that were really trained."""
    root = tmp_path_factory.mktemp("models")
    (root / "space.yaml").write_text(SPEC)
    spec = load_spec(root / "space.yaml").with_recipes(recipe_of)
    folder = StudyFolder(root / "mine")
    folder.create(spec)
    store = StudyStore(folder, spec, is_driver=True)
    for number in range(2):
        params = store.parameters(store.ask())
        config = spec.resolve(params)
        run = TrainingRun(config, prepare(config, root / "cache", lambda *_: None, num_threads=1))
        run.advance()
        run.save(folder.checkpoint(number))
        metrics = run.history[-1].metrics
        store.tell(TrialResult(number=number, state="COMPLETE", params=params, metrics=metrics, fidelity="cached"))
    return read_record(folder, recipe_of)


@pytest.fixture
def copy(trained: StudyRecord, tmp_path: Path) -> StudyRecord:
    """The study in a place where it may be damaged."""
    shutil.copytree(trained.folder.path.parent, tmp_path / "runs")
    return read_record(StudyFolder(tmp_path / "runs" / "mine"), recipe_of)


def test_categories_are_measured_as_the_trials_were(trained: StudyRecord) -> None:
    found = inspect_models(trained, lambda *_: None)
    assert found.notes == ()
    best = trained.result.best_trial
    first = trained.trial(0)
    assert best is not None
    assert first is not None
    assert best.metrics["AP"] > first.metrics["AP"] > 0
    assert len(found.categories) == 2
    for trial, what in ((first, "published"), (best, "best")):
        values = [category.values[what] for category in found.categories]
        assert np.nanmean(values) == pytest.approx(trial.metrics["AP"], abs=1e-9)
    assert all(category.num_images > 0 and category.group in "rcf" for category in found.categories)
    assert {category.name for category in found.categories} != {""}


def test_pairs_show_annotations_and_detections(trained: StudyRecord) -> None:
    pairs = inspect_models(trained, lambda *_: None).pairs
    assert 0 < len(pairs) <= 6
    assert len({pair.file_name for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert pair.annotated.size == pair.detected.size == (320, 320)
    assert any(np.asarray(pair.annotated).tolist() != np.asarray(pair.detected).tolist() for pair in pairs)


def test_the_report_half_is_not_looked_at(trained: StudyRecord) -> None:
    inspect_models(trained, lambda *_: None)
    assert not (trained.folder.path / "report_looks.jsonl").exists()


def test_progress_is_told(trained: StudyRecord) -> None:
    told: list[tuple[str, int, int]] = []
    inspect_models(trained, lambda *what: told.append(what))
    assert told[-1] == ("evaluation", told[-1][2], told[-1][2])


def test_without_its_stage_1_model_nothing_is_trained(copy: StudyRecord) -> None:
    for folder in copy.cache.glob("stage1-*"):
        shutil.rmtree(folder, ignore_errors=True)
    found = inspect_models(copy, lambda *_: None)
    assert found.notes == ("AP of categories and detections are left out: the cache holds no stage 1 of this study.",)
    assert (found.categories, found.pairs) == ((), ())
    assert not [folder for folder in copy.cache.glob("stage1-*") if folder.is_dir()]


def test_without_a_checkpoint_nothing_is_claimed(copy: StudyRecord) -> None:
    shutil.rmtree(copy.folder.path / "checkpoints")
    found = inspect_models(copy, lambda *_: None)
    assert found.notes == ("AP of categories and detections are left out: the best trial has no checkpoint.",)


def test_a_damaged_checkpoint_is_named(copy: StudyRecord) -> None:
    assert copy.result.best is not None
    copy.folder.checkpoint(copy.result.best).write_bytes(b"no checkpoint")
    (note,) = inspect_models(copy, lambda *_: None).notes
    assert "not a readable checkpoint" in note


def test_a_model_that_is_not_the_recorded_one_is_flagged(copy: StudyRecord) -> None:
    for trial in copy.complete:
        trial.metrics["AP"] += 1  # type: ignore[index]
    notes = inspect_models(copy, lambda *_: None).notes
    assert any("recorded AP" in note and "its checkpoint gives" in note for note in notes)


def test_images_of_every_group_are_chosen(trained: StudyRecord) -> None:
    annotations = inspectable(trained)
    chosen = sample_images(annotations, 6)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= 6
    groups = annotations.frequency_group
    shown = groups[annotations.annotation_category[np.isin(annotations.annotation_image, chosen)]]
    assert set(shown) == set(groups[annotations.annotation_category])


def inspectable(record: StudyRecord) -> Any:
    return prepare(record.config, record.cache, lambda *_: None).half("tune")
