"""Changes the `resources` of a setting file and nothing else of its text, comments included."""

from collections.abc import Mapping
from typing import Any

import yaml

from lttune.errors import SpecError
from lttune.spec.yaml_text import parse_yaml


def with_resources(text: str, changed: Mapping[str, Any], *, source: str) -> str:
    """The text with some keys of `resources` set.

    Args:
        source: what messages call it.

    Raises:
        SpecError: it is not a setting.
    """
    document = parse_yaml(text, source)
    if not isinstance(document, dict) or "detector" not in document:
        raise SpecError(f"{source}: not a setting, it has no `detector`; name a file as `--on` takes it, or a new one.")
    resources = document.get("resources") or {}
    if not isinstance(resources, dict):
        raise SpecError(
            f"{source}: resources: '{resources}' is not a mapping; write resources: {{cpus: 1, gpus: 0.5}}."
        )
    line = yaml.safe_dump({**resources, **changed}, default_flow_style=True, sort_keys=False, width=10_000).strip()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    for key, value in root.value:
        if key.value == "resources":
            start, end = key.end_mark.index, value.end_mark.index
            rest = text[end:]
            # A block's end lies at the start of the next line that is not its own.
            return f"{text[:start]}: {line}" + (rest if rest.startswith("\n") or value.flow_style else f"\n{rest}")
    return f"{text.rstrip()}\nresources: {line}\n"
