"""The reference of search spaces and settings from the schema: `python -m lttune.spec.reference FILE` writes it."""

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from lttune.engine.config import Recipe
from lttune.losses import LOSSES
from lttune.spec.search import Asha, Objective, Resources, SearchOptions, Setting, searchable_keys

_HEAD = """\
# Reference of search spaces and settings

Made from the schema by `python -m lttune.spec.reference docs/reference.md`; a test compares it with what is here.
How to write a space is told in [search_spaces.md](search_spaces.md), what the values of each method mean in
[methods.md](methods.md).
"""
_PARAMETERS = """\
## Searched values: `space`

| kind | keys |
|---|---|
| `{float: [low, high]}` | `log: true` for a log scale, `default`, `when` |
| `{int: [low, high]}` | `log: true`, or `step`, `default`, `when` |
| `{choice: [a, b]}` | `default`, else the first; `when` |
| a list of these | alternatives with conditions that exclude one another |

`when: {method: [acsl, rog], sampler.name: repeat}` samples a value only where the named choices, which stand above it,
have one of these values. Without `default` the setting's value is tried first.
"""


def reference() -> str:
    """The reference as Markdown."""
    parts = [_HEAD, "## The search\n"]
    parts += [_table("objective", Objective), _table("search", SearchOptions), _table("search.asha", Asha)]
    parts.append(_PARAMETERS)
    parts.append("## Values of the losses: `loss.*` by `method`\n")
    for method, loss in sorted(LOSSES.items()):
        own = [key for key in searchable_keys(method) if key.startswith("loss.") and key.count(".") == 1]
        nested = sorted({key.split(".")[1] for key in searchable_keys(method) if key.count(".") == 2})
        parts.append(_table(f"method: {method}", loss.Hyperparameters, prefix="loss.", only=own))
        if nested:
            groups = ", ".join(f"`loss.{name}.*`" for name in nested)
            parts.append(f"Besides, {groups}: the values of these losses, for the one that `object_loss` names.\n")
    parts.append("## What trains: `recipe.*`\n")
    recipe = ["recipe.parts", "recipe.classifier_start"]
    parts.append(_table("of the method, unless a search fixes it", Recipe, prefix="recipe.", only=recipe))
    parts.append("## The setting: `on`\n\nA `search_spaces/on/*.yaml` file, or a mapping in the space itself.\n")
    parts.append(_table("the setting itself", Setting))
    for name, kind in _groups(Setting):
        parts.append(_table(f"{name}", kind, prefix=f"{name}."))
    parts.append(_table("resources", Resources, prefix="resources."))
    return "\n".join(part.rstrip("\n") + "\n" for part in parts if part)


def _groups(kind: Any) -> Iterator[tuple[str, type]]:
    """The dataclasses among a setting's fields, each once."""
    seen: set[type] = set()
    for name, annotation in get_type_hints(kind).items():
        for option in (annotation, *get_args(annotation)):
            if isinstance(option, type) and is_dataclass(option) and option not in seen:
                seen.add(option)
                yield name, option
                yield from ((f"{name}.{inner}", one) for inner, one in _groups(option) if one not in seen)


def _table(title: str, kind: type, *, prefix: str = "", only: list[str] | None = None) -> str:
    rows = [row for row in _rows(kind, prefix) if only is None or row[0] in only]
    if not rows:
        return f"### {title}\n\nNo values of its own.\n"
    lines = [f"| `{key}` | {what} | {default} | {text} |" for key, what, default, text in rows]
    return "\n".join([f"### {title}\n", "| key | value | default | |", "|---|---|---|---|", *lines]) + "\n"


def _rows(kind: Any, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    texts = _attribute_texts(kind)
    hints = get_type_hints(kind)
    for name, default in _defaults(kind):
        if not name.startswith("_") and name in hints:
            yield f"{prefix}{name}", _type_text(hints[name]), default, texts.get(name, "")


def _defaults(kind: Any) -> Iterator[tuple[str, str]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, info in kind.model_fields.items():
            made = info.default_factory is not None
            yield name, "" if made else "required" if info.default is PydanticUndefined else _shown(info.default)
        return
    for field in fields(kind):
        made = field.default_factory is not MISSING
        yield field.name, "" if made else "required" if field.default is MISSING else _shown(field.default)


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return f"`{ {None: 'null', True: 'true', False: 'false'}[value] }`".replace(" ", "")
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:.6g}`" if isinstance(value, float) else f"`{value}`"


_WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "null"}


def _type_text(annotation: Any) -> str:
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_type_text(arguments[0])}s"
    if arguments:
        return " or ".join(dict.fromkeys(_type_text(argument) for argument in arguments if argument is not Ellipsis))
    return "keys" if isinstance(annotation, type) else str(annotation)


def _attribute_texts(kind: type) -> dict[str, str]:
    """What a docstring's `Attributes:` says of each name."""
    _, found, block = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    if not found:
        return {}
    texts: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \w)", block):
        names, colon, text = entry.strip().partition(": ")
        if colon:
            words = " ".join(text.split()).replace("|", "\\|")
            texts |= {name.strip(): words for name in names.split(",")}
    return texts


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
