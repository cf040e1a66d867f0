"""A trial as a folder that stands alone: configuration, weights, metrics, and what they were found with.

config.yaml           a search space whose defaults are the trial's values, the setting in full
weights.safetensors   the whole detector, by part
metrics.json          on both halves, from the weights and the images
provenance.json       versions, seeds, fidelity, digests
README.md             what is in the folder
"""

import json
import platform
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lttune.engine.assets import Assets, Half, Progress
from lttune.engine.checkpoint import file_digest, replacing_folder, value_digest, write_json
from lttune.engine.config import Recipe, TrainConfig
from lttune.engine.prepare import prepare_data
from lttune.engine.run import TrainingRun
from lttune.engine.weights import save_weights
from lttune.errors import CacheError, InputError
from lttune.evaluation.report import headline
from lttune.spec.load import load_spec
from lttune.spec.search import SearchSpec
from lttune.spec.yaml_text import to_yaml
from lttune.types import TrialResult

_SPLITS: tuple[Half, ...] = ("tune", "report", "all")
_PACKAGES = ("lttune", "torch", "torchvision", "numpy", "ray", "optuna", "mlflow")


def export_trial(
    spec: SearchSpec,
    trial: TrialResult,
    *,
    study: str,
    recipe: Recipe,
    assets: Assets,
    checkpoint: Path,
    to: Path,
    progress: Progress,
) -> dict[str, dict[str, float]]:
    """Write a finished trial to a new folder.

    Args:
        recipe: what the trial's method trains.
        checkpoint: the trial's last one.
        to: a folder that does not exist or is empty.

    Returns:
        The metrics by half, measured on the images with the weights as written.

    Raises:
        InputError: the folder holds something, or the trial has no checkpoint.
    """
    check_export(trial, study=study, checkpoint=checkpoint, to=to)
    config = spec.resolve(trial.params, recipe)
    run = TrainingRun(config, assets, judged_on=None)
    run.restore(checkpoint)
    if to.exists():
        to.rmdir()
    with replacing_folder(to.absolute()) as folder:
        save_weights(run.detector, folder / "weights.safetensors")
        # A description of several lines would end the comment.
        setting = " ".join(spec.on.description.split()) or "its setting"
        (folder / "config.yaml").write_text(
            f"# Trial {trial.number} of study {study}: its values are the defaults, so a search tries them first.\n"
            f"# Found on: {setting}, fidelity {config.fidelity}.\n" + to_yaml(with_defaults(spec, trial).to_document()),
            encoding="utf-8",
        )
        metrics = _measure(config, assets, folder / "weights.safetensors", _SPLITS, None, progress)
        write_json(metrics, folder / "metrics.json")
        write_json(_provenance(config, trial, study, folder), folder / "provenance.json")
        (folder / "README.md").write_text(_readme(config, trial, study, metrics, to.name), encoding="utf-8")
    return metrics


def check_export(trial: TrialResult, *, study: str, checkpoint: Path, to: Path) -> None:
    """Refuse an export that cannot work, before anything is prepared for it.

    Raises:
        InputError: the folder holds something, or the trial has no checkpoint.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} exists and is not an empty folder; name another one.")
    if not checkpoint.is_file():
        raise InputError(f"trial {trial.number} of {study} has no checkpoint at {checkpoint}; export another trial.")


def evaluate_folder(
    folder: Path,
    *,
    split: Half,
    cache: Path,
    progress: Progress,
    max_dets: int | None = None,
    data_root: Path | None = None,
) -> dict[str, float]:
    """The metrics of an exported folder, from its weights and the images; equal to those it was written with.

    Args:
        cache: where generated data are kept.
        max_dets: another limit of detections than the setting's.

    Raises:
        InputError: the folder is not an export.
        CacheError: its weights are damaged.
    """
    for name in ("config.yaml", "weights.safetensors", "provenance.json"):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} is not an exported folder: it has no {name}. Make one: lttune export STUDY --to DIR"
            )
    spec = load_spec(folder / "config.yaml", data_root=data_root)
    recipe = _recipe(folder / "provenance.json")
    config = spec.resolve(spec.defaults(), recipe)
    cache.mkdir(parents=True, exist_ok=True)
    assets = prepare_data(config.data, cache, progress)
    return _measure(config, assets, folder / "weights.safetensors", (split,), max_dets, progress)[split]


def with_defaults(spec: SearchSpec, trial: TrialResult) -> SearchSpec:
    """The same search with the trial's values as its defaults."""
    space = {key: parameter.model_copy(update={"default": trial.params[key]}) for key, parameter in spec.space.items()}
    return spec.model_copy(update={"space": MappingProxyType(space)})


def _recipe(provenance: Path) -> Recipe:
    try:
        values = json.loads(provenance.read_text(encoding="utf-8"))["recipe"]
        parts = values["parts"]
        return Recipe(
            parts="all" if parts == "all" else tuple(parts),
            classifier_start=values["classifier_start"],
            fidelity=values["fidelity"],
            left_out=tuple(values["left_out"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{provenance}: holds no recipe ({error!r}); export the trial again.") from error


def _measure(
    config: TrainConfig,
    assets: Assets,
    weights: Path,
    splits: tuple[Half, ...],
    max_dets: int | None,
    progress: Progress,
) -> dict[str, dict[str, float]]:
    """Metrics by half of the weights in a file, from the images."""
    config = replace(
        config,
        fidelity="full",
        recipe=replace(config.recipe, classifier_start="stage1"),
        detector=replace(config.detector, weights=None),
    )
    run = TrainingRun(config, replace(assets, stage1_weights=str(weights), features=None), judged_on=None)
    if run.weights_left:
        raise CacheError(
            f"{weights}: not the weights of this detector, {len(run.weights_left)} tensors do not fit "
            f"({run.weights_left[0]}); export the trial again."
        )
    metrics: dict[str, dict[str, float]] = {}
    for done, split in enumerate(splits):
        progress("evaluation", done, len(splits))
        found = run.evaluate(run.judge(split), max_dets=max_dets).metrics
        metrics[split] = {**headline(found), **found}
    progress("evaluation", len(splits), len(splits))
    return metrics


def _provenance(config: TrainConfig, trial: TrialResult, study: str, folder: Path) -> dict[str, Any]:
    resolved = config.to_dict()
    return {
        "study": study,
        "trial": trial.number,
        "params": dict(trial.params),
        "metrics_of_the_search": dict(trial.metrics),
        "fidelity": config.fidelity,
        "differs_from_published": list(config.differs_from_published),
        "recipe": resolved["recipe"],
        "seeds": {"training": config.seed, "stage1": config.stage1.seed},
        "applied_hash": trial.applied_hash,
        "config_sha256": value_digest(resolved),
        "weights_sha256": file_digest(folder / "weights.safetensors"),
        "versions": {package: version(package) for package in _PACKAGES},
        "python": platform.python_version(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _readme(
    config: TrainConfig, trial: TrialResult, study: str, metrics: dict[str, dict[str, float]], name: str
) -> str:
    rows = "\n".join(
        f"| {split} | " + " | ".join(f"{values[key]:.2f}" for key in ("AP", "AP_r", "AP_c", "AP_f")) + " |"
        for split, values in metrics.items()
    )
    params = "\n".join(f"- `{key}`: {value}" for key, value in trial.params.items())
    differs = "\n".join(f"- {line}" for line in config.differs_from_published) or "- nothing that is known"
    return f"""# Trial {trial.number} of study {study}

Method `{config.method}`, detector `{config.detector.name}`, found at fidelity `{config.fidelity}`.

{params}

| validation images | AP | AP_r | AP_c | AP_f |
|---|---|---|---|---|
{rows}

At most {config.evaluation.max_dets} detections per image. The search selected on `tune`; `report` was kept from it.
These values are measured with the weights of this folder on the images; the search's own, on cached features of the
frozen trunk, are in `provenance.json` and may differ in the last digits.

Differs from the published recipe:

{differs}

- `config.yaml`: `lttune search {name}/config.yaml` searches on with these values first
- `weights.safetensors`: the whole detector; names start with the part
- `lttune evaluate {name} --split report` measures again
"""
