"""YAML as people write it: 1e-3 is a number, `on` is a word, and no key counts twice."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lttune.errors import SpecError

_BOOL, _FLOAT, _TIMESTAMP, _MERGE, _STR = (
    f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "timestamp", "merge", "str")
)
# YAML 1.1 wants a dot in the mantissa and a sign in the exponent; people write 1e-3 and 5E4.
_SHORT_FLOAT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")


class _Loader(yaml.SafeLoader):
    """Safe YAML 1.1 without dates, and with no other booleans than true and false."""


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read as text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in {_BOOL, _TIMESTAMP}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_FLOAT, *_SHORT_FLOAT)
_Dumper.add_implicit_resolver(_FLOAT, *_SHORT_FLOAT)


def read_yaml(path: Path) -> dict[str, Any]:
    """One YAML mapping, read safely.

    Raises:
        SpecError: not readable, not YAML, not a mapping, or keys that are given twice or are no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}; give the path of a YAML file.") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    document = parse_yaml(text, str(path))
    if not isinstance(document, dict):
        found = "is empty" if document is None else f"holds {document!r:.60}"
        raise SpecError(f"{path}: {found}; write `key: value` lines.")
    return document


def parse_yaml(text: str, source: str) -> Any:
    """The plain values of one YAML document.

    Args:
        source: what messages call it.

    Raises:
        SpecError: not YAML, or keys that are given twice or are no text; one line each.
    """
    faults: list[str] = []
    document = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            faults = list(_key_faults(node, "", ()))
            document = None if faults else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        faults = [f"line {mark.line + 1}: not YAML: {error.problem}." if mark else f"not YAML: {error.problem}."]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        faults = [f"not YAML: {str(error).splitlines()[0]}."]
    if faults:
        raise SpecError("\n".join(f"{source}: {fault}" for fault in faults))
    return document


def to_yaml(document: Any) -> str:
    """Text that `parse_yaml` reads as the same plain values."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120)


def _key_faults(node: yaml.Node, path: str, parents: tuple[int, ...]) -> Iterator[str]:
    if id(node) in parents:
        yield f"{path}: holds itself; write its values out."
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _key_faults(item, f"{path}[{i}]", (*parents, id(node)))
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line, name = key.start_mark.line + 1, str(key.value)
            where = f"{path}.{name}" if path else name
            if key.tag != _MERGE:
                if key.tag != _STR:
                    yield f"{where}: line {line}: the key {name} is not text; put it in quotes or correct it."
                elif name in lines:
                    both = f"line {line}" if line == lines[name] else f"lines {lines[name]} and {line}"
                    yield f"{where}: given twice, on {both}; keep one."
                lines[name] = line
            yield from _key_faults(value, where, (*parents, id(node)))
