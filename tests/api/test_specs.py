"""Search spaces from Python, of lttune's methods and of one's own."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lttune
from lttune.errors import SpecError
from lttune.types import CategoryFrequencies


@dataclass(frozen=True, kw_only=True)
class Values(lttune.LossHyperparameters):
    power: float = 2.0

    def __post_init__(self) -> None:
        if self.power < 0:
            raise ValueError(f"loss.power is {self.power}; use 0 or more.")


class Mine(lttune.ClassificationLoss):
    Hyperparameters = Values
    hyperparameters: Values

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss_cls": (logits.abs() ** self.hyperparameters.power).mean()}

    def scores(self, logits: Tensor) -> Tensor:
        return logits[:, :-1].sigmoid()


class MyTrainable(lttune.MethodTrainable):
    recipes = {"mine": lttune.Recipe(parts=("classifier", "box_regressor"), fidelity="full")}  # noqa: RUF012
    losses = {"mine": Mine}  # noqa: RUF012


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("schema: 1\nmethod: mine\non: glyphs\nspace: {loss.power: {float: [0, 4]}}\n")
    return path


def test_a_loss_of_ones_own_comes_with_every_configuration(space: Path) -> None:
    spec = lttune.load_spec(space, trainable=MyTrainable)
    assert spec.defaults() == {"loss.power": 2.0}
    config = spec.resolve({"loss.power": 3.0})
    assert (config.own_loss, config.loss) == (Mine, Values(power=3.0))
    assert config.recipe.parts == ("classifier", "box_regressor")
    assert config.to_dict()["own_loss"].endswith("Mine")


def test_lttunes_own_methods_carry_no_class() -> None:
    spec = lttune.load_spec("acsl", trainable=MyTrainable)
    config = spec.resolve(spec.defaults())
    assert config.own_loss is None
    assert "own_loss" not in config.to_dict()


def test_its_values_are_checked_as_all_others(space: Path) -> None:
    with pytest.raises(SpecError, match=r"--set loss\.power: value is -1\.0; use 0 or more"):
        lttune.load_spec(space, trainable=MyTrainable, overrides={"loss.power": -1.0, "search.trials": 1})
    with pytest.raises(SpecError, match=r"loss\.pover is not a value of mine"):
        lttune.load_spec(space, trainable=MyTrainable, overrides={"loss.pover": 1})


def test_without_its_trainable_the_method_is_unknown(space: Path) -> None:
    with pytest.raises(SpecError, match="'mine' is not a method"):
        lttune.load_spec(space)


def test_a_class_builds_as_a_name_does() -> None:
    counts = torch.tensor([3, 2])
    frequencies = CategoryFrequencies(image_count=counts, instance_count=counts, group=torch.zeros_like(counts))
    loss = lttune.build_loss(Mine, num_classes=2, frequencies=frequencies, power=1.0)
    assert float(loss(torch.full((1, 3), -2.0), torch.tensor([0]))["loss_cls"]) == 2


def test_overrides_are_plain_values() -> None:
    spec = lttune.load_spec(
        "acsl", overrides={"search.trials": 3, "loss.score_threshold": 0.5, "detector.backend": "auto"}
    )
    assert (spec.search.trials, spec.fixed["loss.score_threshold"]) == (3, 0.5)
