"""Says what a cluster has, as one line of JSON on standard output: the first job of a submission.

It runs before anything is known of that place, so it imports the standard library alone; what it finds is compared with
the client by `differences`.
"""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# The line begins with this, so that it is found among whatever else is printed there.
MARK = "lttune-preflight "
ABSENT = "absent"
# Must be of the same version; of any other package it is enough that it is there.
_COMPARED = ("ray", "torch", "torchvision", "detectron2")


def look(packages: Iterable[str], paths: Iterable[str], out: str | None) -> dict[str, Any]:
    """What is here.

    Args:
        packages: distributions whose version is asked for.
        paths: files and folders that a search reads.
        out: the folder that it writes to.
    """
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "lttune": source_digest(),
        "packages": {name: _version(name) for name in packages},
        "missing_paths": [path for path in paths if not Path(path).exists()],
        "out_fault": None if out is None else _out_fault(Path(out)),
    }


def source_digest() -> str:
    """A digest of lttune's own source, as it would be imported here."""
    found = find_spec("lttune")
    if found is None or not found.submodule_search_locations:
        return ABSENT
    root = Path(next(iter(found.submodule_search_locations)))
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def differences(here: Mapping[str, Any], there: Mapping[str, Any], *, uses_detectron2: bool) -> list[str]:
    """What keeps the cluster from running what the client would run, a line each.

    Args:
        here: what `look` found on the client.
        there: what it found on the cluster.
        uses_detectron2: whether a version of it that differs matters; `auto` takes it where it is installed.
    """
    lines = []
    if here["python"] != there["python"]:
        lines.append(f"Python is {there['python']} there, {here['python']} here")
    if here["lttune"] != there["lttune"]:
        lines.append(
            f"lttune is another one there ({there['lttune']}) than the one sent ({here['lttune']}): an installed one "
            "comes first in its import path"
        )
    for name, own in here["packages"].items():
        other = there["packages"].get(name, ABSENT)
        if name == "detectron2" and not uses_detectron2:
            continue
        is_needed = name in _COMPARED or other == ABSENT
        if is_needed and _public(own) != _public(other):
            lines.append(f"{name} is {other} there, {own} here")
    lines += [f"{path} is not there" for path in there["missing_paths"]]
    if there["out_fault"]:
        lines.append(there["out_fault"])
    return lines


def _public(number: str) -> str:
    """A version without its build (`+cpu`, `+cu126`), which may differ."""
    return number.partition("+")[0]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ABSENT


def _out_fault(out: Path) -> str | None:
    """Why a folder cannot be written to, if it cannot."""
    nearest = next((folder for folder in (out, *out.parents) if folder.exists()), out)
    is_writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    return None if is_writable else f"--out {out} cannot be written there: {nearest} is not a folder open to its user"


def main(arguments: Sequence[str]) -> None:
    """Print the line; the one argument is the JSON object of the arguments of `look`."""
    print(MARK + json.dumps(look(**json.loads(arguments[0]))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
