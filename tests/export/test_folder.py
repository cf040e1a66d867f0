"""An exported trial stands alone: it measures the same again, and a search goes on from its values."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from safetensors.torch import load_file, save_file

from lttune.engine.assets import Assets, Half
from lttune.engine.config import Recipe
from lttune.engine.prepare import prepare
from lttune.engine.run import TrainingRun
from lttune.errors import CacheError, InputError
from lttune.export.folder import evaluate_folder, export_trial
from lttune.spec.load import load_spec
from lttune.spec.search import SearchSpec
from lttune.types import TrialResult

RECIPE = Recipe(parts=("classifier",), fidelity="cached", left_out=("the second half",))
PARAMS = {"loss.score_threshold": 0.4, "optim.lr": 0.02}
SPEC = """\
schema: 1
method: acsl
search: {trials: 2, seed: 7}
fixed: {optim.weight_decay: 0.01}
space:
  loss.score_threshold: {float: [0.05, 0.95], default: 0.7}
  optim.lr: {float: [1e-3, 0.1], log: true}
on:
  description: "two\\nlines: of text"
  data: {glyphs: {num_categories: 2, num_train_images: 24, num_val_images: 16, size_px: 64, seed: 1}}
  detector:
    name: tiny_mask_rcnn_fpn
    class_agnostic_box: true
    class_agnostic_mask: true
    num_train_proposals: 20
    num_test_proposals: 20
    num_rois: 8
    score_threshold: 0.0
  stage1: {optim: {name: adamw, lr: 4e-3}, schedule: {epochs: 16, batch_size: 4, policy: one_cycle}}
  optim: {name: adamw, lr: 0.01}
  schedule: {epochs: 1, batch_size: 4, policy: one_cycle}
  evaluation: {max_dets: 20}
"""


@dataclass(frozen=True)
class Scene:
    """A finished trial, its shared assets and its export."""

    spec: SearchSpec
    assets: Assets
    cache: Path
    checkpoint: Path
    trial: TrialResult
    folder: Path
    metrics: dict[str, dict[str, float]]

    def export(self, to: Path, **changes: Any) -> dict[str, dict[str, float]]:
        options: dict[str, Any] = {"checkpoint": self.checkpoint, "study": "mine", "assets": self.assets, **changes}
        return export_trial(self.spec, self.trial, recipe=RECIPE, to=to, progress=lambda *_: None, **options)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    root = tmp_path_factory.mktemp("export")
    (root / "space.yaml").write_text(SPEC)
    spec = load_spec(root / "space.yaml")
    config = spec.resolve(PARAMS, RECIPE)
    assets = prepare(config, root / "cache", lambda *_: None, num_threads=1)
    run = TrainingRun(config, assets)
    run.advance()
    run.save(root / "0001.pt")
    trial = TrialResult(number=1, state="COMPLETE", params=PARAMS, metrics=run.history[-1].metrics, applied_hash="abc")
    scene = Scene(spec, assets, root / "cache", root / "0001.pt", trial, root / "best", {})
    scene.metrics.update(scene.export(scene.folder))
    return scene


@pytest.fixture
def copy(scene: Scene, tmp_path: Path) -> Path:
    """The exported files in a folder that may be damaged."""
    for path in scene.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("split", get_args(Half))
def test_the_folder_measures_the_same_to_the_last_digit(split: Half, scene: Scene) -> None:
    again = evaluate_folder(scene.folder, split=split, cache=scene.cache, progress=lambda *_: None)
    written = json.loads((scene.folder / "metrics.json").read_text())[split]
    assert repr(again) == repr(scene.metrics[split])
    assert {key: None if math.isnan(value) else value for key, value in again.items()} == written
    assert {"AP", "AP_r", "AP_c", "AP_f", "segm/AP", "bbox/AP", "segm/AR"} <= set(again)


def test_the_halves_are_measured_and_differ(scene: Scene) -> None:
    assert len({repr(metrics) for metrics in scene.metrics.values()}) == 3
    assert scene.metrics["all"]["bbox/AR"] > 0


def test_the_trained_classifier_is_in_the_folder(scene: Scene) -> None:
    run = TrainingRun(scene.spec.resolve(PARAMS, RECIPE), scene.assets)
    start = run.detector.parts["classifier"].state_dict()["weight"].clone()
    run.restore(scene.checkpoint)
    trained = run.detector.parts["classifier"].state_dict()["weight"]
    exported = load_file(scene.folder / "weights.safetensors")["classifier.weight"]
    assert exported.equal(trained)
    assert not exported.equal(start)


def test_measured_on_the_images_it_is_the_cached_trial(scene: Scene) -> None:
    assert scene.metrics["tune"]["AP"] == pytest.approx(scene.trial.metrics["AP"], abs=0.5)


def test_the_config_is_a_search_space_with_the_trials_values(scene: Scene) -> None:
    spec = load_spec(scene.folder / "config.yaml")
    assert spec.defaults() == PARAMS
    assert spec.resolve(spec.defaults(), RECIPE) == scene.spec.resolve(PARAMS, RECIPE)
    assert spec.on == scene.spec.on
    assert spec.fixed == scene.spec.fixed
    assert (scene.spec.defaults()["loss.score_threshold"], spec.defaults()["loss.score_threshold"]) == (0.7, 0.4)


def test_provenance_and_readme(scene: Scene) -> None:
    provenance = json.loads((scene.folder / "provenance.json").read_text())
    assert (provenance["study"], provenance["trial"], provenance["params"]) == ("mine", 1, PARAMS)
    assert (provenance["fidelity"], provenance["seeds"]) == ("cached", {"training": 7, "stage1": 0})
    assert provenance["differs_from_published"][0] == "the second half"
    assert set(provenance["versions"]) >= {"lttune", "torch", "ray", "optuna", "mlflow"}
    readme = (scene.folder / "README.md").read_text()
    assert "# Trial 1 of study mine" in readme
    assert "`loss.score_threshold`: 0.4" in readme
    assert "lttune evaluate best --split report" in readme


def test_another_limit_of_detections(scene: Scene) -> None:
    one = evaluate_folder(scene.folder, split="all", cache=scene.cache, progress=lambda *_: None, max_dets=1)
    assert one["bbox/AR"] <= scene.metrics["all"]["bbox/AR"]
    assert repr(one) != repr(scene.metrics["all"])  # fewer false positives at the least


def test_nothing_is_written_over(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for to in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="exists and is not an empty folder; name another one"):
            scene.export(to)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_missing_checkpoint(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trial 1 of mine has no checkpoint at .*; export another trial"):
        scene.export(tmp_path / "new", checkpoint=tmp_path / "none.pt")
    assert not (tmp_path / "new").exists()


def test_a_damaged_checkpoint_leaves_no_folder(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"bad")
    with pytest.raises(CacheError, match="not a readable checkpoint"):
        scene.export(tmp_path / "new", checkpoint=tmp_path / "bad.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]


def evaluate(folder: Path, scene: Scene) -> None:
    evaluate_folder(folder, split="tune", cache=scene.cache, progress=lambda *_: None)


@pytest.mark.parametrize("name", ["config.yaml", "weights.safetensors", "provenance.json"])
def test_a_folder_without_a_file_is_no_export(name: str, copy: Path, scene: Scene) -> None:
    (copy / name).unlink()
    with pytest.raises(InputError, match=rf"is not an exported folder: it has no {name}\. Make one: lttune export"):
        evaluate(copy, scene)


def test_damaged_weights(copy: Path, scene: Scene) -> None:
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CacheError) as caught:
        evaluate(copy, scene)
    assert str(caught.value).startswith(f"{weights}: not a readable safetensors file (")
    assert len(str(caught.value).splitlines()) == 1


def test_weights_of_another_detector(copy: Path, scene: Scene) -> None:
    state = load_file(copy / "weights.safetensors")
    state["classifier.weight"] = state["classifier.weight"][:2].contiguous()
    del state["classifier.bias"]
    save_file(state, copy / "weights.safetensors")
    with pytest.raises(CacheError, match=r"not the weights of this detector, 2 tensors do not fit \(classifier\."):
        evaluate(copy, scene)


@pytest.mark.parametrize("text", ["{", "{}", '{"recipe": 3}', '{"recipe": {"parts": ["tail"]}}'])
def test_damaged_provenance(text: str, copy: Path, scene: Scene) -> None:
    (copy / "provenance.json").write_text(text)
    with pytest.raises(InputError, match=r"provenance\.json: holds no recipe"):
        evaluate(copy, scene)
