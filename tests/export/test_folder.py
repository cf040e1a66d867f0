"""An exported trial stands alone: it measures the same again, and a search goes on from its values."""

import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest
from safetensors.torch import load_file, save_file

from lttune.engine.assets import Half
from lttune.engine.run import TrainingRun
from lttune.errors import CacheError, InputError
from lttune.export.folder import evaluate_folder, export_values, with_defaults
from lttune.export.origin import Origin
from lttune.spec.load import load_spec

Scene = Any  # of conftest.py
PARAMS = {"loss.score_threshold": 0.4, "optim.lr": 0.02}


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
    run = TrainingRun(scene.spec.resolve(PARAMS), scene.assets)
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
    assert spec.with_recipes(lambda _: scene.recipe).resolve(spec.defaults()) == scene.spec.resolve(PARAMS)
    assert spec.on == scene.spec.on
    assert spec.fixed == scene.spec.fixed
    assert (scene.spec.defaults()["loss.score_threshold"], spec.defaults()["loss.score_threshold"]) == (0.7, 0.4)


def test_the_header_says_where_the_values_were_found(scene: Scene) -> None:
    head = (scene.folder / "config.yaml").read_text().split("schema:")[0]
    assert "trial 1 of study mine, method acsl." in head
    assert "# Found on: two lines: of text; fidelity cached; adamw at a batch of 4." in head
    assert "generated, 2 categories, annotations sha256" in head
    assert "HYPOTHESIS" not in head


def test_provenance_environment_and_card(scene: Scene) -> None:
    provenance = json.loads((scene.folder / "provenance.json").read_text())
    assert (provenance["trial"], provenance["params"]) == ("trial 1 of study mine", PARAMS)
    assert (provenance["found_on"]["fidelity"], provenance["seeds"]) == ("cached", {"training": 7, "stage1": 0})
    assert provenance["differs_from_published"][0] == "the second half"
    digests = provenance["found_on"]["data"]
    assert digests["train_sha256"] != digests["val_sha256"]
    environment = (scene.folder / "environment.txt").read_text().splitlines()
    assert environment[0].startswith("# Python 3.")
    assert {line.split("==")[0] for line in environment} >= {"lttune", "torch", "ray", "optuna", "mlflow"}
    card = (scene.folder / "README.md").read_text()
    assert "# Trial 1 of study mine" in card
    assert "`loss.score_threshold`: 0.4" in card
    assert "lttune evaluate best --split report" in card
    assert digests["train_sha256"] in card
    assert "| nan |" not in card


def test_defaults_of_alternatives_are_those_of_the_active_one(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "schema: 1\non: glyphs\nsearch: {trials: 4}\nspace:\n  method: {choice: [acsl, cross_entropy]}\n"
        "  loss.score_threshold: {float: [0.1, 0.9], when: {method: acsl}}\n"
        "  optim.lr:\n  - {float: [0.001, 0.1], when: {method: acsl}}\n"
        "  - {float: [0.001, 0.1], when: {method: cross_entropy}}\n"
    )
    spec = load_spec(tmp_path / "space.yaml")
    values = {"method": "cross_entropy", "optim.lr": 0.05}
    changed = with_defaults(spec, values)
    assert changed.defaults() == values
    assert changed.defaults("acsl")["optim.lr"] == spec.defaults("acsl")["optim.lr"] != 0.05


def test_values_for_another_setting_carry_no_weights(scene: Scene, tmp_path: Path) -> None:
    origin = Origin.of(
        scene.spec.resolve(PARAMS), scene.assets, trial="trial 1 of study mine", setting="x", transferred_to="LVIS"
    )
    export_values(with_defaults(scene.spec, PARAMS), scene.trial, origin, to=tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"config.yaml", "provenance.json", "README.md"}
    text = (tmp_path / "new" / "config.yaml").read_text()
    assert "# UNCONFIRMED HYPOTHESIS: nobody has tried these values on LVIS" in text
    assert load_spec(tmp_path / "new" / "config.yaml").defaults() == PARAMS
    assert "unconfirmed hypothesis" in (tmp_path / "new" / "README.md").read_text()


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
