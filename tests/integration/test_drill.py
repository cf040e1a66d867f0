"""Three kills, one of each kind; `make drill` has ten."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_three_kills_leave_what_an_undisturbed_search_found(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.drill", "--kills", "3", "--seed", "1", "--out", str(tmp_path / "out")]
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    rows = [line for line in ran.stdout.splitlines() if line.startswith("| ") and "at start" not in line]
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert sorted(row.split(" | ")[1] for row in rows) == ["driver", "node", "worker"]
    assert all(row.endswith("| as undisturbed |") for row in rows)
