"""Configurations for the official repositories: valid Python, values at their own keys, nothing dropped in silence."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lttune.errors import InputError
from lttune.export.acsl_config import acsl_config
from lttune.export.mmdet import REPOSITORIES, MmdetConfig, mmdet_config
from lttune.export.origin import Origin
from lttune.spec.load import load_spec
from trainables import recipe_of

Make = Callable[..., MmdetConfig]
# Every value that has a key, by method, with another value than the published one; and where it stands.
VALUES: dict[str, dict[str, tuple[Any, str]]] = {
    "acsl": {"loss.score_threshold": (0.41, "model.bbox_head.loss_cls.score_thr")},
    "loce": {
        "loss.momentum": (0.8, "model.train_cfg.rcnn.alpha"),
        "loss.background_score": (0.02, "model.train_cfg.rcnn.bg_score"),
        "loss.queue_size": (48, "model.train_cfg.rcnn.mfs.queue_size"),
        "loss.num_drawn_classes": (5, "model.train_cfg.rcnn.mfs.sampled_num_classes"),
        "loss.num_drawn_features": (3, "model.train_cfg.rcnn.mfs.sampled_num_features"),
    },
    "ecm": {"loss.fg_bg_ratio": (3.5, "model.roi_head.bbox_head.loss_cls.fg_bg_ratio")},
    "rog": {
        "loss.gamma": (0.5, "model.roi_head.bbox_head.gamma"),
        "loss.lam": (0.3, "model.roi_head.bbox_head.lam"),
    },
}
SEESAW = {
    "loss.object_loss": "seesaw",
    "loss.seesaw.p": 0.7,
    "loss.seesaw.q": 1.5,
}
OPTIM = {
    "optim.lr": (0.013, "optimizer.lr"),
    "optim.weight_decay": (2e-4, "optimizer.weight_decay"),
    "optim.momentum": (0.8, "optimizer.momentum"),
    "optim.clip_norm": (7.0, "optimizer_config.grad_clip.max_norm"),
}
EPOCHS = {"acsl": "total_epochs", "loce": "total_epochs", "ecm": "runner.max_epochs", "rog": "runner.max_epochs"}


def run(text: str) -> dict[str, Any]:
    """What the file says, in a namespace that has nothing but the language."""
    ast.parse(text)
    namespace: dict[str, Any] = {}
    exec(text, namespace)
    return {name: value for name, value in namespace.items() if name != "__builtins__"}


def at(document: Any, path: str) -> Any:
    """The value at a dotted path; of a list, that of its elements, which have to agree."""
    for i, name in enumerate(parts := path.split(".")):
        if isinstance(document, list):
            found = [at(element, ".".join(parts[i:])) for element in document]
            assert all(value == found[0] for value in found), found
            return found[0]
        document = document[name]
    return document


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes the configuration of a method with these sampled and fixed values, found on LVIS data."""
    for name in ("train.json", "val.json"):
        (tmp_path / name).touch()

    def write(
        method: str,
        sampled: dict[str, Any],
        *,
        fixed: dict[str, Any] | None = None,
        detector: str = "mask_rcnn_r50_fpn",
        is_normed: bool = False,
        num_categories: int = 1203,
        transferred_to: str | None = None,
        optimizer: str = "sgd",
        epochs: int = 9,
    ) -> MmdetConfig:
        (tmp_path / "space.yaml").write_text(
            f"""
schema: 1
method: {method}
search: {{trials: 1}}
space: {{}}
on:
  data:
    train: {{annotations: train.json, images: .}}
    val: {{annotations: val.json, images: .}}
  detector:
    name: {detector}
    class_agnostic_box: {str(detector.startswith("cascade")).lower()}
    normed_classifier: {str(is_normed).lower()}
    temperature: 15
    score_threshold: 2e-3
  stage1: {{optim: {{lr: 0.02}}, schedule: {{epochs: 1, batch_size: 16}}}}
  optim: {{name: {optimizer}, lr: 0.02, weight_decay: 3e-4}}
  schedule: {{epochs: {epochs}, batch_size: 16, drop_epochs: [5, 7], warmup_iters: 300, warmup_ratio: 0.01}}
  evaluation: {{max_dets: 250}}
"""
        )
        spec = load_spec(tmp_path / "space.yaml", recipe_of=recipe_of, data_root=tmp_path)
        spec = spec.model_copy(update={"fixed": fixed or {}})
        origin = Origin(
            trial="trial 3 of study mine",
            method=method,
            setting="my setting",
            is_generated=False,
            num_categories=num_categories,
            train_sha256="a" * 64,
            val_sha256="b" * 64,
            fidelity="full",
            optimizer=optimizer,
            batch_size=16,
            transferred_to=transferred_to,
        )
        return mmdet_config(spec.resolve(sampled), origin, sampled=sampled, fixed=spec.fixed)

    return write


@pytest.mark.parametrize("method", VALUES)
def test_every_value_stands_at_its_key(method: str, make: Make) -> None:
    values = {**VALUES[method], **OPTIM}
    made = make(method, {key: value for key, (value, _) in values.items()})
    document = run(made.text)
    for value, path in values.values():
        assert at(document, path) == value, path
    assert document["optimizer"]["type"] == "SGD"
    assert document["lr_config"]["step"] == [5, 7]
    assert (document["lr_config"]["warmup_iters"], document["lr_config"]["warmup_ratio"]) == (300, 0.01)
    assert at(document, EPOCHS[method]) == 9
    test = document["test_cfg"] if method == "acsl" else document["model"]["test_cfg"]
    assert (test["rcnn"]["max_per_img"], test["rcnn"]["score_thr"]) == (250, 2e-3)


@pytest.mark.parametrize(
    ("method", "detector", "base"),
    [
        ("acsl", "faster_rcnn_r50_fpn", "configs/acsl/faster_rcnn_r50_fpn_1x_lvis_tunefc_acsl"),
        ("acsl", "cascade_rcnn_r101_fpn", "configs/acsl/cascade_rcnn_r101_fpn_1x_lvis_tunefc_acsl"),
        ("acsl", "faster_rcnn_x101_64x4d_fpn", "configs/acsl/faster_rcnn_x101_64x4d_fpn_1x_lvis_tunefc_acsl"),
        ("loce", "mask_rcnn_r101_fpn", "configs/loce/loce_mask_rcnn_r101_fpn_normed_mask_mstrain_2x_lvis_v1"),
        ("ecm", "mask_rcnn_r50_fpn", "configs/effective_class_margin_loss/r50_ecm_1x"),
        ("ecm", "mask_rcnn_r101_fpn", "configs/effective_class_margin_loss/r101_ecm_2x"),
        ("rog", "mask_rcnn_r50_fpn", "configs/rog/rog_r50_sample1e-3_1x"),
    ],
)
def test_the_base_is_the_one_of_the_detector(
    method: str, detector: str, base: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lttune.spec.load.resolve_backend", lambda config: "torchvision")  # cascades by name alone
    made = make(method, {}, detector=detector)
    assert made.file_name == f"{base}_lttune.py"
    document = run(made.text)
    assert document.get("_base_") == (None if method == "acsl" else f"./{Path(base).name}.py")
    assert not any(line.startswith("detector.name") for line in made.left_out)


def test_rog_on_seesaw_has_its_own_base_and_keys(make: Make) -> None:
    made = make("rog", SEESAW, is_normed=True)
    head = run(made.text)["model"]["roi_head"]["bbox_head"]
    assert made.file_name == "configs/rog/rog_seesaw_r50_sample1e-3_2x_lttune.py"
    assert (head["loss_cls"], head["cls_predictor_cfg"]) == ({"p": 0.7, "q": 1.5}, {"tempearture": 15.0})
    assert not any("loss." in line for line in made.left_out)


def test_rog_on_cross_entropy_gets_no_value_that_it_would_refuse(make: Make) -> None:
    made = make("rog", {"loss.seesaw.p": 0.7}, is_normed=True)
    assert "loss_cls" not in run(made.text)["model"]["roi_head"]["bbox_head"]
    assert "loss.seesaw.p = 0.7" in made.left_out


def test_temperatures_are_spelled_as_the_code_reads_them(make: Make) -> None:
    head = run(make("ecm", {}, is_normed=True).text)["model"]["roi_head"]
    assert head["bbox_head"]["cls_predictor_cfg"] == {"tempearture": 15.0}
    assert head["mask_head"]["predictor_cfg"] == {"tempearture": 15.0}


@pytest.mark.parametrize(("method", "heads"), [("ecm", "model.roi_head.bbox_head"), ("acsl", "model.bbox_head")])
def test_a_cascade_has_all_three_heads_in_full(
    method: str, heads: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lttune.spec.load.resolve_backend", lambda config: "torchvision")
    key, (value, path) = next(iter(VALUES[method].items()))
    document = run(make(method, {key: value}, detector="cascade_mask_rcnn_r101_fpn").text)
    found: Any = document
    for name in heads.split("."):
        found = found[name]
    assert len(found) == 3
    assert at(document, path) == value
    stds = [head.get("target_stds") or head["bbox_coder"]["target_stds"] for head in found]
    assert [own[0] for own in stds] == [0.1, 0.05, 0.033]
    assert all(head["reg_class_agnostic"] and head["in_channels"] == 256 for head in found)


def test_what_has_no_key_is_listed_in_the_header(make: Make) -> None:
    sampled = {"loss.background_ratio_rare": 0.05, "loss.rounding": "stochastic"}
    made = make("acsl", sampled, fixed={"schedule.drop_factor": 0.2})
    for line in ("loss.background_ratio_rare = 0.05", "loss.rounding = stochastic", "schedule.drop_factor = 0.2"):
        assert line in made.left_out
        assert f"#   {line}\n" in made.text
    assert any(line.startswith("schedule.batch_size = 16: ") for line in made.left_out)
    assert "# Found on: my setting; fidelity full; sgd at a batch of 16." in made.text
    assert f"sha256 {'a' * 16} (train)" in made.text
    assert "HYPOTHESIS" not in made.text


@pytest.mark.parametrize("method", VALUES)
def test_every_key_of_a_method_is_written_or_listed(method: str, make: Make) -> None:
    sampled = {
        "acsl": {"loss.background_ratio_common": 0.2},
        "loce": {"loss.margin_exponent": 0.5, "loss.jitter_amplitude": 0.1},
        "ecm": {"loss.margin_exponent": 0.5, "loss.logit_factor": 1.5, "loss.class_weight_power": 0.5},
        "rog": {"loss.delta": 0.7, "loss.count_momentum": 0.999},
    }[method]
    made = make(method, sampled)
    assert {line.split(" = ")[0] for line in made.left_out} >= set(sampled)


def test_a_transfer_takes_what_was_sampled_and_leaves_the_rest_to_the_base(make: Make) -> None:
    made = make(
        "rog",
        {"loss.lam": 0.4, "optim.lr": 0.004},
        fixed={"schedule.epochs": 2, "optim.clip_norm": 5.0, "loss.gamma": 0.25},
        transferred_to="LVIS",
        optimizer="adamw",
    )
    document = run(made.text)
    assert set(document) == {"_base_", "model", "optimizer", "optimizer_config"}
    assert document["optimizer"] == {"_delete_": True, "type": "AdamW", "lr": 0.004, "weight_decay": 3e-4}
    assert document["model"] == {"roi_head": {"bbox_head": {"gamma": 0.25, "lam": 0.4}}}
    assert "schedule.epochs = 2: of the setting the values were found on" in made.left_out
    assert "# UNCONFIRMED HYPOTHESIS: nobody has tried these values on LVIS" in made.text


def test_a_transfer_of_loss_values_alone_keeps_the_optimiser_of_the_base(make: Make) -> None:
    document = run(make("ecm", {"loss.fg_bg_ratio": 2.0}, transferred_to="LVIS", optimizer="adamw").text)
    assert set(document) == {"_base_", "model"}


@pytest.mark.parametrize(("parts", "switch"), [("classifier", 1), ("all", 0)])
def test_what_trains_is_selectp(parts: str, switch: int, make: Make) -> None:
    made = make("acsl", {}, fixed={"recipe.parts": parts})
    assert run(made.text)["selectp"] == switch
    assert not any(line.startswith("recipe.parts") for line in made.left_out)


def test_parts_without_a_switch_are_listed(make: Make) -> None:
    made = make("loce", {}, fixed={"recipe.parts": "classifier"})
    assert "selectp" not in run(made.text)
    assert "recipe.parts = classifier" in made.left_out


def test_lvis_05_has_loces_other_configuration(make: Make) -> None:
    made = make("loce", {}, num_categories=1230)
    assert made.file_name.endswith("loce_mask_rcnn_r50_fpn_normed_mask_mstrain_2x_lvis_v0.5_lttune.py")


def test_a_method_without_a_repository_is_refused(make: Make) -> None:
    with pytest.raises(
        InputError, match=r"method seesaw has no official mmdetection repository \(acsl, loce, ecm, rog"
    ):
        make("seesaw", {})
    assert set(REPOSITORIES) == set(VALUES)


@pytest.mark.parametrize(
    ("backbone", "is_cascade"), [("r50", False), ("r101", False), ("x101", False), ("r101", True), ("x101", True)]
)
def test_acsl_is_published_with_its_threshold_everywhere(backbone: str, is_cascade: bool) -> None:
    document = acsl_config(backbone, is_cascade=is_cascade)
    assert at(document, "model.bbox_head.loss_cls") == {"type": "ACSL", "score_thr": 0.7}
    assert document["selectp"] == (3 if is_cascade else 1)
    assert ("groups" in document["model"]["backbone"]) == (backbone == "x101")
    assert len(document["train_cfg"]["rcnn"]) == (3 if is_cascade else 4)
