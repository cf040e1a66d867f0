"""A trained detector as a folder that stands alone: configuration, weights, metrics, and what they were found with.

config.yaml           a search space whose defaults are the trained values, the setting in full
weights.safetensors   the whole detector, by part
metrics.json          by half of the validation images, from the weights and the images
provenance.json       study, seeds, digests, what trains
environment.txt       every installed package with its version
README.md             the model card
"""

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lttune.engine.assets import Assets, Half, Progress
from lttune.engine.checkpoint import file_digest, replacing_folder, value_digest, write_json
from lttune.engine.config import DataConfig, Recipe, TrainConfig
from lttune.engine.prepare import prepare_data
from lttune.engine.run import TrainingRun
from lttune.engine.weights import save_weights
from lttune.errors import CacheError, InputError
from lttune.evaluation.report import headline
from lttune.export.model_card import model_card
from lttune.export.origin import Origin, commented
from lttune.losses import LOSSES
from lttune.spec.load import load_spec
from lttune.spec.parameters import Parameter, Scalar
from lttune.spec.search import Losses, SearchSpec
from lttune.spec.yaml_text import to_yaml
from lttune.types import TrialResult

MetricsByHalf = dict[str, dict[str, float]]

_SPLITS: tuple[Half, ...] = ("tune", "report", "all")
# Without these a folder is no export.
_FILES = ("config.yaml", "weights.safetensors", "provenance.json")


def export_trial(
    spec: SearchSpec,
    trial: TrialResult,
    *,
    study: str,
    assets: Assets,
    checkpoint: Path,
    to: Path,
    progress: Progress,
) -> MetricsByHalf:
    """Write a finished trial to a new folder.

    Args:
        spec: of the study, with its recipes.
        checkpoint: the trial's last one.
        to: a folder that does not exist or is empty.

    Returns:
        The metrics by half, measured on the images with the weights as written.

    Raises:
        InputError: the folder holds something, or the trial has no checkpoint.
    """
    check_export(trial, study=study, checkpoint=checkpoint, to=to)
    run = TrainingRun(spec.resolve(trial.params), assets, judged_on=None)
    run.restore(checkpoint)
    with new_folder(to) as folder:
        title = f"trial {trial.number} of study {study}"
        return write_run(run, spec, trial, title=title, folder=folder, name=to.name, progress=progress)


def export_values(spec: SearchSpec, trial: TrialResult, origin: Origin, *, to: Path) -> None:
    """Write a trial's values for another setting to a new folder: nothing was trained there, so nothing else is known.

    Args:
        spec: of the study, on the other setting.

    Raises:
        InputError: the folder holds something.
    """
    with new_folder(to) as folder:
        _write_config(spec, trial.params, origin, folder)
        config = spec.resolve(trial.params)
        write_json(_provenance(config, trial, origin, folder), folder / "provenance.json")
        (folder / "README.md").write_text(model_card(config, trial, origin, None, name=to.name), encoding="utf-8")


def write_run(
    run: TrainingRun, spec: SearchSpec, trial: TrialResult, *, title: str, folder: Path, name: str, progress: Progress
) -> MetricsByHalf:
    """Write a finished run into a folder, the metrics last: where they are, the folder is whole.

    Args:
        spec: what the run's configuration comes from.
        trial: the run's number and values.
        title: what it is called, `trial 3 of study acsl`.
        name: the folder's once it has its place.
    """
    origin = Origin.of(run.config, run.assets, trial=title, setting=spec.on.description)
    save_weights(run.detector, folder / "weights.safetensors")
    _write_config(spec, trial.params, origin, folder)
    (folder / "environment.txt").write_text(_environment(), encoding="utf-8")
    write_json(_provenance(run.config, trial, origin, folder), folder / "provenance.json")
    metrics = _measure(run.config, run.assets, folder / "weights.safetensors", _SPLITS, None, progress)
    card = model_card(run.config, trial, origin, metrics, name=name)
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_json(metrics, folder / "metrics.json")
    return metrics


def new_folder(to: Path) -> Any:
    """A temporary folder that takes the place of `to` when the block ends well.

    Raises:
        InputError: there is something in `to`.
    """
    check_folder(to)
    if to.exists():
        to.rmdir()
    return replacing_folder(to.absolute())


def check_folder(to: Path) -> None:
    """Refuse a folder that holds something."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} exists and is not an empty folder; name another one.")


def check_export(trial: TrialResult, *, study: str, checkpoint: Path, to: Path) -> None:
    """Refuse an export that cannot work, before anything is prepared for it.

    Raises:
        InputError: the folder holds something, or the trial has no checkpoint.
    """
    check_folder(to)
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
    losses: Losses = LOSSES,
) -> dict[str, float]:
    """The metrics of an exported folder, from its weights and the images; equal to those it was written with.

    Args:
        cache: where generated data are kept.
        max_dets: another limit of detections than the setting's.
        losses: by method, where one is not lttune's own.

    Raises:
        InputError: the folder is not an export, or its data are not there.
        CacheError: its weights are damaged.
    """
    for name in _FILES:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} is not an exported folder: it has no {name}. Make one: lttune export STUDY --to DIR"
            )
    recipe = _recipe(folder / "provenance.json")
    # The weights that training started from are not needed, and may be gone.
    spec = load_spec(
        folder / "config.yaml", data_root=data_root, needs_files=False, recipe_of=lambda _: recipe, losses=losses
    )
    config = spec.resolve(spec.defaults())
    _require_data(config.data)
    cache.mkdir(parents=True, exist_ok=True)
    assets = prepare_data(config.data, cache, progress)
    return _measure(config, assets, folder / "weights.safetensors", (split,), max_dets, progress)[split]


def with_defaults(spec: SearchSpec, params: Mapping[str, Scalar]) -> SearchSpec:
    """The same search with these values as its defaults."""

    def changed(key: str, parameter: Parameter) -> Parameter:
        is_meant = key in params and parameter.is_active(params)
        return parameter.model_copy(update={"default": params[key]}) if is_meant else parameter

    space = {
        key: tuple(changed(key, one) for one in found) if isinstance(found, tuple) else changed(key, found)
        for key, found in spec.space.items()
    }
    return spec.model_copy(update={"space": MappingProxyType(space)})


def _write_config(spec: SearchSpec, params: Mapping[str, Scalar], origin: Origin, folder: Path) -> None:
    header = [*origin.lines(), "Its values are the defaults: lttune train trains them, a search tries them first."]
    text = commented(header) + to_yaml(with_defaults(spec, params).to_document())
    (folder / "config.yaml").write_text(text, encoding="utf-8")


def _require_data(data: DataConfig) -> None:
    for split in filter(None, (data.train, data.val)):
        for path, is_there in ((split.annotations, Path.is_file), (split.images, Path.is_dir)):
            if not is_there(Path(path)):
                raise InputError(f"data: there is no {path}; set --data-root or LTTUNE_DATA.")


def _recipe(provenance: Path) -> Recipe:
    try:
        values = json.loads(provenance.read_text(encoding="utf-8"))["recipe"]
        parts = values["parts"]
        return Recipe(
            parts="all" if parts == "all" else tuple(parts),
            cached_parts=tuple(values["cached_parts"]),
            start=values["start"],
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
) -> MetricsByHalf:
    """Metrics by half of the weights in a file, from the images."""
    given = config.detector.weights
    config = replace(
        config,
        fidelity="full",
        recipe=replace(config.recipe, start="stage1", classifier_start="stage1"),
        # Whether there are any decides on the detector's layers; which ones does not matter here.
        detector=replace(config.detector, weights=given and str(weights)),
    )
    run = TrainingRun(config, replace(assets, stage1_weights=str(weights), features=None), judged_on=None)
    if run.weights_left:
        raise CacheError(
            f"{weights}: not the weights of this detector, {len(run.weights_left)} tensors do not fit "
            f"({run.weights_left[0]}); export the trial again."
        )
    metrics: MetricsByHalf = {}
    for done, split in enumerate(splits):
        progress("evaluation", done, len(splits))
        found = run.evaluate(run.judge(split), max_dets=max_dets).metrics
        metrics[split] = {**headline(found), **found}
    progress("evaluation", len(splits), len(splits))
    return metrics


def _provenance(config: TrainConfig, trial: TrialResult, origin: Origin, folder: Path) -> dict[str, Any]:
    resolved = config.to_dict()
    weights = folder / "weights.safetensors"
    return {
        "trial": origin.trial,
        "method": config.method,
        "params": dict(trial.params),
        "metrics_of_the_search": dict(trial.metrics),
        "found_on": origin.to_json(),
        "differs_from_published": list(config.differs_from_published),
        "recipe": resolved["recipe"],
        "seeds": {"training": config.seed, "stage1": config.stage1.seed},
        "applied_hash": trial.applied_hash,
        "config_sha256": value_digest(resolved),
        "weights_sha256": file_digest(weights) if weights.is_file() else None,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _environment() -> str:
    packages = {found.metadata["Name"]: found.version for found in distributions()}
    lines = [f"{name}=={packages[name]}" for name in sorted(packages, key=str.lower)]
    head = [f"# Python {platform.python_version()} on {platform.system()} {platform.machine()}"]
    return "\n".join([*head, *lines]) + "\n"
