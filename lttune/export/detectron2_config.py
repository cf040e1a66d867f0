"""A trial as a folder that detectron2's stock `tools/lazyconfig_train_net.py` trains and evaluates.

config.yaml   the nodes that the script asks for: model, optimizer, lr_multiplier, dataloader, train
start.pth     the weights that the trial started from
model.pth     the trained weights, where the trial was run on this setting
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lttune.engine.assets import Assets
from lttune.engine.config import ScheduleConfig, TrainConfig, plain
from lttune.engine.run import TrainingRun
from lttune.export.origin import Origin, commented
from lttune.spec.yaml_text import to_yaml

_MODEL = "lttune.export.detectron2_model"
_TRANSFORMS = "detectron2.data.transforms"


def write_detectron2(
    config: TrainConfig, assets: Assets, origin: Origin, *, checkpoint: Path | None, folder: Path, at: Path
) -> list[str]:
    """Write the files into `folder`.

    Args:
        config: of the trial, at whatever fidelity; the script trains on images.
        assets: of the setting that the configuration is for.
        checkpoint: the trial's, or None where it was run on another setting.
        at: where the folder will lie, for the path of the weights.

    Returns:
        What the script does differently, a line each; the same lines are in the configuration's header.
    """
    run = TrainingRun(config, assets, judged_on=None)
    _save(run, folder / "start.pth")
    if checkpoint is not None:
        run.restore(checkpoint)
        _save(run, folder / "model.pth")
    differs = _differences(run)
    header = [
        *origin.lines(),
        f"Train: tools/lazyconfig_train_net.py --config-file {at}/config.yaml",
        *(
            [f"Evaluate: the same with --eval-only train.init_checkpoint={at}/model.pth"]
            if checkpoint is not None
            else []
        ),
        "Wherever that runs, lttune has to be installed. On a machine without a GPU add train.device=cpu.",
        *(["Differs from training by lttune:"] if differs else []),
        *(f"  {line}" for line in differs),
    ]
    text = commented(header) + to_yaml(_document(run, assets, at))
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return differs


def _save(run: TrainingRun, path: Path) -> None:
    state = {f"detector.{name}": tensor.cpu() for name, tensor in run.detector.state_dict().items()}
    torch.save({"model": state}, path)


def _differences(run: TrainingRun) -> list[str]:
    lines = ["random draws are detectron2's, so a run is not repeated to the digit"]
    if run.config.fidelity == "cached":
        lines.append("features are computed from the images in each iteration, where the trial read cached ones")
    if any(stage.loss.num_warm_images for stage in run.detector.stages):
        lines.append("the pass that fills the loss's statistics before training is left out; they fill as it trains")
    if run.config.input.short_px:
        lines.append("images are resized by Pillow, whose pixels differ slightly from torch's")
    return lines


def _document(run: TrainingRun, assets: Assets, at: Path) -> dict[str, Any]:
    config = run.config
    data = {
        name: getattr(assets, name) for name in ("train_annotations", "train_images", "val_annotations", "val_images")
    }
    max_iter = config.schedule.epochs * run.steps_per_epoch
    document = {
        "model": _model(run, assets),
        "optimizer": {
            "_target_": f"{_MODEL}.build_optimizer",
            # The script puts the model in here.
            "params": {"_target_": "detectron2.solver.build.get_default_optimizer_params"},
            **asdict(config.optim),
        },
        "lr_multiplier": lr_multiplier(config.schedule, run.steps_per_epoch),
        "dataloader": _dataloader(config, data, has_masks=run.detector.has_masks),
        "train": {
            "output_dir": "./output",
            "init_checkpoint": str(at / "start.pth"),
            "max_iter": max_iter,
            "seed": config.seed,
            "amp": {"enabled": False},
            "ddp": {"broadcast_buffers": False, "find_unused_parameters": False, "fp16_compression": False},
            "checkpointer": {"period": max(1, max_iter // config.schedule.epochs), "max_to_keep": 2},
            "eval_period": 0,  # at the end alone
            "log_period": 20,
            "device": "cuda",
        },
    }
    return {key: plain(value) for key, value in document.items()}


def _model(run: TrainingRun, assets: Assets) -> dict[str, Any]:
    config, frequencies = run.config, assets.frequencies
    detector = asdict(config.detector)
    weights = detector.pop("weights")
    return {
        "_target_": f"{_MODEL}.build_model",
        "method": config.method,
        "loss": asdict(config.loss),
        "detector": detector,
        "image_count": frequencies.image_count.tolist(),
        "instance_count": frequencies.instance_count.tolist(),
        "parts": "all" if config.recipe.parts == "all" else list(config.recipe.parts),
        "has_given_weights": weights is not None,
        "max_dets": config.evaluation.max_dets,
        "images_per_process": config.schedule.images_per_process,
        "seed": config.seed,
    }


def lr_multiplier(schedule: ScheduleConfig, steps_per_epoch: int) -> dict[str, Any]:
    """The node of a fvcore scheduler that gives `lttune.engine.optim.lr_factor` at every iteration."""
    module, total = "fvcore.common.param_scheduler", schedule.epochs * steps_per_epoch
    if schedule.policy == "one_cycle":
        rise = max(1, round(schedule.warmup_fraction * total)) / total
        cosines = [
            {"_target_": f"{module}.CosineParamScheduler", "start_value": start, "end_value": end}
            for start, end in ((0.04, 1.0), (1.0, 0.0))
        ]
        return {
            "_target_": f"{module}.CompositeParamScheduler",
            "schedulers": cosines,
            "lengths": [rise, 1 - rise],
            "interval_scaling": ["rescaled", "rescaled"],
        }
    drops = [epoch for epoch in schedule.drop_epochs if epoch < schedule.epochs]
    steps: dict[str, Any] = {
        "_target_": f"{module}.MultiStepParamScheduler",
        "values": [schedule.drop_factor**i for i in range(len(drops) + 1)],
        "milestones": [epoch * steps_per_epoch for epoch in drops],
        "num_updates": total,
    }
    if not schedule.warmup_iters:
        return steps
    return {
        "_target_": "detectron2.solver.lr_scheduler.WarmupParamScheduler",
        "scheduler": steps,
        "warmup_factor": schedule.warmup_ratio,
        "warmup_length": min(1.0, schedule.warmup_iters / total),
        "warmup_method": "linear",
    }


def _dataloader(config: TrainConfig, data: dict[str, str], *, has_masks: bool) -> dict[str, Any]:
    mapper = {
        "_target_": "detectron2.data.DatasetMapper",
        "image_format": "RGB",
        "use_instance_mask": has_masks,
        "instance_mask_format": "bitmask",
    }
    sampler = None
    if config.sampler.name == "repeat":
        sampler = {
            "_target_": f"{_MODEL}.repeat_sampler",
            "data": data,
            "threshold": config.sampler.threshold,
            "rounding": config.sampler.rounding,
            "seed": config.seed,
        }
    return {
        "train": {
            "_target_": "detectron2.data.build_detection_train_loader",
            "dataset": {"_target_": f"{_MODEL}.load_records", "data": data, "split": "train"},
            "mapper": {**mapper, "is_train": True, "augmentations": _augmentations(config, is_train=True)},
            "sampler": sampler,
            "total_batch_size": config.schedule.batch_size,
            "num_workers": 2,
        },
        "test": {
            "_target_": "detectron2.data.build_detection_test_loader",
            "dataset": {"_target_": f"{_MODEL}.load_records", "data": data, "split": "all"},
            "mapper": {**mapper, "is_train": False, "augmentations": _augmentations(config, is_train=False)},
            "num_workers": 2,
        },
        "evaluator": {
            "_target_": f"{_MODEL}.LvisEvaluator",
            "data": data,
            "split": "all",
            "max_dets": config.evaluation.max_dets,
        },
    }


def _augmentations(config: TrainConfig, *, is_train: bool) -> list[dict[str, Any]]:
    sizes, nodes = config.input.short_px, []
    if sizes:
        nodes.append(
            {
                "_target_": f"{_TRANSFORMS}.ResizeShortestEdge",
                "short_edge_length": list(sizes) if is_train else [max(sizes)],
                "max_size": config.input.max_long_px,
                "sample_style": "choice",
            }
        )
    if is_train and config.input.flip:
        nodes.append({"_target_": f"{_TRANSFORMS}.RandomFlip", "prob": config.input.flip, "horizontal": True})
    return nodes
