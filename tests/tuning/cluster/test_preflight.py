import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lttune.tuning.cluster import preflight

PACKAGES = ("ray", "torch", "detectron2", "optuna")


def found(**changes: Any) -> dict[str, Any]:
    return {
        "python": "3.11",
        "lttune": "0123456789ab",
        "packages": {"ray": "2.60.0", "torch": "2.14.0+cpu", "detectron2": "absent", "optuna": "5.0.0"},
        "missing_paths": [],
        "out_fault": None,
        **changes,
    }


def test_it_tells_what_is_here(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    paths = [str(tmp_path / "there"), str(tmp_path / "not")]
    here = preflight.look(["ray", "not-a-package"], paths, str(tmp_path / "new" / "out"))
    assert here["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert here["packages"]["not-a-package"] == "absent"
    assert here["missing_paths"] == [str(tmp_path / "not")]
    assert here["out_fault"] is None
    assert preflight.look([], [], str(tmp_path / "there" / "out"))["out_fault"].endswith("open to its user")


def test_the_same_is_no_difference() -> None:
    assert preflight.differences(found(), found(), uses_detectron2=True) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"python": "3.12"}, "Python is 3.12 there, 3.11 here"),
        ({"lttune": "absent"}, "lttune is another one there"),
        ({"packages": {**found()["packages"], "ray": "2.9.0"}}, "ray is 2.9.0 there, 2.60.0 here"),
        ({"packages": {**found()["packages"], "torch": "2.13.0+cpu"}}, "torch is 2.13.0"),
        ({"packages": {**found()["packages"], "detectron2": "0.6"}}, "detectron2 is 0.6 there, absent here"),
        ({"packages": {**found()["packages"], "optuna": "absent"}}, "optuna is absent there, 5.0.0 here"),
        ({"missing_paths": ["/data/train.json"]}, "/data/train.json is not there"),
        ({"out_fault": "--out /out cannot be written there"}, "--out /out cannot"),
    ],
)
def test_each_difference_is_named(changes: dict[str, Any], line: str) -> None:
    lines = preflight.differences(found(), found(**changes), uses_detectron2=True)
    assert len(lines) == 1
    assert lines[0].startswith(line)


def test_what_does_not_matter() -> None:
    other = {**found()["packages"], "torch": "2.14.0+cu126", "optuna": "4.9.0", "detectron2": "0.6"}
    assert preflight.differences(found(), found(packages=other), uses_detectron2=False) == []


def test_an_installed_lttune_that_comes_first_is_told(tmp_path: Path) -> None:
    # As in a cluster whose image holds another lttune than the one that was sent.
    (tmp_path / "lttune").mkdir()
    (tmp_path / "lttune" / "__init__.py").write_text("")
    script = Path(preflight.__file__)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    arguments = json.dumps({"packages": PACKAGES, "paths": [], "out": None})
    ran = subprocess.run(
        [sys.executable, str(script), arguments], env=environment, capture_output=True, text=True, check=True
    )
    there = json.loads(ran.stdout.removeprefix(preflight.MARK))
    here = preflight.look(PACKAGES, [], None)
    assert there["packages"] == here["packages"]
    lines = preflight.differences(here, there, uses_detectron2=True)
    assert len(lines) == 1
    assert "an installed one comes first" in lines[0]
