"""Every method has a trainable with its recipe, and every search space that comes with lttune has a method with one."""

from importlib.resources import files
from pathlib import Path

import pytest

from lttune.detectors.base import PARTS
from lttune.losses import LOSSES
from lttune.spec.load import load_spec
from trainables import TRAINABLES

SPACES = sorted(path.stem for path in Path(str(files("search_spaces"))).glob("*.yaml"))


def test_every_method_has_a_row_and_a_recipe() -> None:
    assert TRAINABLES.keys() == LOSSES.keys()
    for method, trainable in TRAINABLES.items():
        recipe = trainable.recipe(method)
        trains_classifier_alone = recipe.parts == ("classifier",)
        assert recipe.fidelity == ("cached" if trains_classifier_alone else "full"), method
        assert recipe.parts == "all" or set(recipe.parts) <= set(PARTS), method


def test_every_method_has_a_space() -> None:
    of_a_method = {"acsl", "ecm", "loce", "logit_adjustment", "rog", "seesaw"}
    assert of_a_method | {"baseline"} <= set(SPACES)


@pytest.mark.parametrize("name", SPACES)
def test_every_space_names_a_method_with_a_row(name: str) -> None:
    spec = load_spec(name)
    assert spec.method in TRAINABLES
    assert name in {spec.method, "baseline"}


@pytest.mark.parametrize("name", SPACES)
def test_trial_0_runs_the_published_values(name: str) -> None:
    spec = load_spec(name)
    config = spec.resolve(spec.defaults(), TRAINABLES[spec.method].recipe(spec.method))
    assert config.loss == LOSSES[spec.method].Hyperparameters()
    assert config.fidelity == config.recipe.fidelity


@pytest.mark.parametrize("name", ["ecm", "loce", "rog", "seesaw"])
def test_methods_on_images_get_short_schedules_and_gentle_rates(name: str) -> None:
    spec = load_spec(name, on="glyphs")
    config = spec.resolve(spec.defaults(), TRAINABLES[name].recipe(name))
    assert config.schedule.epochs == 2
    assert spec.search.trials == 8
    assert config.optim.lr < spec.on.optim.lr
