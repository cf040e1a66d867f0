"""`lttune export` of a study's trial, in every format; where values go where they were not found, it has to be said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lttune.engine.prepare import prepare
from lttune.engine.run import TrainingRun
from lttune.spec.load import load_spec
from lttune.spec.yaml_text import parse_yaml
from lttune.tuning.study import StudyFolder, StudyStore
from lttune.types import TrialResult
from trainables import recipe_of

Run = Callable[..., Any]
SPACE = """\
schema: 1
method: acsl
search: {trials: 1, seed: 3}
fixed: {optim.clip_norm: 3}
space:
  loss.score_threshold: {float: [0.05, 0.95], default: 0.3}
  loss.background_ratio_rare: {float: [0.01, 1], default: 0.2}
  optim.lr: {float: [0.001, 0.1], default: 0.004}
on:
  description: two glyphs
  data: {glyphs: {num_categories: 2, num_train_images: 12, num_val_images: 8, size_px: 64, seed: SEED}}
  detector:
    name: tiny_mask_rcnn_fpn
    class_agnostic_box: true
    class_agnostic_mask: true
    num_train_proposals: 10
    num_test_proposals: 10
    num_rois: 8
    score_threshold: 0.0
  stage1: {optim: {name: adamw, lr: 4e-3}, schedule: {epochs: 1, batch_size: 4, policy: one_cycle}}
  optim: {name: adamw, lr: 0.01}
  schedule: {epochs: 1, batch_size: 4, policy: one_cycle}
  evaluation: {max_dets: 20}
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with a study `mine` of one COMPLETE trial, without Ray."""
    out = tmp_path_factory.mktemp("out")
    (out / "space.yaml").write_text(SPACE.replace("SEED", "1"))
    spec = load_spec(out / "space.yaml", recipe_of=recipe_of)
    folder = StudyFolder(out / "mine")
    folder.create(spec)
    store = StudyStore(folder, spec, is_driver=True)
    params = store.parameters(store.ask())
    config = spec.resolve(params)
    run = TrainingRun(config, prepare(config, out / "cache", lambda *_: None, num_threads=1))
    run.advance()
    run.save(folder.checkpoint(0))
    metrics = {**run.history[-1].metrics, "AP": 1.0}  # whatever so short a run finds, the trial is COMPLETE
    store.tell(TrialResult(number=0, state="COMPLETE", params=params, metrics=metrics, fidelity="cached"))
    return out


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another setting: other glyphs, another optimiser."""
    setting = parse_yaml(SPACE.replace("SEED", "2"), "space")["on"]
    setting |= {"description": "other glyphs", "optim": {"name": "sgd", "lr": 0.02}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(setting))
    return tmp_path / "other.yaml"


def test_the_best_trial_with_weights_and_metrics(out: Path, lttune: Run) -> None:
    ran = lttune("export", "mine", "--out", out, "--to", "best")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("Trial 0 of mine is in best; on the report half: AP ")
    metrics = json.loads(Path("best/metrics.json").read_text())
    again = json.loads(lttune("evaluate", "best", "--out", out, "--json").out)
    assert again == metrics["report"]


def test_for_the_official_repository_it_is_a_hypothesis(out: Path, lttune: Run) -> None:
    refused = lttune("export", "mine", "--out", out, "--to", "acsl", "--format", "mmdet")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.splitlines()[-1] == (
        "Error: the values of trial 0 of study mine were found on two glyphs, not on LVIS by "
        "github.com/CASIA-IVA-Lab/ACSL; add --transfer to write them as an unconfirmed hypothesis."
    )
    assert not Path("acsl").exists()
    ran = lttune("export", "mine", "--out", out, "--to", "acsl", "--format", "mmdet", "--transfer")
    assert ran.code == 0, ran.err
    assert "  loss.background_ratio_rare = 0.2\n" in ran.out
    namespace: dict[str, Any] = {}
    (path,) = Path("acsl/configs/acsl").iterdir()
    exec(path.read_text(), namespace)
    assert namespace["model"]["bbox_head"]["loss_cls"] == {"type": "ACSL", "score_thr": 0.3}
    assert namespace["optimizer"] == {"type": "AdamW", "lr": 0.004, "weight_decay": 1e-4}
    assert namespace["optimizer_config"] == {"grad_clip": {"max_norm": 3.0, "norm_type": 2}}
    assert "# UNCONFIRMED HYPOTHESIS" in path.read_text()


def test_for_another_setting_it_is_a_hypothesis(out: Path, other: Path, lttune: Run) -> None:
    arguments = ["export", "mine", "--out", out, "--to", "other_best", "--on", other]
    refused = lttune(*arguments)
    assert refused.code == 2
    assert "were found on two glyphs, not on other glyphs; add --transfer" in refused.err
    ran = lttune(*arguments, "--transfer")
    assert (ran.code, ran.out) == (0, "Trial 0 of mine is in other_best\n")
    spec = load_spec("other_best/config.yaml", recipe_of=recipe_of)
    config = spec.resolve(spec.defaults())
    assert config.data.glyphs is not None
    assert config.data.glyphs.seed == 2
    assert (config.loss.score_threshold, config.optim.lr) == (0.3, 0.004)  # type: ignore[attr-defined]
    # A sampled rate brings its optimiser with it.
    assert (config.optim.name, config.optim.clip_norm) == ("adamw", 3)
    assert (
        "# UNCONFIRMED HYPOTHESIS: nobody has tried these values on other glyphs"
        in Path("other_best/config.yaml").read_text()
    )


def test_for_detectron2(out: Path, lttune: Run) -> None:
    ran = lttune("export", "mine", "--out", out, "--to", "d2", "--format", "detectron2")
    assert ran.code == 0, ran.err
    assert {path.name for path in Path("d2").iterdir()} == {"config.yaml", "start.pth", "model.pth"}
    document = yaml.safe_load(Path("d2/config.yaml").read_text())
    assert document["optimizer"]["clip_norm"] == 3
    assert document["model"]["parts"] == ["classifier"]
    assert "random draws are detectron2's" in ran.out


def test_for_detectron2_on_another_setting(out: Path, other: Path, lttune: Run) -> None:
    arguments = ["--out", out, "--to", "d2", "--format", "detectron2", "--on", other, "--transfer"]
    ran = lttune("export", "mine", *arguments)
    assert ran.code == 0, ran.err
    assert {path.name for path in Path("d2").iterdir()} == {"config.yaml", "start.pth"}
    assert "# UNCONFIRMED HYPOTHESIS" in Path("d2/config.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trial", "first"], "'first' is not a trial; use its number, or best."),
        (["--trial", "7"], "study 'mine' has no trial 7; it has 1."),
        (["--format", "onnx"], "Invalid value for '--format'"),
        (["--on", "none.yaml", "--transfer"], "--on: none.yaml: there is no such setting file"),
        (["--format", "mmdet", "--on", "glyphs", "--transfer"], "--on does not go with --format mmdet"),
    ],
)
def test_what_is_wrong_writes_nothing(
    arguments: list[str], message: str, out: Path, lttune: Run, tmp_path: Path
) -> None:
    ran = lttune("export", "mine", "--out", out, "--to", "x", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert list(tmp_path.iterdir()) == []
