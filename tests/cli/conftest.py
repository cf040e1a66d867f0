"""The `lttune` command, run in this process with its exit code and both outputs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lttune.cli import main


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def lttune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Ran]:
    """Runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("LTTUNE_OUT", "LTTUNE_DATA"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr("sys.argv", ["lttune", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 1, captured.out, captured.err)

    return run
