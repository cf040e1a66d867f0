"""YAML files to a SearchSpec; every fault of the files is named with file and key path, all in one message."""

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lttune.detectors import resolve_backend
from lttune.engine.config import SplitPaths
from lttune.errors import InputError, SpecError, did_you_mean
from lttune.spec.faults import Fault, Faults, validate, validation_faults
from lttune.spec.parameters import Choice, Parameter, Scalar
from lttune.spec.search import SearchSpec, Setting, has_masks, searchable_keys
from lttune.spec.yaml_text import parse_yaml, read_yaml

# Sections in which `--set` fixes a value of the search; any other section is the setting's.
_SEARCHED_SECTIONS = ("loss", "recipe")


def load_spec(
    source: str | Path,
    *,
    on: str | None = None,
    overrides: Mapping[str, str] | None = None,
    data_root: str | Path | None = None,
    needs_files: bool = True,
) -> SearchSpec:
    """Read a search space and the setting it runs on.

    Args:
        source: a path, or the name of a search space that comes with lttune (`acsl`).
        on: another setting than the file's, by name or path.
        overrides: `--set` values by dotted key: `search.*` and `objective.*` change the search; a searched key is fixed
            at the value; any other key changes the setting.
        data_root: what relative data paths start from; else LTTUNE_DATA, else the current folder.
        needs_files: whether data and weights must be there; not so where a study is only read.

    Raises:
        SpecError: one line per fault, each with file and key path.
    """
    path = find_yaml(str(source), "search space")
    document = read_yaml(path)
    overrides = overrides or {}
    faults = Faults(path, overrides)
    is_setting_read = _read_setting(document, on, path, faults)
    _apply_overrides(document, overrides, faults)
    try:
        spec = validate(TypeAdapter(SearchSpec), SearchSpec, document)
    except ValidationError as error:
        for fault in validation_faults(error, SearchSpec):
            if is_setting_read or fault.key.split(".")[0] != "on":
                faults.add(fault)
    faults.raise_any()
    _check_whole(spec, faults)
    faults.raise_any()
    spec = _with_absolute_paths(spec, data_root, faults)
    if needs_files:
        faults.raise_any()
    return spec


def find_yaml(source: str, kind: str, *, beside: Path | None = None) -> Path:
    """The file that a path or a packaged name means.

    Args:
        kind: `search space` or `setting`.
        beside: folder of a search space, whose folder `on` may hold the setting.

    Raises:
        SpecError: there is none, with the nearest known name.
    """
    packaged = Path(str(files("search_spaces"))) / ("on" if kind == "setting" else "")
    if not source.endswith((".yaml", ".yml")) and "/" not in source:
        folders = [packaged] if beside is None else [beside / "on", packaged]
        for folder in folders:
            if (folder / f"{source}.yaml").is_file():
                return folder / f"{source}.yaml"
        known = sorted(found.stem for folder in folders for found in folder.glob("*.yaml"))
        raise SpecError(f"'{source}' is not a {kind} that comes with lttune.{did_you_mean(source, known)}")
    path = Path(source).expanduser().absolute()
    if not path.is_file():
        raise SpecError(f"{source}: there is no such {kind} file; correct the path.")
    return path


def _read_setting(document: dict[str, Any], on: str | None, path: Path, faults: Faults) -> bool:
    """Put the named setting in the place of its name; says whether there is a setting to check."""
    wanted = on if on is not None else document.get("on")
    if not isinstance(wanted, str):
        return True
    try:
        faults.setting_file = find_yaml(wanted, "setting", beside=path.parent)
    except SpecError as error:
        faults.add_lines(SpecError(f"--on: {error}" if on is not None else f"{path}: on: {error}"))
        return False
    try:
        document["on"] = read_yaml(faults.setting_file)
    except SpecError as error:
        faults.add_lines(error)
        return False
    return True


def _apply_overrides(document: dict[str, Any], overrides: Mapping[str, str], faults: Faults) -> None:
    for key, text in overrides.items():
        try:
            if not text.strip():
                raise SpecError(f"--set {key}=: no value; write --set {key}=VALUE.")
            _apply_override(document, key, parse_yaml(text, f"--set {key}={text}"))
        except SpecError as error:
            faults.add_lines(error)


def _apply_override(document: dict[str, Any], key: str, value: Any) -> None:
    section = key.split(".")[0]
    space, fixed = document.get("space"), document.setdefault("fixed", {})
    is_fixed = isinstance(fixed, dict) and key in fixed
    if section in {"search", "objective", "method"}:
        _put(document, key, value)
    elif section in _SEARCHED_SECTIONS or is_fixed or (isinstance(space, dict) and key in space):
        if isinstance(space, dict):
            document["space"] = {name: parameter for name, parameter in space.items() if name != key}
        if isinstance(fixed, dict):
            fixed[key] = value
    elif section == "on":
        raise SpecError("--set on: the setting is chosen by --on SETTING; its values are set without `on.`.")
    elif section in Setting.model_fields:
        if isinstance(document.get("on"), dict):
            _put(document["on"], key, value)
    else:
        known = [*Setting.model_fields, *_SEARCHED_SECTIONS, "search", "objective", "method"]
        raise SpecError(f"--set {key}: unknown key.{did_you_mean(section, known)}")


def _put(document: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        # An optional group may be written out as null.
        if document.get(part) is None:
            document[part] = {}
        document = document[part]
        if not isinstance(document, dict):
            raise SpecError(f"--set {key}: '{part}' holds {document!r}, not keys; set it as a whole.")
    document[last] = value


def _check_whole(spec: SearchSpec, faults: Faults) -> None:
    """What no single value shows; a bad space fails here and not on a GPU.

    A configuration is built with each fixed value and at each end of each range alone.
    """
    _check_setting(spec, faults)
    alone = spec.model_copy(update={"fixed": {}})
    for key, value in spec.fixed.items():
        _try(faults, f"fixed.{key}", alone, key, value, "value")
    if faults:
        return
    try:
        spec.resolve({})
    except InputError as error:
        faults.add_lines(SpecError(f"fixed values and setting do not go together: {error}"))
        return
    for key, parameter in spec.space.items():
        if key not in searchable_keys(spec.method):
            _try(faults, f"space.{key}", spec, key, parameter.ends[0], "")
            continue
        ends = ("value",) * len(parameter.ends) if isinstance(parameter, Choice) else ("lower end", "upper end")
        for what, end in zip(ends, parameter.ends, strict=True):
            _try(faults, f"space.{key}", spec, key, end, what)
    if not faults:
        _check_defaults(spec, faults)


def _check_setting(spec: SearchSpec, faults: Faults) -> None:
    try:
        resolve_backend(spec.on.detector)
    except InputError as error:
        faults.add(Fault("on.detector.name", str(error).removeprefix("detector.name: ")))
    metric, asha = spec.objective.metric, spec.search.asha
    if metric.startswith("segm/") and not has_masks(spec.on.detector):
        box_metric = metric.replace("segm", "bbox")
        faults.add(
            Fault("objective.metric", f"{metric} is of masks, which the detector has none of; use {box_metric}.")
        )
    if asha is not None and asha.first_rung_epochs > spec.on.schedule.epochs:
        faults.add(
            Fault(
                "search.asha.first_rung_epochs",
                f"is {asha.first_rung_epochs}, but a trial has {spec.on.schedule.epochs} epochs; use fewer.",
                " ",
            )
        )
    if not spec.space and spec.search.trials > 1:
        faults.add(
            Fault(
                "space", f"is empty, so all {spec.search.trials} trials are one; name a value or use --trials 1.", " "
            )
        )
    for key in spec.fixed:
        if key in spec.space:
            faults.add(Fault(f"fixed.{key}", "is in `space` too; leave it out of one of them.", " "))


def _check_defaults(spec: SearchSpec, faults: Faults) -> None:
    for key, value in spec.defaults().items():
        if not _holds(spec.space[key], value):
            ends = list(spec.space[key].ends)
            faults.add(Fault(f"space.{key}", f"the setting's value {value} is not in {ends}; give a `default`."))


def _holds(parameter: Parameter, value: Scalar) -> bool:
    if isinstance(parameter, Choice):
        return value in parameter.values
    low, high = parameter.bounds
    return isinstance(value, (int, float)) and bool(low <= value <= high)


def _try(faults: Faults, place: str, spec: SearchSpec, key: str, value: Scalar, what: str) -> None:
    """Build a configuration with one value; `what` is the value's part in its range."""
    try:
        spec.resolve({key: value})
    except InputError as error:
        for line in str(error).splitlines():
            rest = line.removeprefix(key)
            if rest == line:  # names another value
                faults.add(Fault(place, line))
            elif key not in searchable_keys(spec.method):
                faults.add(Fault(place, rest.strip(), " "))
            else:
                faults.add(Fault(place, f"{what} {rest.removeprefix(':').strip()}"))


def _with_absolute_paths(spec: SearchSpec, data_root: str | Path | None, faults: Faults) -> SearchSpec:
    """Ray moves a worker to its own folder, so every path is made absolute here."""
    here = Path.cwd()
    root = here / Path(data_root or os.environ.get("LTTUNE_DATA") or ".").expanduser()

    def absolute(key: str, path: str, start: Path, *, is_folder: bool = False) -> str:
        made = start / Path(path).expanduser()
        if not (made.is_dir() if is_folder else made.is_file()):
            advice = "; set --data-root or LTTUNE_DATA." if key.startswith("data.") else "; correct the path."
            faults.add(Fault(f"on.{key}", f"there is no {'folder' if is_folder else 'file'} {made}{advice}"))
        return str(made)

    def split(name: str, paths: SplitPaths | None) -> SplitPaths | None:
        return paths and SplitPaths(
            annotations=absolute(f"data.{name}.annotations", paths.annotations, root),
            images=absolute(f"data.{name}.images", paths.images, root, is_folder=True),
        )

    data, stage1, detector = spec.on.data, spec.on.stage1, spec.on.detector
    data = replace(data, train=split("train", data.train), val=split("val", data.val))
    if stage1.checkpoint is not None:
        stage1 = replace(stage1, checkpoint=absolute("stage1.checkpoint", stage1.checkpoint, here))
    if detector.weights is not None:
        detector = replace(detector, weights=absolute("detector.weights", detector.weights, here))
    setting = spec.on.model_copy(update={"data": data, "stage1": stage1, "detector": detector})
    return spec.model_copy(update={"on": setting})
