"""Finding the backend and building from a seed."""

import importlib
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lttune
import lttune.detectors
from lttune.detectors import ARCHITECTURES, BACKENDS, DetectorConfig, build_detector, resolve_backend
from lttune.detectors.trunks import ARCHITECTURES as TORCHVISION_ARCHITECTURES
from lttune.errors import InputError
from lttune.losses.base import ClassificationLoss

MakeLoss = Callable[[], ClassificationLoss]


def test_the_table_of_names_is_that_of_the_backend() -> None:
    assert set(ARCHITECTURES) == set(BACKENDS)
    assert ARCHITECTURES["torchvision"] == tuple(TORCHVISION_ARCHITECTURES)


@pytest.mark.parametrize("is_installed", [False, True])
def test_auto_takes_detectron2_where_it_is_there_and_knows_the_name(
    is_installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lttune.detectors, "find_spec", lambda name: object() if is_installed else None)
    expected = "detectron2" if is_installed else "torchvision"
    assert resolve_backend(DetectorConfig(name="mask_rcnn_r50_fpn")) == expected
    assert resolve_backend(DetectorConfig(name="mask_rcnn_r50_fpn", backend="torchvision")) == "torchvision"
    assert resolve_backend(DetectorConfig(name="mask_rcnn_r50_fpn", backend="detectron2")) == "detectron2"
    assert resolve_backend(DetectorConfig(name="tiny_mask_rcnn_fpn")) == "torchvision"
    assert resolve_backend(DetectorConfig(name="mask_rcnn_r50_fpn", recipe="mmdet")) == expected
    # What torchvision cannot build is detectron2's, there or not.
    assert resolve_backend(DetectorConfig(name="mask_rcnn_r50_fpn", recipe="d2")) == "detectron2"
    assert resolve_backend(DetectorConfig(name="cascade_rcnn_r50_fpn", class_agnostic_box=True)) == "detectron2"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "mask_rcnn_r50_fpn", "backend": "torchvision", "recipe": "d2"}, "recipe is d2, .*recipe: mmdet"),
        ({"name": "tiny_mask_rcnn_fpn", "recipe": "mmdet"}, "'tiny_mask_rcnn_fpn' follows no recipe"),
        ({"name": "tiny_mask_rcnn_fpn", "roi_align": "legacy"}, "leave out detector.recipe and detector.roi_align"),
        (
            {"name": "cascade_rcnn_r50_fpn", "class_agnostic_box": True, "backend": "torchvision"},
            "not known to the torchvision backend",
        ),
    ],
)
def test_a_backend_says_what_it_cannot_do(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_backend(DetectorConfig(**changes))


@pytest.mark.parametrize(
    ("name", "backend", "message"),
    [
        ("mask_rcnn_r5_fpn", "auto", "Did you mean 'mask_rcnn_r50_fpn'"),
        ("yolo", "auto", "Known: tiny_mask_rcnn_fpn, "),
    ],
)
def test_unknown_names_offer_known_ones(name: str, backend: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_backend(DetectorConfig(name=name, backend=backend))  # type: ignore[arg-type]


def test_importing_the_package_loads_no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lttune, "detectors", lttune.detectors)  # both are put back afterwards
    for name in list(sys.modules):
        if name.startswith(("lttune.detectors", "detectron2")):
            monkeypatch.delitem(sys.modules, name)
    importlib.import_module("lttune.detectors")
    assert "lttune.detectors.base" in sys.modules
    assert not {"detectron2", "lttune.detectors.detectron2", "lttune.detectors.torchvision"} & set(sys.modules)
    for name in list(sys.modules):
        if name.startswith("lttune.detectors"):
            monkeypatch.delitem(sys.modules, name)


def test_weights_follow_the_seed_and_leave_the_global_generator(tiny: DetectorConfig, make_loss: MakeLoss) -> None:
    before = torch.get_rng_state()
    first, again, other = (
        build_detector(tiny, num_classes=5, make_loss=make_loss, seed=seed).state_dict() for seed in (7, 7, 8)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["box_regressor.weight"], other["box_regressor.weight"])


def test_given_weights_are_loaded_and_what_is_missing_is_logged(
    tiny: DetectorConfig, make_loss: MakeLoss, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = build_detector(tiny, num_classes=5, make_loss=make_loss, seed=1).state_dict()
    path = tmp_path / "stage1.pth"
    torch.save({name: value for name, value in source.items() if name != "stage.classifier.bias"}, path)
    with caplog.at_level(logging.INFO, logger="lttune.detectors"):
        loaded = build_detector(replace(tiny, weights=str(path)), num_classes=5, make_loss=make_loss, seed=2)
    assert all(torch.equal(value, source[name]) for name, value in loaded.state_dict().items() if "bias" not in name)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "stage.classifier.bias" in caplog.text


def test_normed_layers_take_the_temperature(tiny: DetectorConfig, make_loss: MakeLoss) -> None:
    config = replace(tiny, normed_classifier=True, normed_mask=True, temperature=12.0)
    detector = build_detector(config, num_classes=5, make_loss=make_loss, seed=0)
    assert detector.stages[0].classifier.temperature == 12.0
    assert detector.parts["mask_head"].predictor.temperature == 12.0
