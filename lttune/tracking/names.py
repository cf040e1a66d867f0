"""Names and values in the form that MLflow takes: its own validation refuses the rest."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import orjson

MAX_KEY_LENGTH, MAX_PARAM_LENGTH, MAX_TAG_LENGTH = 250, 6000, 8000


def key(name: str) -> str:
    """A key for a param, metric or tag: allowed characters, allowed length, no path that leads elsewhere."""
    allowed = re.sub(r"[^/\w.\- ]", "_", name)[:MAX_KEY_LENGTH]
    parts = [part for part in allowed.split("/") if part not in ("", ".", "..")]
    # MLflow takes every key that begins with two dots for a way out of its folder.
    return re.sub(r"^\.\.", "__", "/".join(parts)) or "_"


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """What people call dotted keys: their last part, where no other key of the study ends in it.

    A loss value that comes more than once is another one in each method that has it, and keeps its whole key.

    Args:
        keys: of everything that a study samples, one for each of its alternatives.
    """
    by_last = defaultdict[str, list[str]](list)
    for name in keys:
        by_last[name.rpartition(".")[2]].append(name)
    return {
        found[0]: last
        for last, found in by_last.items()
        if len(set(found)) == 1 and (len(found) == 1 or not found[0].startswith("loss."))
    }


def cut_lines(text: str, max_bytes: int) -> str:
    """The text, or as many of its first lines as fit and a last one that says so."""
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    last = f"# cut: {len(encoded)} bytes are more than {max_bytes}\n"
    kept = encoded[: max_bytes - len(last)]
    return kept[: kept.rfind(b"\n") + 1].decode() + last


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
