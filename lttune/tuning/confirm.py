"""After a search: trial 0 against the best, on images that no decision of the search has seen.

Both are trained with the same five new seeds, so that their differences are paired. The interval is Student's t at 95 %
over those differences; an interval that holds 0 means that no difference is shown.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from lttune.engine.assets import Assets
from lttune.engine.checkpoint import write_json
from lttune.engine.config import TrainConfig
from lttune.evaluation.report import HEADLINE, headline
from lttune.spec.search import Resources
from lttune.tuning.listener import Listener

NUM_SEEDS = 5
# Two-sided 95 % quantile of Student's t with NUM_SEEDS - 1 degrees of freedom.
_T_QUANTILE = 2.776
# LVIS's own limit: a gain that exists at a setting's lower limit alone is flagged.
LVIS_MAX_DETS = 300

# A metric without ground truth is None, as JSON has no NaN.
Values = dict[str, float | None]


def confirm(
    configs: Mapping[str, TrainConfig], assets: Assets, resources: Resources, path: Path, listener: Listener
) -> dict[str, Any]:
    """Train each configuration with five new seeds, measure on the report half, and write it all to `path`.

    Args:
        configs: the configurations by name: `trial_0`, and `best` where it is another.
        path: JSON file; what it holds of an interrupted confirmation is kept.

    Returns:
        What the file holds: `runs` (per configuration, seed and limit of detections), `stage1`, `seeds`.
    """
    state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    seed = next(iter(configs.values())).seed
    seeds = [seed + 1 + i for i in range(NUM_SEEDS)]
    state |= {"seeds": seeds, "limits": _limits(next(iter(configs.values())))}
    runs: dict[str, Any] = state.setdefault("runs", {})
    task = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus)(_train_and_report)
    wanted: dict[Any, tuple[str, str]] = {}
    if "stage1" not in state:
        wanted[task.remote(next(iter(configs.values())), assets, resources, untrained=True)] = ("stage1", "")
    for name, config in configs.items():
        for one in seeds:
            if str(one) not in runs.get(name, {}):
                wanted[task.remote(replace(config, seed=one), assets, resources)] = (name, str(one))
    total = len(configs) * NUM_SEEDS + 1
    listener.progress("confirmation", total - len(wanted), total)
    pending = list(wanted)
    while pending:
        done, pending = ray.wait(pending)
        for reference in done:
            name, key = wanted[reference]
            if name == "stage1":
                state["stage1"] = ray.get(reference)
            else:
                runs.setdefault(name, {})[key] = ray.get(reference)
            write_json(state, path)
        listener.progress("confirmation", total - len(pending), total)
    return state


def is_confirmed(path: Path, names: Iterable[str]) -> bool:
    """Whether a confirmation file holds every run of these configurations."""
    if not path.exists():
        return False
    state = json.loads(path.read_text())
    return "stage1" in state and all(len(state["runs"].get(name, {})) == NUM_SEEDS for name in names)


def _limits(config: TrainConfig) -> list[int]:
    return sorted({config.evaluation.max_dets, LVIS_MAX_DETS})


def _train_and_report(
    config: TrainConfig, assets: Assets, resources: Resources, *, untrained: bool = False
) -> dict[str, Values]:
    """Metrics on the report half by limit of detections."""
    # Workers train, the driver only waits: it need not import what trains.
    import torch

    from lttune.engine.run import TrainingRun
    from lttune.engine.stage1 import stage1_config

    torch.set_num_threads(max(1, int(resources.cpus)))
    device = torch.device("cuda" if resources.gpus > 0 and torch.cuda.is_available() else "cpu")
    if untrained:
        # The stage-1 classifier with its own activation, on the features of the trials.
        softmax = stage1_config(config)
        config = replace(config, method=softmax.method, loss=softmax.loss)
    run = TrainingRun(config, assets, device=device, judged_on=None)
    if not untrained:
        run.advance()
    judge = run.judge("report")
    found = {str(limit): headline(run.evaluate(judge, max_dets=limit).metrics) for limit in _limits(config)}
    return {
        limit: {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        for limit, metrics in found.items()
    }


def summarise(state: Mapping[str, Any]) -> dict[str, Any]:
    """Means, standard deviations and paired differences of a confirmation, by limit of detections.

    Returns:
        Per limit: `stage1`, and per configuration `mean` and `std` of each headline metric; where there are two,
        `difference` best minus trial 0: `mean`, `low`, `high` of its 95 % interval, and `is_shown`. A metric without
        ground truth is NaN throughout.
    """
    summary: dict[str, Any] = {}
    for limit in map(str, state["limits"]):
        part: dict[str, Any] = {"stage1": {key: _number(state["stage1"][limit][key]) for key in HEADLINE}}
        values = {
            name: {key: [_number(run[limit][key]) for run in _by_seed(runs, state["seeds"])] for key in HEADLINE}
            for name, runs in state["runs"].items()
        }
        for name, columns in values.items():
            part[name] = {
                key: {"mean": float(np.mean(column)), "std": float(np.std(column, ddof=1))}
                for key, column in columns.items()
            }
        if {"trial_0", "best"} <= set(values):
            part["difference"] = {
                key: paired_difference(values["trial_0"][key], values["best"][key]) for key in HEADLINE
            }
        summary[limit] = part
    return summary


def paired_difference(first: list[float], second: list[float]) -> dict[str, Any]:
    """Second minus first: mean and 95 % interval over pairs, and whether the interval leaves 0 out."""
    differences = np.subtract(second, first)
    mean = float(np.mean(differences))
    half = float(_T_QUANTILE * np.std(differences, ddof=1) / math.sqrt(len(differences)))
    return {"mean": mean, "low": mean - half, "high": mean + half, "is_shown": abs(mean) > half}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _by_seed(runs: Mapping[str, Any], seeds: list[int]) -> Iterator[Mapping[str, Values]]:
    return (runs[str(seed)] for seed in seeds)
