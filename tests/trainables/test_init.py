"""Every method has a trainable with its recipe, and every search space that comes with lttune has a method with one."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from lttune.detectors.base import PARTS
from lttune.losses import LOSSES
from lttune.spec.load import load_spec
from trainables import TRAINABLES, AnyTrainable, recipe_of, trainable_for

SPACES = sorted(path.stem for path in Path(str(files("search_spaces"))).glob("*.yaml"))


def test_every_method_has_a_row_and_a_recipe() -> None:
    assert TRAINABLES.keys() == LOSSES.keys()
    for method, trainable in TRAINABLES.items():
        recipe = trainable.recipe(method)
        assert recipe.fidelity == ("full" if recipe.parts == "all" else "cached"), method
        assert recipe.parts == "all" or set(recipe.cached_parts) <= set(recipe.parts) <= set(PARTS), method
        assert bool(recipe.left_out) == (recipe.parts != recipe.cached_parts), method
        assert AnyTrainable.recipe(method) == recipe_of(method) == recipe


def test_one_method_is_run_by_its_own_class_and_several_by_one_that_knows_all() -> None:
    assert trainable_for(["acsl"]) is TRAINABLES["acsl"]
    assert trainable_for(["acsl", "ecm"]) is AnyTrainable


def test_every_method_has_a_space() -> None:
    of_a_method = {"acsl", "ecm", "loce", "logit_adjustment", "rog", "seesaw"}
    assert of_a_method | {"baseline", "baseline_full", "all"} <= set(SPACES)


@pytest.mark.parametrize("name", SPACES)
def test_trial_0_runs_the_published_values(name: str) -> None:
    spec = load_spec(name, recipe_of=recipe_of)
    assert set(spec.methods) <= TRAINABLES.keys()
    for method in spec.methods:
        config = spec.resolve(spec.defaults(method))
        assert config.loss == LOSSES[method].Hyperparameters()
        assert config.fidelity == ("full" if "recipe.parts" in spec.fixed else recipe_of(method).fidelity)


@pytest.mark.parametrize("name", ["ecm", "rog", "seesaw", "baseline_full", "logit_adjustment_full"])
def test_methods_on_images_get_short_schedules_and_gentle_rates(name: str) -> None:
    spec = load_spec(name, on="glyphs", recipe_of=recipe_of)
    config = spec.resolve(spec.defaults())
    assert config.schedule.epochs == 2
    assert spec.search.trials == 8
    assert config.optim.lr < spec.on.optim.lr


# The table of published training recipes: what a method's authors' code trained with, at 16 images a batch.
@pytest.mark.parametrize(
    ("name", "setting", "values"),
    [
        ("acsl", "lvis_v05_r50_mmdet_1x", (0.02, 35, 12, (8, 11), 500, 1 / 3, "uniform", False, False)),
        ("loce", "lvis_v1_r50_mmdet_2x", (0.02, None, 6, (3, 5), 500, 1e-3, "uniform", False, True)),
        ("ecm", "lvis_v1_r50_mmdet_1x", (0.02, 5, 12, (8, 11), 10_000, 1e-4, "repeat", True, True)),
        ("rog", "lvis_v1_r50_mmdet_1x", (0.02, 5, 12, (8, 11), 500, 1e-4, "repeat", False, False)),
        ("rog", "lvis_v1_r50_mmdet_2x", (0.02, 5, 24, (16, 22), 500, 1e-4, "repeat", False, False)),
        ("seesaw", "lvis_v1_r50_mmdet_2x", (0.02, 5, 24, (16, 22), 500, 1e-3, "repeat", True, True)),
    ],
)
def test_published_recipes(name: str, setting: str, values: tuple[object, ...]) -> None:
    spec = load_spec(name, on=setting, recipe_of=recipe_of, needs_files=False)
    config = spec.resolve(spec.defaults())
    optim, schedule, detector = config.optim, config.schedule, config.detector
    assert values == (
        optim.lr,
        optim.clip_norm,
        schedule.epochs,
        schedule.drop_epochs,
        schedule.warmup_iters,
        schedule.warmup_ratio,
        config.sampler.name,
        detector.normed_classifier,
        detector.normed_mask,
    )
    assert not config.has_own_values
    assert config.recipe.start == ("weights" if config.recipe.parts == "all" else "stage1")


def test_half_the_batch_halves_the_published_rate_once() -> None:
    options: Any = {"on": "lvis_v1_r50_mmdet_1x", "recipe_of": recipe_of, "needs_files": False}
    spec = load_spec("ecm", overrides={"schedule.batch_size": "8"}, **options)
    assert spec.resolve({}).optim.lr == 0.01
    assert spec.resolve({}).schedule.warmup_iters == 10_000
    assert spec.resolve({"optim.lr": 0.02}).optim.lr == 0.02
    assert spec.resolve({}).stage1.optim.lr == 0.02
    stage1 = load_spec("ecm", overrides={"stage1.schedule.batch_size": "8"}, **options)
    assert stage1.resolve({}).stage1.optim.lr == 0.01
    assert any("0.01 at a batch of 8, scaled linearly from a batch of 16" in note for note in spec.notes())
