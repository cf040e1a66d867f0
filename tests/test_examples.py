"""The examples run as they stand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: Path, *arguments: str, folder: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "LTTUNE_"))}
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_no_others() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"own_loss.py", "run_search.py"}


@pytest.mark.slow
def test_run_search(tmp_path: Path) -> None:
    printed = run(EXAMPLES / "run_search.py", "out", folder=tmp_path).splitlines()
    assert [line.split(":")[0] for line in printed] == [
        *(f"trial {number} COMPLETE" for number in range(3)),
        "best",
        "report half",
    ]
    assert (tmp_path / "out" / "best_from_python" / "weights.safetensors").is_file()
    assert run(EXAMPLES / "run_search.py", "out", folder=tmp_path).splitlines() == printed


@pytest.mark.slow
def test_own_loss_as_a_script(tmp_path: Path) -> None:
    printed = run(EXAMPLES / "own_loss.py", "out", folder=tmp_path).splitlines()
    assert [line.split(":")[0] for line in printed] == ["published values", "best of 3"]
    assert "own_loss" in (tmp_path / "out" / "focal_published" / "run.json").read_text()


@pytest.mark.slow
def test_own_loss_as_a_module_that_only_the_driver_knows_the_path_of(tmp_path: Path) -> None:
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(
        f"import sys\nsys.path.append({str(EXAMPLES)!r})\nimport lttune\nfrom own_loss import SPACE, FocalTrainable\n"
        "spec = lttune.load_spec(SPACE, trainable=FocalTrainable, overrides={'search.trials': 1})\n"
        "end = lttune.run_search(spec, 'focal', out='out', trainable=FocalTrainable)\n"
        "print(end.result.trials[0].state)\n"
        "lttune.export_best('focal', 'best', out='out', trainable=FocalTrainable)\n"
        "print(lttune.evaluate('best', out='out', trainable=FocalTrainable)['AP'])\n"
    )
    state, _ = run(script, folder=tmp_path).splitlines()
    assert state == "COMPLETE"
