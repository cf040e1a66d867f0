"""The README of an exported folder: what was trained on what, how well it does, and what it is not for."""

import math
from collections.abc import Mapping

from lttune.engine.config import TrainConfig
from lttune.evaluation.report import HEADLINE
from lttune.export.origin import Origin
from lttune.types import TrialResult


def model_card(
    config: TrainConfig,
    trial: TrialResult,
    origin: Origin,
    metrics: Mapping[str, Mapping[str, float]] | None,
    *,
    name: str,
) -> str:
    """Markdown text.

    Args:
        metrics: by half of the validation images; None where nothing was trained.
        name: the folder's.
    """
    title = origin.trial[0].upper() + origin.trial[1:]
    sections = [
        f"# {title}",
        _facts(config, origin),
        "## Values\n\n" + _list([f"`{key}`: {value}" for key, value in trial.params.items()], "published ones alone"),
        _results(config, trial, metrics) if metrics is not None else _hypothesis(origin),
        "## Differs from the published recipe\n\n"
        + _list(list(config.differs_from_published), "nothing that is known"),
        _limits(origin),
        _use(name, has_weights=metrics is not None),
    ]
    return "\n\n".join(sections) + "\n"


def _facts(config: TrainConfig, origin: Origin) -> str:
    parts = "everything" if config.recipe.parts == "all" else ", ".join(config.recipe.parts)
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            f"| method | `{config.method}` |",
            f"| detector | `{config.detector.name}` |",
            f"| trains | {parts} |",
            f"| optimiser | {config.optim.name}, learning rate {config.optim.lr:g} at a batch of "
            f"{config.schedule.batch_size}, {config.schedule.epochs} epochs |",
            f"| found on | {origin.setting} |",
            f"| fidelity | {origin.fidelity} |",
            f"| categories | {origin.num_categories} |",
            f"| training annotations | sha256 `{origin.train_sha256}` |",
            f"| validation annotations | sha256 `{origin.val_sha256}` |",
            f"| seeds | training {config.seed}, stage 1 {config.stage1.seed} |",
        ]
    )


def _results(config: TrainConfig, trial: TrialResult, metrics: Mapping[str, Mapping[str, float]]) -> str:
    rows = "\n".join(
        f"| {split} | " + " | ".join(_number(values[key]) for key in HEADLINE) + " |"
        for split, values in metrics.items()
    )
    return f"""## Results

| validation images | AP | AP_r | AP_c | AP_f |
|---|---|---|---|---|
{rows}

LVIS metrics in points, at most {config.evaluation.max_dets} detections per image, measured with the weights of this
folder on the images. Values were chosen on `tune`; `report` was kept from that choice. What the training itself
reported, on cached features where it used them, is in `provenance.json` and may differ in the last digits."""


def _hypothesis(origin: Origin) -> str:
    return f"""## Not trained

The values are an unconfirmed hypothesis: they were found on the data above, and this folder is for
{origin.transferred_to}, where nobody has tried them. There are no weights and no results."""


def _limits(origin: Origin) -> str:
    where = "Generated glyphs stand in for no photograph" if origin.is_generated else "One data set is not every one"
    return f"""## Limits

One training run with one seed: differences of a few tenths of a point between such runs are chance.
{where}; rare categories have few images, so their AP is the least certain."""


def _use(name: str, *, has_weights: bool) -> str:
    lines = [f"- `lttune train {name}/config.yaml` trains these values again; `lttune search` goes on from them"]
    if has_weights:
        lines += [
            f"- `lttune evaluate {name} --split report` measures the weights again",
            "- `weights.safetensors`: the whole detector; names start with the part",
            "- `environment.txt`: the packages this was made with",
        ]
    return "## Use\n\n" + "\n".join(lines)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _list(lines: list[str], otherwise: str) -> str:
    return "\n".join(f"- {line}" for line in lines or [otherwise])
