"""What must be the same for two studies to be ranked, in the words in which a refusal names it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from lttune.engine.assets import file_digest_once
from lttune.engine.checkpoint import value_digest
from lttune.engine.config import DataConfig, TrainConfig, plain
from lttune.reporting.records import StudyRecord

# Where only these agree, a difference between two studies still is one of methods and their searches.
MEASURED_ON = ("data", "annotations", "detector", "input", "stage 1")

Identity = Mapping[str, Any]


def identity(record: StudyRecord) -> Identity:
    """What a study was measured on and searched with, by name; None where its files no longer tell."""
    config, spec = record.published, record.spec
    space = {key: found for key, found in spec.to_document()["space"].items() if not _is_of_loss(key)}
    optim = {f"optim.{name}": value for name, value in asdict(config.optim).items()}
    return {
        "data": _data(config.data),
        "annotations": _glyph_annotations(config.data, record.cache),
        "detector": asdict(config.detector),
        "input": asdict(config.input),
        "stage 1": _stage1(config),
        "detections per image": config.evaluation.max_dets,
        "what trains": record.trains,
        "fidelity": record.fidelity,
        "epochs and batches": [config.schedule.epochs, config.schedule.batch_size],
        "sampler": asdict(config.sampler),
        "optimiser ranges": {**optim, **{key: _range(found) for key, found in space.items()}},
        "objective": [spec.objective.metric, spec.objective.mode],
        "number of trials": len(record.complete),
    }


def what_differs(identities: Sequence[Identity], names: Sequence[str] | None = None) -> list[str]:
    """The names, in order, under which any two of them differ."""
    differing = []
    for name in names or list(identities[0]):
        known = {value_digest(found[name]) for found in identities if found[name] is not None}
        if len(known) > 1:
            differing.append(name)
    return differing


def _is_of_loss(key: str) -> bool:
    return key == "method" or key.startswith("loss.")


def _range(parameter: Any) -> Any:
    """A searched value without what is tried first, or its alternatives."""
    if isinstance(parameter, list):
        return [_range(one) for one in parameter]
    return {name: value for name, value in parameter.items() if name != "default"}


def _data(data: DataConfig) -> Any:
    if data.glyphs is not None:
        return asdict(data.glyphs)
    assert data.train is not None
    assert data.val is not None
    return [_digest(data.train.annotations), _digest(data.val.annotations)]


def _digest(path: str) -> str:
    """Of the file's bytes; the path where the file is gone."""
    return file_digest_once(path) if Path(path).is_file() else path


def _glyph_annotations(data: DataConfig, cache: Path) -> list[str] | None:
    """Digests of generated annotations, whose bytes depend on the versions of what draws them, too."""
    if data.glyphs is None:
        return None
    for train in sorted(cache.glob("glyphs-*/train.json")):
        if orjson.loads(train.read_bytes()).get("info", {}).get("config") == plain(asdict(data.glyphs)):
            return [file_digest_once(str(train)), file_digest_once(str(train.with_name("val.json")))]
    return None


def _stage1(config: TrainConfig) -> Any:
    stage1 = asdict(config.stage1)
    if config.stage1.checkpoint is not None:
        return _digest(config.stage1.checkpoint)
    return stage1
