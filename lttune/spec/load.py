"""YAML files to a SearchSpec; every fault of the files is named with file and key path, all in one message."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lttune.detectors import resolve_backend
from lttune.detectors.weights import is_address
from lttune.engine.config import SplitPaths
from lttune.errors import InputError, SpecError, did_you_mean
from lttune.losses import LOSSES
from lttune.spec.faults import Fault, Faults, validate, validation_faults
from lttune.spec.parameters import Choice, FixedValue, Parameter, Scalar
from lttune.spec.search import Draw, Losses, RecipeOf, SearchSpec, Setting, classifier_alone
from lttune.spec.yaml_text import parse_yaml, read_yaml

# Sections in which `--set` fixes a value of the search, whatever the setting and the method say; any other section is
# the setting's.
_SEARCHED_SECTIONS = ("loss", "recipe", "optim", "schedule", "sampler")


def load_spec(
    source: str | Path,
    *,
    on: str | None = None,
    overrides: Mapping[str, str] | None = None,
    data_root: str | Path | None = None,
    needs_files: bool = True,
    recipe_of: RecipeOf = classifier_alone,
    losses: Losses = LOSSES,
) -> SearchSpec:
    """Read a search space and the setting it runs on.

    Args:
        source: a path, or the name of a search space that comes with lttune (`acsl`).
        on: another setting than the file's, by name or path.
        overrides: `--set` values by dotted key: `search.*` and `objective.*` change the search; a searched key is fixed
            at the value; any other key changes the setting.
        data_root: what relative data paths start from; else LTTUNE_DATA, else the current folder.
        needs_files: whether data and weights must be there; not so where a study is only read.
        recipe_of: what each method trains, which decides on the values it takes from the setting.
        losses: by method, where one is not lttune's own.

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
        spec = validate(TypeAdapter(SearchSpec), SearchSpec, document, context=losses)
    except ValidationError as error:
        for fault in validation_faults(error, SearchSpec):
            if is_setting_read or fault.key.split(".")[0] != "on":
                faults.add(fault)
    faults.raise_any()
    spec = spec.with_recipes(recipe_of).with_losses(losses)
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
    if key == "method" and isinstance(space, dict) and "method" in space:
        space["method"] = {"choice": [value]}
    elif section in {"search", "objective", "method"}:
        _put(document, key, value)
    elif (section in _SEARCHED_SECTIONS and key != "recipe") or is_fixed or (isinstance(space, dict) and key in space):
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
        known = list(dict.fromkeys([*Setting.model_fields, *_SEARCHED_SECTIONS, "search", "objective", "method"]))
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

    A configuration is built with each fixed value and at each end of each range alone, for every method it is for.
    """
    _check_methods(spec, faults)
    if faults:
        return
    _check_setting(spec, faults)
    alone = spec.model_copy(update={"fixed": {}})
    for method in spec.methods:
        for key, value in spec.fixed_for(method).items():
            _try(faults, f"fixed.{key}", alone, method, {key: value}, "value")
    if faults:
        return
    for method in spec.methods:
        try:
            spec.resolve(_of(spec, method))
        except InputError as error:
            faults.add_lines(SpecError(f"fixed values and setting do not go together: {error}"))
            return
    _check_epochs(spec, faults)
    for draw, place in _places(spec):
        if draw.key == "method":
            continue
        parameter = draw.parameter
        before = {key: allowed[0] for key, allowed in parameter.when.items() if key != "method"}
        ends = ("value",) * len(parameter.ends) if isinstance(parameter, Choice) else ("lower end", "upper end")
        for method in _methods_of(spec, draw):
            if draw.key not in spec.searchable_keys(method):
                _try(faults, place, spec, method, {draw.key: parameter.ends[0]}, "")
                continue
            for what, end in zip(ends, parameter.ends, strict=True):
                _try(faults, place, spec, method, {**before, draw.key: end}, what)
    if not faults:
        _check_defaults(spec, faults)


def _check_methods(spec: SearchSpec, faults: Faults) -> None:
    """The method or methods, and the conditions that values depend on."""
    sampled = spec.space.get("method")
    if (spec.method is None) == (sampled is None):
        faults.add(Fault("method", "name one method here, or several as `method: {choice: [...]}` in `space`."))
        return
    if sampled is not None:
        if not isinstance(sampled, Choice) or sampled.when:
            faults.add(Fault("space.method", "is no plain choice; write {choice: [acsl, ecm]}."))
            return
        for name in sampled.values:
            if name not in spec.losses:
                hint = did_you_mean(str(name), sorted(spec.losses))
                faults.add(Fault("space.method", f"'{name}' is not a method.{hint}"))
        if len(spec.methods) > spec.search.trials:
            faults.add(
                Fault(
                    "search.trials",
                    f"is {spec.search.trials}, but each of the {len(spec.methods)} methods starts with its default; "
                    "use more.",
                    " ",
                )
            )
    earlier: dict[str, Choice] = {}
    for key, found in spec.space.items():
        alternatives = found if isinstance(found, tuple) else (found,)
        for position, parameter in enumerate(alternatives):
            place = f"space.{key}" + (f"[{position}]" if isinstance(found, tuple) else "")
            _check_conditions(parameter, place, earlier, spec.losses, faults)
            for other in alternatives[:position]:
                if not _exclude(parameter, other):
                    faults.add(Fault(place, "can be active together with one before it; give each its own `when`."))
        if isinstance(found, Choice):
            earlier[key] = found


def _check_conditions(
    parameter: Parameter, place: str, earlier: Mapping[str, Choice], losses: Losses, faults: Faults
) -> None:
    for name, allowed in parameter.when.items():
        if name not in earlier:
            faults.add(Fault(f"{place}.when", f"'{name}' is no choice above it in `space`; put a choice there first."))
            continue
        for value in allowed:
            if name == "method" and value not in losses:
                hint = did_you_mean(str(value), sorted(losses))
                faults.add(Fault(f"{place}.when.method", f"'{value}' is not a method.{hint}"))
            elif name != "method" and value not in earlier[name].values:
                choices = list(earlier[name].values)
                faults.add(Fault(f"{place}.when.{name}", f"{value!r} is not among {choices}; use one of them."))


def _exclude(one: Parameter, other: Parameter) -> bool:
    """Whether two alternatives are never active together."""
    return any(not set(one.when[key]) & set(other.when[key]) for key in one.when.keys() & other.when.keys())


def _places(spec: SearchSpec) -> Iterator[tuple[Draw, str]]:
    """Every draw with its key path."""
    seen: dict[str, int] = {}
    for draw in spec.draws():
        position = seen[draw.key] = seen.get(draw.key, -1) + 1
        is_list = isinstance(spec.space[draw.key], tuple)
        yield draw, f"space.{draw.key}" + (f"[{position}]" if is_list else "")


def _methods_of(spec: SearchSpec, draw: Draw) -> tuple[str, ...]:
    """The methods a value is sampled for, those of the choices it depends on included."""
    methods = [method for method in spec.methods if method in draw.parameter.when.get("method", spec.methods)]
    for key in draw.parameter.when:
        above = [other for other in spec.draws() if other.key == key != "method"]
        methods = [method for method in methods if all(method in _methods_of(spec, other) for other in above)]
    return tuple(methods)


def _of(spec: SearchSpec, method: str) -> dict[str, Scalar]:
    return {"method": method} if "method" in spec.space else {}


def _check_setting(spec: SearchSpec, faults: Faults) -> None:
    try:
        resolve_backend(spec.on.detector)
    except InputError as error:
        faults.add(Fault("on.detector.name", str(error).removeprefix("detector.name: ")))
    metric = spec.objective.metric
    if metric.startswith("segm/") and not spec.on.detector.has_masks:
        box_metric = metric.replace("segm", "bbox")
        faults.add(
            Fault("objective.metric", f"{metric} is of masks, which the detector has none of; use {box_metric}.")
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


def _check_epochs(spec: SearchSpec, faults: Faults) -> None:
    asha = spec.search.asha
    if asha is None:
        return
    for method in spec.methods:
        epochs = spec.resolve(_of(spec, method)).schedule.epochs
        if asha.first_rung_epochs > epochs:
            faults.add(
                Fault(
                    "search.asha.first_rung_epochs",
                    f"is {asha.first_rung_epochs}, but a trial has {epochs} epochs; use fewer.",
                    " ",
                )
            )
            return


def _check_defaults(spec: SearchSpec, faults: Faults) -> None:
    for method in spec.methods:
        values = spec.defaults(method)
        known: dict[str, Scalar] = {}
        for draw, place in _places(spec):
            if draw.is_active(known):
                known[draw.key] = value = values[draw.key]
                if not _holds(draw.parameter, value):
                    ends = list(draw.parameter.ends)
                    faults.add(Fault(place, f"the setting's value {value} is not in {ends}; give a `default`."))


def _holds(parameter: Parameter, value: Scalar) -> bool:
    if isinstance(parameter, Choice):
        return value in parameter.values
    low, high = parameter.bounds
    return isinstance(value, (int, float)) and bool(low <= value <= high)


def _try(
    faults: Faults, place: str, spec: SearchSpec, method: str, values: Mapping[str, FixedValue], what: str
) -> None:
    """Build a configuration with these values, the last of which is tried; `what` is its part in its range."""
    key = list(values)[-1]
    try:
        spec.resolve({**_of(spec, method), **values})  # type: ignore[dict-item] # fixed lists are tried, too
    except InputError as error:
        for line in str(error).splitlines():
            rest = line.removeprefix(key)
            if rest == line:  # names another value
                faults.add(Fault(place, line))
            elif key not in spec.searchable_keys(method):
                hint = " Sample it `when: {method: [...]}`." if len(spec.methods) > 1 else ""
                faults.add(Fault(place, f"{rest.strip()}{hint}", " "))
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
    if detector.weights is not None and not is_address(detector.weights):
        detector = replace(detector, weights=absolute("detector.weights", detector.weights, here))
    setting = spec.on.model_copy(update={"data": data, "stage1": stage1, "detector": detector})
    return spec.model_copy(update={"on": setting})
