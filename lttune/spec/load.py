"""YAML files to a SearchSpec; every fault of the files is named with file and key path, all in one message."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ValidationError

from lttune.engine.config import SplitPaths
from lttune.errors import InputError, SpecError, did_you_mean
from lttune.losses import LOSSES
from lttune.spec.parameters import Choice
from lttune.spec.search import SearchSpec, Setting, searchable_keys


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-3 as a number and refuses a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise _YamlError(f"line {line}: key {key!r} is not text; put it in quotes or correct it.")
            if key in seen:
                raise _YamlError(f"line {line}: key '{key}' is given twice, first on line {seen[key]}; keep one.")
            seen[key] = line
        return super().construct_mapping(node, deep)


# YAML 1.1 takes `on`, `no` and `y` for booleans, wants a dot in the mantissa and a sign in the exponent; people write
# `on: glyphs`, 1e-3 and 5E4.
_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


class _YamlError(Exception):
    """A fault that the YAML library would let pass."""


def load_spec(
    source: str | Path,
    *,
    on: str | None = None,
    overrides: Mapping[str, str] | None = None,
    data_root: str | Path | None = None,
) -> SearchSpec:
    """Read a search space and the setting it runs on.

    Args:
        source: a path, or the name of a search space that comes with lttune (`acsl`).
        on: another setting than the file's, by name or path.
        overrides: `--set` values by dotted key: `search.*` and `objective.*` change the search; a searched key is fixed
            at the value; any other key changes the setting.
        data_root: what relative data paths start from; else LTTUNE_DATA, else the current folder.

    Raises:
        SpecError: one line per fault, each with file and key path.
    """
    path = find_yaml(str(source), "search space")
    document = read_yaml(path)
    setting_path = path
    wanted = on if on is not None else document.get("on")
    if isinstance(wanted, str):
        setting_path = find_yaml(wanted, "setting", beside=path.parent)
        document["on"] = read_yaml(setting_path)
    _apply_overrides(document, overrides or {})
    faults = _Faults({"on": setting_path}, path)
    method = document.get("method")
    if isinstance(method, str) and method not in LOSSES:
        faults.add("method", f"'{method}' is not a method.{did_you_mean(method, sorted(LOSSES))}")
    spec = _validated(SearchSpec, document, faults)
    faults.raise_any()
    assert spec is not None
    _check_space(spec, faults)
    faults.raise_any()
    return _with_absolute_paths(spec, setting_path, data_root)


def load_setting(source: str) -> Setting:
    """Read one setting, by name or path.

    Raises:
        SpecError: one line per fault.
    """
    path = find_yaml(source, "setting")
    faults = _Faults({}, path)
    setting = _validated(Setting, read_yaml(path), faults)
    faults.raise_any()
    assert setting is not None
    return setting


def find_yaml(source: str, kind: str, *, beside: Path | None = None) -> Path:
    """The file that a path or a packaged name means.

    Raises:
        SpecError: there is none, with the nearest known name.
    """
    is_name = not source.endswith((".yaml", ".yml")) and "/" not in source
    packaged = Path(str(files("search_spaces"))) / ("on" if kind == "setting" else "")
    if is_name:
        folders = [packaged] if beside is None else [beside / "on", packaged]
        for folder in folders:
            if (folder / f"{source}.yaml").is_file():
                return folder / f"{source}.yaml"
        known = sorted(found.stem for folder in folders if folder.is_dir() for found in folder.glob("*.yaml"))
        raise SpecError(f"'{source}' is not a {kind} that comes with lttune.{did_you_mean(source, known)}")
    path = Path(source).expanduser().absolute()
    if not path.is_file():
        raise SpecError(f"{source}: there is no such {kind} file.")
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """One YAML mapping, read safely.

    Raises:
        SpecError: not readable, not YAML, not a mapping, or a key given twice.
    """
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not readable ({error}).") from error
    except _YamlError as fault:
        raise SpecError(f"{path}: {fault}") from fault
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise SpecError(f"{path}: {line}not YAML ({error.problem}).") from error
    if not isinstance(document, dict):
        raise SpecError(f"{path}: holds {type(document).__name__}, not a mapping of keys to values.")
    return document


class _Faults:
    """Collects one line per fault."""

    def __init__(self, files_by_key: Mapping[str, Path], file: Path) -> None:
        self._files = files_by_key
        self._file = file
        self.lines: list[str] = []

    def add(self, key: str, message: str) -> None:
        file = self._file
        section, _, rest = key.partition(".")
        # A setting's fault is named in the setting's own file.
        if section in self._files and self._files[section] != file:
            file, key = self._files[section], rest
        self.lines.append(f"{file}: {message}" if message.startswith(f"{key}.") else f"{file}: {key}: {message}")

    def raise_any(self) -> None:
        if self.lines:
            raise SpecError("\n".join(dict.fromkeys(self.lines)))


_Model = TypeVar("_Model", bound=BaseModel)


def _validated(model: type[_Model], document: Any, faults: _Faults) -> _Model | None:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            faults.add(_key_path(fault["loc"]), _message(fault, model))
        return None


def _key_path(location: tuple[int | str, ...]) -> str:
    parts = list(location)
    if parts[:1] == ["space"] and len(parts) > 2:
        del parts[2]  # the tag of the parameter's kind
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _message(fault: Any, model: type[BaseModel]) -> str:
    kind, given = fault["type"], fault["input"]
    if kind == "extra_forbidden" or kind == "unexpected_keyword_argument":
        return f"unknown key.{did_you_mean(str(fault['loc'][-1]), _siblings(model, fault['loc']))}"
    if kind in {"missing", "missing_argument", "missing_keyword_only_argument"}:
        return "missing; this key is required."
    if kind == "value_error":
        return f"{fault['ctx']['error']}".rstrip(".") + "."
    text = str(fault["msg"]).removeprefix("Input should be ")
    return f"{given!r} should be {text}." if text != fault["msg"] else f"{text}."


def _siblings(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are known where an unknown one was found."""
    current: Any = model
    for part in location[:-1]:
        if isinstance(current, type) and issubclass(current, BaseModel):
            named = {info.alias or name: info.annotation for name, info in current.model_fields.items()}
            if part == "space":
                return ["float", "int", "choice", "log", "step", "default"]
            current = named.get(str(part))
        elif is_dataclass(current):
            current = get_type_hints(current).get(str(part))
        options = [option for option in get_args(current) if isinstance(option, type)]
        current = next((o for o in options if is_dataclass(o) or issubclass(o, BaseModel)), current)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return [info.alias or name for name, info in current.model_fields.items()]
    return [field.name for field in fields(current)] if is_dataclass(current) else []


def _apply_overrides(document: dict[str, Any], overrides: Mapping[str, str]) -> None:
    for key, text in overrides.items():
        try:
            value = yaml.load(text, _Loader)
        except (yaml.YAMLError, _YamlError) as error:
            raise SpecError(f"--set {key}={text}: not a value ({error}).") from error
        section = key.split(".")[0]
        space = document.get("space")
        if section in {"search", "objective"}:
            _put(document, key, value)
        elif section == "loss" or (isinstance(space, dict) and key in space):
            if isinstance(space, dict):
                document["space"] = {name: parameter for name, parameter in space.items() if name != key}
            document.setdefault("fixed", {})[key] = value
        elif key == "method":
            document["method"] = value
        else:
            setting = document.get("on")
            known = list(Setting.model_fields)
            if section not in known:
                raise SpecError(
                    f"--set {key}: unknown key.{did_you_mean(section, [*known, 'loss', 'search', 'objective'])}"
                )
            if isinstance(setting, dict):
                _put(setting, key, value)


def _put(document: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        inner = document.setdefault(part, {})
        if not isinstance(inner, dict):
            raise SpecError(f"--set {key}: `{part}` holds a value, not keys.")
        document = inner
    document[last] = value


def _check_space(spec: SearchSpec, faults: _Faults) -> None:
    """Build a configuration at each end of each range alone, so that a bad space fails here and not on a GPU."""
    for key in spec.fixed:
        _try(faults, f"fixed.{key}", spec, {key: spec.fixed[key]})
    if faults.lines:
        return
    for key, parameter in spec.space.items():
        if key not in searchable_keys(spec.method):
            _try(faults, f"space.{key}", spec, {key: parameter.ends[0]})
            continue
        for end in parameter.ends:
            _try(faults, f"space.{key}", spec, {key: end})
    if faults.lines:
        return
    for key, value in spec.defaults().items():
        parameter = spec.space[key]
        is_inside = value in parameter.ends if isinstance(parameter, Choice) else _within(value, parameter.ends)
        if not is_inside:
            faults.add(
                f"space.{key}", f"the setting's value {value} lies outside {list(parameter.ends)}; give a default."
            )


def _within(value: Any, ends: Iterable[Any]) -> bool:
    low, high = ends
    return isinstance(value, (int, float)) and bool(low <= value <= high)


def _try(faults: _Faults, key: str, spec: SearchSpec, params: dict[str, Any]) -> None:
    try:
        spec.resolve(params)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            faults.add(key, _message(fault, SearchSpec))
    except InputError as error:
        faults.add(key, str(error))


def _with_absolute_paths(spec: SearchSpec, setting_path: Path, data_root: str | Path | None) -> SearchSpec:
    """Ray moves a worker to its own folder, so every path is made absolute here."""
    root = Path(data_root or os.environ.get("LTTUNE_DATA") or ".").expanduser().absolute()
    data = spec.on.data
    faults: list[str] = []

    def absolute(split: str, paths: SplitPaths | None) -> SplitPaths | None:
        if paths is None:
            return None
        made = SplitPaths(annotations=str(root / paths.annotations), images=str(root / paths.images))
        if not Path(made.annotations).is_file():
            faults.append(
                f"{setting_path}: data.{split}.annotations: there is no file {made.annotations}; set --data-root."
            )
        if not Path(made.images).is_dir():
            faults.append(f"{setting_path}: data.{split}.images: there is no folder {made.images}; set --data-root.")
        return made

    data = replace(data, train=absolute("train", data.train), val=absolute("val", data.val))
    stage1, detector = spec.on.stage1, spec.on.detector
    if stage1.checkpoint is not None:
        stage1 = replace(stage1, checkpoint=str(Path(stage1.checkpoint).expanduser().absolute()))
        if not Path(stage1.checkpoint or "").is_file():
            faults.append(f"{setting_path}: stage1.checkpoint: there is no file {stage1.checkpoint}.")
    if detector.weights is not None:
        detector = replace(detector, weights=str(Path(detector.weights).expanduser().absolute()))
        if not Path(detector.weights or "").is_file():
            faults.append(f"{setting_path}: detector.weights: there is no file {detector.weights}.")
    if faults:
        raise SpecError("\n".join(faults))
    setting = spec.on.model_copy(update={"data": data, "stage1": stage1, "detector": detector})
    return spec.model_copy(update={"on": setting})
