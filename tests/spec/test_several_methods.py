"""Searches that sample the method, and values that depend on a choice."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lttune.engine.config import Recipe
from lttune.errors import SpecError
from lttune.losses.acsl import Acsl
from lttune.spec.load import load_spec
from lttune.spec.search import SearchSpec
from lttune.spec.yaml_text import to_yaml

SETTING = """\
data: {glyphs: {num_categories: 6, num_train_images: 12, num_val_images: 8, size_px: 64, seed: 1}}
detector: {name: tiny_mask_rcnn_fpn, class_agnostic_box: true, class_agnostic_mask: true}
stage1: {optim: {name: adamw, lr: 1e-3}, schedule: {epochs: 1, batch_size: 4, policy: one_cycle}}
optim: {name: adamw, lr: 0.01}
schedule: {epochs: 3, batch_size: 4, policy: one_cycle}
full: {optim: {name: adamw, lr: 0.004}, schedule: {epochs: 2, batch_size: 4, policy: one_cycle}}
"""
SPACE = """\
schema: 1
on: here
search: {trials: 6}
space:
  method: {choice: [acsl, ecm, rog], default: ecm}
  loss.score_threshold: {float: [0.1, 0.9], default: 0.7, when: {method: acsl}}
  loss.gamma: {float: [0.0, 2.0], default: 1.0, when: {method: rog}}
  sampler.name: {choice: [uniform, repeat]}
  sampler.threshold: {float: [0.001, 0.1], default: 0.01, when: {sampler.name: repeat}}
  optim.lr:
    - {float: [0.001, 0.1], log: true, when: {method: acsl}}
    - {float: [0.0005, 0.02], log: true, when: {method: [ecm, rog]}}
"""
Load = Callable[..., SearchSpec]


def recipe_of(method: str) -> Recipe:
    return Recipe(parts=("classifier",)) if method in {"acsl", "loce"} else Recipe(parts="all", fidelity="full")


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads the space with one text in the place of another."""
    (tmp_path / "on").mkdir()
    (tmp_path / "on" / "here.yaml").write_text(SETTING)

    def load(old: str = "", new: str = "", **overrides: str) -> SearchSpec:
        assert old in SPACE
        (tmp_path / "space.yaml").write_text(SPACE.replace(old, new, 1) if old else SPACE)
        return load_spec(tmp_path / "space.yaml", recipe_of=recipe_of, overrides=overrides)

    return load


def test_every_method_starts_with_its_defaults_the_default_method_first(load: Load) -> None:
    spec = load()
    assert spec.methods == ("ecm", "acsl", "rog")
    ecm, acsl, rog = spec.initial()
    assert ecm == spec.defaults() == {"method": "ecm", "sampler.name": "uniform", "optim.lr": 0.004}
    assert acsl == {"method": "acsl", "loss.score_threshold": 0.7, "sampler.name": "uniform", "optim.lr": 0.01}
    assert rog == {"method": "rog", "loss.gamma": 1.0, "sampler.name": "uniform", "optim.lr": 0.004}


def test_a_trial_is_resolved_for_its_method(load: Load) -> None:
    spec = load()
    acsl, ecm = spec.resolve({"method": "acsl", "optim.lr": 0.05}), spec.resolve({"method": "ecm"})
    assert (acsl.method, acsl.fidelity, acsl.schedule.epochs, acsl.optim.lr) == ("acsl", "cached", 3, 0.05)
    assert (ecm.method, ecm.fidelity, ecm.schedule.epochs, ecm.recipe.parts) == ("ecm", "full", 2, "all")
    with pytest.raises(SpecError, match=r"loss.gamma is not a value of ecm"):
        spec.resolve({"method": "ecm", "loss.gamma": 1.0})


def test_draws_have_names_of_their_own_and_are_active_for_their_choices(load: Load) -> None:
    draws = {draw.name: draw for draw in load().draws()}
    assert list(draws) == [
        "method",
        "loss.score_threshold",
        "loss.gamma",
        "sampler.name",
        "sampler.threshold",
        "optim.lr [method=acsl]",
        "optim.lr [method=ecm|rog]",
    ]
    assert draws["loss.gamma"].is_active({"method": "rog"})
    assert not draws["loss.gamma"].is_active({"method": "ecm"})
    assert not draws["sampler.threshold"].is_active({"method": "rog", "sampler.name": "uniform"})
    assert draws["sampler.threshold"].is_active({"method": "rog", "sampler.name": "repeat"})
    assert {draw.key for draw in draws.values() if draw.name.startswith("optim")} == {"optim.lr"}


def test_the_optimisers_part_of_a_gain_keeps_all_but_the_loss_values(load: Load) -> None:
    spec = load()
    best = {"method": "rog", "loss.gamma": 0.3, "sampler.name": "repeat", "sampler.threshold": 0.02, "optim.lr": 0.01}
    assert spec.optimiser_only(best) == {**best, "loss.gamma": 1.0}
    assert spec.optimiser_only({**best, "loss.gamma": 1.0}) is None
    assert spec.optimiser_only({**spec.defaults("rog"), "loss.gamma": 0.3}) is None


def test_it_survives_being_written_and_read(load: Load, tmp_path: Path) -> None:
    spec = load()
    (tmp_path / "again.yaml").write_text(to_yaml(spec.to_document()))
    again = load_spec(tmp_path / "again.yaml", recipe_of=recipe_of)
    assert again.initial() == spec.initial()
    assert list(again.draws()) == list(spec.draws())


def test_a_value_is_set_for_the_methods_that_have_it(load: Load) -> None:
    spec = load(**{"loss.score_threshold": "0.5", "schedule.epochs": "1"})
    assert spec.methods == ("ecm", "acsl", "rog")
    assert spec.resolve({"method": "acsl"}).loss == Acsl.Hyperparameters(score_threshold=0.5)
    assert [spec.resolve({"method": method}).schedule.epochs for method in spec.methods] == [1, 1, 1]
    with pytest.raises(SpecError, match=r"--set loss.score is not a value of ecm"):
        load(**{"loss.score": "0.5"})


def test_one_method_can_be_chosen(load: Load) -> None:
    spec = load("  loss.gamma: {float: [0.0, 2.0], default: 1.0, when: {method: rog}}\n", "", method="rog")
    assert spec.methods == ("rog",)
    assert spec.initial() == [{"method": "rog", "sampler.name": "uniform", "optim.lr": 0.004}]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("[acsl, ecm, rog]", "[acsl, ecm, rogg]", "space.method: 'rogg' is not a method. Did you mean 'rog'?"),
        ("on: here", "on: here\nmethod: acsl", "method: name one method here, or several as `method: {choice:"),
        ("{choice: [acsl, ecm, rog], default: ecm}", "{int: [1, 2]}", "space.method: is no plain choice; write"),
        ("trials: 6", "trials: 2", "search.trials is 2, but each of the 3 methods starts with its default; use"),
        (", when: {method: rog}}", "}", "space.loss.gamma is not a value of ecm. Known: "),
        ("{method: rog}", "{method: log}", "space.loss.gamma.when.method: 'log' is not a method. Did"),
        ("{sampler.name: repeat}", "{optim.name: sgd}", "when: 'optim.name' is no choice above it in `space`"),
        ("{method: [ecm, rog]}", "{method: [acsl, rog]}", "space.optim.lr[1]: can be active together with one"),
        ("0.001, 0.1], log", "0, 0.1], log", "space.optim.lr[0]: lower end 0.0 cannot be on a log"),
        ("{float: [0.0005, 0.02]", "{flot: [0.0005, 0.02]", "space.optim.lr[1]: write exactly one"),
        ("[0.0005, 0.02]", "[0.0005, 200]", "space.optim.lr[1]: upper end is 200.0; use a value above 0"),
        ("[0.0005, 0.02]", "[0.005, 0.02]", "space.optim.lr[1]: the setting's value 0.004 is not in"),
    ],
)
def test_faults_are_named_with_their_place(old: str, new: str, fault: str, load: Load) -> None:
    with pytest.raises(SpecError) as caught:
        load(old, new)
    assert fault in str(caught.value)


def test_a_jitter_that_cached_features_do_not_have_is_refused_in_the_file(load: Load) -> None:
    with pytest.raises(SpecError, match=r"loss.jitter_amplitude: lower end is 0.02; cached features hold"):
        load(
            "  loss.gamma: {float: [0.0, 2.0], default: 1.0, when: {method: rog}}\n",
            "  loss.jitter_amplitude: {float: [0.02, 0.3], when: {method: loce}}\n",
            method="loce",
        )
