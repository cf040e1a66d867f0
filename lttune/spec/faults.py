"""What is wrong in a document, one line per fault, with file and key path."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from lttune.errors import SpecError, did_you_mean

_T = TypeVar("_T")

# Pydantic's words for these tell of parsers and Python types.
_NOT_A = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "dict_type": "a mapping of keys to values",
    "mapping_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "dataclass_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "list_type": "a list",
}
_PARAMETER_KEYS = ["float", "int", "choice", "log", "step", "default", "when"]


@dataclass(frozen=True)
class Fault:
    """One fault; `key` and `text` make a sentence with `joint` between them."""

    key: str
    text: str
    joint: str = ": "

    @property
    def line(self) -> str:
        return f"{self.key}{self.joint}{self.text}"


class Faults:
    """Collects the faults of a search space, of its setting and of `--set` values.

    Args:
        file: of the search space.
        overrides: keys that were given by `--set`.
    """

    def __init__(self, file: Path, overrides: Collection[str] = ()) -> None:
        self._file = file
        self._overrides = overrides
        self._lines: list[str] = []
        self.setting_file: Path | None = None  # None where the search space holds the setting itself

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, fault: Fault) -> None:
        """A fault at a key of the search space; keys below `on.` are named in the setting's own file."""
        file, key = self._file, fault.key
        if key.startswith("on.") and self.setting_file is not None:
            file, key = self.setting_file, key.removeprefix("on.")
        given = key.removeprefix("on.").removeprefix("fixed.")
        if any(given == name or given.startswith(f"{name}.") for name in self._overrides):
            self._lines.append(f"--set {given}{fault.joint}{fault.text}")
        else:
            self._lines.append(f"{file}: {key}{fault.joint}{fault.text}")

    def add_lines(self, error: SpecError) -> None:
        """Faults whose lines name their file already."""
        self._lines += str(error).splitlines()

    def raise_any(self) -> None:
        """Raise SpecError with every line, where there is one."""
        if self._lines:
            raise SpecError("\n".join(dict.fromkeys(self._lines)))


def validate(adapter: TypeAdapter[_T], kind: Any, document: Any, *, context: Any = None) -> _T:
    """The typed value of plain ones, as strictly as JSON: text is no number, a fraction no whole one.

    Args:
        kind: the adapter's type.
        context: for the type's own validators.

    Raises:
        pydantic.ValidationError: see `validation_faults`.
    """
    return adapter.validate_json(json.dumps(document, default=str), strict=True, context=context)


def validation_faults(error: ValidationError, kind: Any, prefix: str = "") -> Iterator[Fault]:
    """The faults that pydantic found.

    Args:
        kind: the type that was validated.
        prefix: key path of the document.
    """
    for fault in error.errors(include_url=False):
        yield _fault(fault, kind, prefix)


def _fault(found: Any, kind: Any, prefix: str) -> Fault:
    location, given, what = found["loc"], found["input"], found["type"]
    path = _key_path(prefix, location)
    if what in {"extra_forbidden", "unexpected_keyword_argument"}:
        return Fault(path, f"unknown key.{did_you_mean(str(location[-1]), _known_keys(kind, location[:-1]))}")
    if what in {"missing", "missing_argument", "missing_keyword_only_argument"}:
        return Fault(path, "missing; this key is required.")
    if what == "value_error":
        text = str(found["ctx"]["error"])
        return _named_fault(text if text.endswith((".", "?")) else f"{text}.", path, _known_keys(kind, location))
    if what in _NOT_A:
        return Fault(path, f"{_shown(given)} is not {_NOT_A[what]}.")
    if what == "literal_error":
        expected = str(found["ctx"]["expected"])
        return Fault(path, f"{_shown(given)} is not {expected}.")
    if what == "parameter_kind":
        return Fault(path, f"{found['msg']}.")
    return Fault(path, f"{_shown(given)} {str(found['msg']).replace('Input should', 'should')}.")


def _named_fault(text: str, path: str, fields_there: list[str]) -> Fault:
    """A `__post_init__` names its field in the text, because pydantic gives the parent's path only."""
    named, _, rest = text.partition(" ")
    section, _, field = named.rpartition(".")
    if section and field in fields_there:
        return Fault(f"{path}.{field}" if path else field, rest, " ")
    if path and path.split(".")[-1] == named:
        return Fault(path, rest, " ")
    return Fault(path, text)


def _key_path(prefix: str, location: tuple[int | str, ...]) -> str:
    parts = list(location)
    if parts[:1] == ["space"] and len(parts) > 2:
        # Past the key come the tags of the parameters' kinds.
        is_list = parts[2] == "alternatives"
        del parts[2]
        if is_list:
            del parts[3:4]
    path = prefix
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _known_keys(kind: Any, location: tuple[int | str, ...]) -> list[str]:
    """The keys that exist at a place of a document."""
    current = kind
    for part in location:
        if part == "space":
            return _PARAMETER_KEYS
        if isinstance(current, type) and issubclass(current, BaseModel):
            named = {info.alias or name: info.annotation for name, info in current.model_fields.items()}
            current = named.get(str(part))
        elif is_dataclass(current) and isinstance(current, type):
            current = get_type_hints(current).get(str(part))
        options = [option for option in get_args(current) if isinstance(option, type)]
        current = next((o for o in options if is_dataclass(o) or issubclass(o, BaseModel)), current)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return [info.alias or name for name, info in current.model_fields.items()]
    return [field.name for field in fields(current)] if is_dataclass(current) else []


def _shown(value: Any) -> str:
    """A value as YAML shows it, in quotes where it is text."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
