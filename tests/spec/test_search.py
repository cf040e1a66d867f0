"""A spec resolves to a complete configuration, and nothing of it can be changed."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from lttune.engine.config import OptimConfig, Recipe
from lttune.errors import InputError, SpecError
from lttune.evaluation.lvis_ap import Metrics
from lttune.losses import LOSSES
from lttune.losses.acsl import AcslHyperparameters
from lttune.losses.rog import RogHyperparameters
from lttune.spec.load import load_spec
from lttune.spec.search import METRICS, SearchSpec, searchable_keys
from lttune.spec.yaml_text import to_yaml

Load = Callable[..., SearchSpec]
Lines = Callable[..., list[str]]
HEADS = Recipe(parts=("classifier", "box_regressor"), cached_parts=("classifier", "box_regressor"), fidelity="cached")

SPACE_LINE = "  loss.score_threshold: {float: [0.05, 0.95], default: 0.7}\n"
LR_LINE = "  optim.lr: {float: [1e-3, 0.1], log: true}\n"
ROG = [("method: acsl", "method: rog"), (SPACE_LINE, "  loss.gamma: {float: [0, 2]}\n")]


# ---- the four traps of configurations


def test_unknown_keys_are_refused_where_a_dataclass_alone_would_drop_them(faults: Lines) -> None:
    alone = TypeAdapter(OptimConfig).validate_python({"lr": 1.0, "lrr": 2.0})
    assert alone == OptimConfig(lr=1.0)
    assert faults(setting=(("lr: 0.01}", "lr: 0.01, lrr: 2}"),)) == [
        "on/here.yaml: optim.lrr: unknown key. Did you mean 'lr'?"
    ]


def test_ranges_hold_for_python_callers_and_name_the_field_in_a_file(faults: Lines) -> None:
    with pytest.raises(InputError, match=r"^optim\.lr is -1; use a value above 0"):
        OptimConfig(lr=-1)
    assert faults(setting=(("lr: 0.01}", "lr: -1}"),)) == [
        "on/here.yaml: optim.lr is -1.0; use a value above 0 and below 100."
    ]


def test_nothing_can_be_changed_however_deep(load: Load) -> None:
    spec = load(sets={"loss.rounding": "stochastic"})
    config = spec.resolve({})
    assert hash(config) == hash(spec.resolve({}))
    with pytest.raises(ValidationError, match="frozen"):
        spec.search.trials = 5  # type: ignore[misc]
    for values in (spec.space, spec.fixed):
        with pytest.raises(TypeError, match="does not support item assignment"):
            values["optim.lr"] = 1  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        config.optim.lr = 1.0  # type: ignore[misc]


def test_short_numbers_are_numbers(load: Load) -> None:
    spec = load()
    assert spec.space["optim.lr"].ends == (0.001, 0.1)
    assert spec.on.stage1.optim.lr == 0.001


# ---- resolving


def test_values_come_from_params_then_fixed_then_the_setting_then_the_publication(load: Load) -> None:
    spec = load(sets={"loss.background_ratio_rare": "0.2", "optim.weight_decay": "0.3"})
    config = spec.resolve({"loss.score_threshold": 0.4})
    assert config.loss == AcslHyperparameters(score_threshold=0.4, background_ratio_rare=0.2)
    assert (config.optim.lr, config.optim.weight_decay) == (0.01, 0.3)
    assert config.seed == 7
    assert config.evaluation.max_dets == 20
    assert spec.resolve({"optim.lr": 0.05}).optim.lr == 0.05


def test_trial_0_has_the_defaults_else_the_settings_values(load: Load) -> None:
    assert load().defaults() == {"loss.score_threshold": 0.7, "optim.lr": 0.01}
    spec = load((SPACE_LINE, "  loss.background_ratio_rare: {float: [0.008, 1.0]}\n"))
    assert spec.defaults()["loss.background_ratio_rare"] == 0.01


@pytest.mark.parametrize(("choice", "value"), [("[null, 5.0]", 5.0), ("[null, 5.0], default: null", None)])
def test_null_is_a_default_like_any_other(choice: str, value: Any, load: Load) -> None:
    spec = load(
        (LR_LINE, f"  optim.clip_norm: {{choice: {choice}}}\n"), setting=(("lr: 0.01}", "lr: 0.01, clip_norm: 5.0}"),)
    )
    assert spec.defaults()["optim.clip_norm"] == value


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"optim.lr": 200}, "optim.lr is 200.0; use a value above 0 and below 100."),
        ({"optim.lr": "abc"}, "optim.lr: 'abc' is not a number."),
        ({"optim.lr": True}, "optim.lr: true is not a number."),
        ({"schedule.epochs": 1.5}, "schedule.epochs: 1.5 is not a whole number."),
        ({"schedule.epochs": "3"}, "schedule.epochs: '3' is not a whole number."),
        ({"loss.scor": 1}, "loss.scor is not a value of acsl. Did you mean 'loss.score_threshold'?"),
        ({"score_threshold": 1}, "score_threshold is not a value of acsl. Did you mean 'loss.score_threshold'?"),
        ({"recipe.x": 1}, "recipe.x is not a value of acsl. Did you mean 'recipe.parts'?"),
        ({"zzz": 1}, "zzz is not a value of acsl. Known: optim, schedule, sampler, loss."),
        (
            {"evaluation.max_dets": 5},
            "evaluation.max_dets belongs to the setting, which all trials share; it cannot be searched.",
        ),
    ],
)
def test_wrong_params_are_refused_in_one_sentence(params: dict[str, Any], message: str, load: Load) -> None:
    with pytest.raises(SpecError) as caught:
        load().resolve(params)
    assert str(caught.value) == message


def test_every_wrong_param_is_reported(load: Load) -> None:
    with pytest.raises(SpecError) as caught:
        load().resolve({"optim.lr": -1, "loss.score_threshold": 2, "schedule.epochs": 0})
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("asked", "heads", "recipe", "fidelity"),
    [
        ("auto", "box, mask", Recipe(parts=("classifier",), fidelity="cached"), "cached"),
        ("auto", "box, mask", Recipe(parts="all", fidelity="full"), "full"),
        ("auto", "box", Recipe(parts=("classifier",), fidelity="cached"), "cached"),
        ("auto", "mask", Recipe(parts=("classifier",), fidelity="cached"), "cached"),
        ("auto", "", Recipe(parts=("classifier",), fidelity="cached"), "cached"),
        ("auto", "box, mask", HEADS, "cached"),
        ("auto", "box", HEADS, "full"),
        ("auto", "mask", HEADS, "full"),
        ("cached", "", HEADS, "cached"),
        ("full", "box, mask", Recipe(parts=("classifier",), fidelity="cached"), "full"),
        ("cached", "box, mask", Recipe(parts=("classifier",), fidelity="full"), "cached"),
    ],
)
def test_fidelity(asked: str, heads: str, recipe: Recipe, fidelity: str, load: Load) -> None:
    sets = {
        "fidelity": asked,
        "detector.class_agnostic_box": str("box" in heads).lower(),
        "detector.class_agnostic_mask": str("mask" in heads).lower(),
    }
    assert load(sets=sets).resolve({}, lambda method: recipe).fidelity == fidelity


@pytest.mark.parametrize(
    ("parts", "trained", "fidelity"),
    [
        ("all", "all", "full"),
        ("classifier", ("classifier",), "cached"),
        ("[classifier, box_regressor]", ("classifier", "box_regressor"), "cached"),
        ("classifier, mask_head", ("classifier", "mask_head"), "full"),
    ],
)
def test_parts_can_be_fixed(parts: str, trained: object, fidelity: str, load: Load) -> None:
    config = load(sets={"recipe.parts": parts}).resolve({}, lambda method: Recipe(parts="all", fidelity="full"))
    assert (config.recipe.parts, config.fidelity) == (trained, fidelity)


def test_boxes_move_on_cached_features_where_no_mask_depends_on_the_category(load: Load) -> None:
    sets = {"detector.name": "faster_rcnn_r50_fpn", "detector.class_agnostic_mask": "false"}
    assert load(sets=sets).resolve({}, lambda method: HEADS).fidelity == "cached"


def test_cached_fidelity_is_refused_where_it_would_be_wrong(load: Load) -> None:
    with pytest.raises(SpecError, match=r"fidelity is cached, but recipe.parts is all; use `fidelity: full`, or leave"):
        load(sets={"fidelity": "cached"}).resolve({"recipe.parts": "all"})


# ---- groups of hyperparameters


def test_every_loss_has_its_single_values_as_keys() -> None:
    for method, loss in LOSSES.items():
        keys = searchable_keys(method)
        assert len(set(keys)) == len(keys)
        for field in fields(loss.Hyperparameters):
            assert any(key == f"loss.{field.name}" or key.startswith(f"loss.{field.name}.") for key in keys) or (
                field.name in {"cross_entropy"}  # a group without values
            )
    assert {"loss.object_loss", "loss.seesaw.p", "loss.acsl.score_threshold"} <= set(searchable_keys("rog"))
    assert "loss.seesaw" not in searchable_keys("rog")


def test_values_of_a_group_are_resolved(load: Load) -> None:
    spec = load(
        *ROG, (LR_LINE, "  loss.seesaw.p: {float: [0, 2]}\n"), sets={"loss.object_loss": "seesaw", "loss.seesaw.q": "3"}
    )
    assert spec.defaults() == {"loss.gamma": 1.0, "loss.seesaw.p": 0.8}
    loss = spec.resolve({"loss.seesaw.p": 0.3, "loss.gamma": 0.5}).loss
    assert isinstance(loss, RogHyperparameters)
    assert (loss.gamma, loss.object_loss) == (0.5, "seesaw")
    assert (loss.seesaw.p, loss.seesaw.q, loss.seesaw.eps) == (0.3, 3.0, 0.01)


def test_faults_in_a_group_have_its_key_path(faults: Lines) -> None:
    assert faults(*ROG, (LR_LINE, "  loss.seesaw.p: {float: [0, 200]}\n")) == [
        "space.yaml: space.loss.seesaw.p: upper end is 200.0; it is the power of a ratio of counts, "
        "use a value in [0, 100]."
    ]
    assert faults(*ROG, (LR_LINE, "  loss.seesaw.pp: {float: [0, 2]}\n")) == [
        "space.yaml: space.loss.seesaw.pp is not a value of rog. Did you mean 'loss.seesaw.p'?"
    ]
    (line,) = faults(*ROG, sets={"loss.seesaw": "3"})
    assert line.startswith("--set loss.seesaw is not a value of rog. ")


# ---- writing a spec out


def test_metrics_are_those_of_the_evaluator() -> None:
    empty = np.full((4, 10, 1), np.nan)
    names = Metrics(ap=empty, recall=empty, frequency_group=np.zeros(1, np.int64)).summary()
    assert set(METRICS) == {"AP", "AP_r", "AP_c", "AP_f"} | {f"{t}/{n}" for t in ("segm", "bbox") for n in names}


_positive = st.floats(1e-6, 10, allow_nan=False)


@st.composite
def _spaces(draw: st.DrawFn) -> dict[str, Any]:
    space: dict[str, Any] = {}
    if draw(st.booleans()):
        low, high = sorted(draw(st.tuples(st.floats(0.01, 0.49), st.floats(0.5, 0.99))))
        space["loss.score_threshold"] = {"float": [low, high], "default": draw(st.floats(low, high))}
    if draw(st.booleans()):
        low = draw(st.integers(1, 3))
        space["schedule.epochs"] = {"int": [low, low + 4], "log": draw(st.booleans()), "default": low}
    if draw(st.booleans()):
        values = draw(st.lists(st.none() | _positive, min_size=1, max_size=3, unique=True))
        space["optim.clip_norm"] = {"choice": values, "default": values[0]}
    space["optim.lr"] = {"float": [1e-3, draw(st.floats(0.02, 99))], "log": draw(st.booleans())}
    return space


@settings(max_examples=25, deadline=None)
@given(
    space=_spaces(),
    description=st.text(max_size=20),
    trials=st.integers(1, 1000),
    seed=st.integers(0, 2**40),
    sampler=st.sampled_from(["tpe", "random"]),
    mode=st.sampled_from(["max", "min"]),
    metric=st.sampled_from(METRICS),
    fixed=st.dictionaries(st.sampled_from(["optim.weight_decay", "loss.background_ratio_rare"]), st.floats(0, 0.99)),
    weight_decay=st.floats(0, 0.99),
    asha=st.none() | st.fixed_dictionaries({"first_rung_epochs": st.integers(1, 3)}),
)
def test_a_spec_survives_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    space: dict[str, Any],
    description: str,
    trials: int,
    seed: int,
    sampler: str,
    mode: str,
    metric: str,
    fixed: dict[str, float],
    weight_decay: float,
    asha: dict[str, int] | None,
) -> None:
    schedule = {"epochs": 3, "batch_size": 4}
    document = {
        "schema": 1,
        "method": "acsl",
        "objective": {"metric": metric, "mode": mode},
        "search": {"trials": trials, "seed": seed, "sampler": sampler, "asha": asha},
        "fixed": fixed,
        "space": space,
        "on": {
            "description": description,
            "data": {"glyphs": {"num_categories": 6, "num_train_images": 12}},
            "detector": {"name": "tiny_mask_rcnn_fpn"},
            "stage1": {"optim": {"lr": 0.1}, "schedule": schedule},
            "optim": {"lr": 0.01, "weight_decay": weight_decay},
            "schedule": {**schedule, "drop_epochs": [1, 2]},
        },
    }
    path: Path = tmp_path_factory.getbasetemp() / "generated.yaml"
    path.write_text(to_yaml(document), encoding="utf-8")
    spec = load_spec(path)
    path.write_text(to_yaml(spec.to_document()), encoding="utf-8")
    again = load_spec(path)
    assert again == spec
    assert again.defaults() == spec.defaults()
    assert again.resolve(again.defaults()) == spec.resolve(spec.defaults())
    assert again.to_document() == spec.to_document()


def test_workers_share_batches_equally(load: Load, faults: Lines) -> None:
    assert load(sets={"resources.workers": "2"}).resolve({}).schedule.batch_size == 4
    sentence = (
        "schedule.batch_size is 4, but resources.workers is 3 and all workers have as many images; use a multiple of 3."
    )
    assert any(sentence in line for line in faults(sets={"resources.workers": "3"}))
    parts = {"resources.workers": "2", "schedule.accumulate": "4"}
    assert any("of each of schedule.accumulate, 4, parts; use a multiple of 8." in line for line in faults(sets=parts))


def test_precision_and_loaders_are_the_settings(load: Load, faults: Lines) -> None:
    assert load().resolve({}).precision == "float32"
    config = load(sets={"precision": "bf16", "input.num_loaders": "2"}).resolve({})
    assert (config.precision, config.input.num_loaders) == ("bf16", 2)
    (line,) = faults(sets={"precision": "half"})
    assert "precision" in line
    assert "float32" in line
    with pytest.raises(SpecError, match="precision belongs to the setting, which all trials share"):
        load().check_key("precision", "acsl")
