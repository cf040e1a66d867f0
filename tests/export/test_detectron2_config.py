"""An exported folder in detectron2's own lazy-config machinery, as its stock training script uses it."""

import importlib
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from lttune.detectors import DetectorConfig
from lttune.engine.config import ScheduleConfig
from lttune.engine.optim import lr_factor
from lttune.export.detectron2_config import lr_multiplier, write_detectron2
from lttune.export.origin import Origin

Scene = Any  # of conftest.py

pytestmark = [
    pytest.mark.slow,
    pytest.mark.detectron2,
    pytest.mark.skipif(
        find_spec("detectron2") is None, reason="detectron2 is not installed; see its own installation guide"
    ),
    # detectron2 uses parts of torch that are deprecated; its users cannot mend it.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def detectron2() -> SimpleNamespace:
    names = ("config", "engine", "checkpoint", "evaluation")
    return SimpleNamespace(**{name: importlib.import_module(f"detectron2.{name}") for name in names})


@pytest.fixture(scope="module")
def folder(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detectron2")
    config = scene.spec.resolve(scene.trial.params)
    origin = Origin.of(config, scene.assets, trial="trial 1 of study mine", setting=scene.spec.on.description)
    write_detectron2(config, scene.assets, origin, checkpoint=scene.checkpoint, folder=folder, at=folder)
    return folder


@pytest.fixture
def cfg(folder: Path, detectron2: SimpleNamespace, tmp_path: Path) -> Any:
    cfg = detectron2.config.LazyConfig.load(str(folder / "config.yaml"))
    changes = [f"train.output_dir={tmp_path}", "train.device=cpu"]
    changes += [f"dataloader.{split}.num_workers=0" for split in ("train", "test")]
    return detectron2.config.LazyConfig.apply_overrides(cfg, changes)


def test_the_configuration_is_plain_yaml_with_a_header(folder: Path) -> None:
    text = (folder / "config.yaml").read_text()
    document = yaml.safe_load(text)  # so that nothing in it runs
    assert set(document) == {"model", "optimizer", "lr_multiplier", "dataloader", "train"}
    assert text.startswith("# Written by lttune")
    assert "# Found on: two lines: of text; fidelity cached" in text
    assert document["model"]["loss"]["score_threshold"] == 0.4
    assert document["optimizer"]["lr"] == 0.02
    assert document["train"]["max_iter"] == 6


def test_two_iterations_train_the_classifier_alone(cfg: Any, detectron2: SimpleNamespace) -> None:
    instantiate = detectron2.config.instantiate
    model = instantiate(cfg.model).to(cfg.train.device).train()
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    trainer = detectron2.engine.SimpleTrainer(model, instantiate(cfg.dataloader.train), optimizer)
    trainer.register_hooks([detectron2.engine.hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier))])
    checkpointer = detectron2.checkpoint.DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert torch.equal(
        before["detector.stage.classifier.weight"], _saved(cfg, "start")["detector.stage.classifier.weight"]
    )
    trainer.train(0, 2)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"detector.stage.classifier.weight", "detector.stage.classifier.bias"}


def _saved(cfg: Any, name: str) -> dict[str, torch.Tensor]:
    path = Path(cfg.train.init_checkpoint).with_name(f"{name}.pth")
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
    return state


def test_its_evaluation_is_ours(cfg: Any, scene: Scene, detectron2: SimpleNamespace) -> None:
    instantiate = detectron2.config.instantiate
    model = instantiate(cfg.model).eval()
    missing = model.load_state_dict(_saved(cfg, "model"))
    assert not missing.missing_keys
    found = detectron2.evaluation.inference_on_dataset(
        model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    )
    flat = {f"{kind}/{name}": value for kind, values in found.items() for name, value in values.items()}
    ours = {name: value for name, value in scene.metrics["all"].items() if "/" in name}
    assert flat == pytest.approx(ours, abs=1e-9, nan_ok=True)


def test_a_cascade_is_built_from_plain_values_and_trains_its_classifiers() -> None:
    model = importlib.import_module("lttune.export.detectron2_model")
    structures = importlib.import_module("detectron2.structures")
    detector = asdict(DetectorConfig(name="cascade_rcnn_r50_fpn", class_agnostic_box=True, recipe="mmdet"))
    detector.pop("weights")
    built = model.build_model(
        method="acsl",
        loss={},
        detector=detector,
        image_count=[50, 5],
        instance_count=[60, 6],
        parts=["classifier"],
        has_given_weights=True,
        max_dets=5,
    ).train()
    boxes = structures.Boxes(torch.tensor([[8.0, 8.0, 40.0, 40.0]]))
    instances = structures.Instances((64, 64), gt_boxes=boxes, gt_classes=torch.tensor([1]))
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    losses = built([{"image": image, "instances": instances}])
    assert set(losses) == {f"loss_cls_stage{stage}" for stage in range(3)}
    sum(losses.values()).backward()
    trained = {name for name, value in built.named_parameters() if value.grad is not None}
    assert len(trained) == 6
    assert all(".stage.classifier." in name for name in trained)


def test_gradients_are_clipped_in_the_step(detectron2: SimpleNamespace) -> None:
    model = importlib.import_module("lttune.export.detectron2_model")
    weight = torch.nn.Parameter(torch.zeros(4))
    values = {"name": "sgd", "lr": 1.0, "weight_decay": 0.0, "momentum": 0.0}
    for clip_norm, expected in ((None, 8.0), (1.0, 1.0)):
        optimizer = model.build_optimizer([{"params": [weight]}], clip_norm=clip_norm, **values)
        with torch.no_grad():
            weight.zero_()
        weight.grad = torch.full((4,), 4.0)
        optimizer.step()
        assert float(weight.detach().norm()) == pytest.approx(expected)


def test_repeat_factors_are_whole_where_they_are_to_be(scene: Scene, folder: Path) -> None:
    model = importlib.import_module("lttune.export.detectron2_model")
    data = yaml.safe_load((folder / "config.yaml").read_text())["dataloader"]["train"]["dataset"]["data"]
    whole, drawn = (
        model.repeat_sampler(data=data, threshold=1.0, rounding=rounding, seed=0)
        for rounding in ("whole", "stochastic")
    )
    assert float(whole._frac_part.abs().max()) == 0
    assert float(drawn._frac_part.max()) > 0
    assert len(whole._int_part) == scene.assets.train.num_images


@pytest.mark.parametrize(
    "schedule",
    [
        ScheduleConfig(epochs=4, batch_size=2, policy="one_cycle", warmup_fraction=0.3),
        ScheduleConfig(epochs=4, batch_size=2, drop_epochs=(2, 3), warmup_iters=9, warmup_ratio=1e-2),
        ScheduleConfig(epochs=4, batch_size=2, drop_epochs=(3,), drop_factor=0.2),
    ],
)
def test_the_learning_rate_is_ours_at_every_iteration(schedule: ScheduleConfig, detectron2: SimpleNamespace) -> None:
    scheduler = detectron2.config.instantiate(lr_multiplier(schedule, 10))
    for step in range(40):
        assert scheduler(step / 40) == pytest.approx(lr_factor(schedule, step, 10), abs=1e-9), step
