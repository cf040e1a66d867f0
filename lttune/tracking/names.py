"""Names and values in the form that MLflow takes: its own validation refuses the rest."""

import re
from collections.abc import Iterator, Mapping

import orjson

MAX_KEY_LENGTH, MAX_PARAM_LENGTH, MAX_TAG_LENGTH = 250, 6000, 8000


def key(name: str) -> str:
    """A key for a param, metric or tag: allowed characters, allowed length, no path that leads elsewhere."""
    allowed = re.sub(r"[^/\w.\- ]", "_", name)[:MAX_KEY_LENGTH]
    parts = [part for part in allowed.split("/") if part not in ("", ".", "..")]
    # MLflow takes every key that begins with two dots for a way out of its folder.
    return re.sub(r"^\.\.", "__", "/".join(parts)) or "_"


def flat_params(params: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Params by key, nested ones joined with `/`, as text."""
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from flat_params(value, f"{prefix}{name}/")
        else:
            text = orjson.dumps(value).decode() if isinstance(value, list | dict) else str(value)
            yield key(f"{prefix}{name}"), text[:MAX_PARAM_LENGTH]


def tags_by_key(tags: Mapping[str, str]) -> dict[str, str]:
    """Our tags under the prefix `lttune.`; MLflow's own keep their name."""
    return {
        key(name if name.startswith("mlflow.") else f"lttune.{name}"): str(value)[:MAX_TAG_LENGTH]
        for name, value in tags.items()
    }
