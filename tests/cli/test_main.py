"""Commands are found, explained, and refuse what is wrong with exit code 2, one message, and nothing written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lttune.cli import _COMMANDS, group
from lttune.errors import StudyError

Run = Callable[..., Any]


def test_help_names_every_command(lttune: Run) -> None:
    ran = lttune("--help")
    assert ran.code == 0
    for name, summary in _COMMANDS.items():
        assert f"  {name}" in ran.out
        assert summary in ran.out


@pytest.mark.parametrize("command", [*_COMMANDS, "data synth"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself(command: str, flag: str, lttune: Run) -> None:
    ran = lttune(*command.split(), flag)
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: lttune {command}") or f"{command} [" in ran.out.splitlines()[0]
    assert ran.err == ""


def test_version(lttune: Run) -> None:
    ran = lttune("--version")
    assert (ran.code, ran.out.startswith("lttune 0.")) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serch"], "there is no command 'serch'. Did you mean 'search'?"),
        (["search"], "Missing argument 'SPEC'"),
        (["search", "acsl", "--trials", "0"], "Invalid value for '--trials'"),
        (["search", "acsl", "--set", "x"], "'x' is not KEY=VALUE, for example loss.score_threshold=0.5."),
        (["search", "acsl", "--backend", "mmdet"], "Invalid value for '--backend'"),
        (["search", "acsl", "--study", "a b"], "'a b' cannot name a study"),
        (["search", "acls"], "'acls' is not a search space that comes with lttune. Did you mean 'acsl'?"),
        (["search", "no.yaml"], "no.yaml: there is no such search space file"),
        (["search", "acsl", "--on", "glyfs"], "--on: 'glyfs' is not a setting that comes with lttune."),
        (["search", "acsl", "--set", "search.trails=3"], "--set search.trails: unknown key. Did you mean 'trials'?"),
        (["search", "acsl", "--set", "optim.lr=fast"], "--set optim.lr: value 'fast' is not a number."),
        (["search", "acsl", "--set", "stage1.checkpoint=no.pt"], "--set stage1.checkpoint: there is no file"),
        (["validate", "acls"], "'acls' is not a search space that comes with lttune."),
        (["status", "none"], "there is no study 'none' in"),
        (["resume", "none"], "there is no study 'none' in"),
        (["export", "none", "--to", "x"], "there is no study 'none' in"),
        (["sync", "none"], "there is no study 'none' in"),
        (["ui"], "lttune_runs/mlflow.db; start a search first: lttune search acsl"),
        (["evaluate"], "give either DIR, or both --gt and --detections."),
        (["evaluate", "--gt", "a.json"], "give either DIR, or both --gt and --detections."),
        (["evaluate", "x", "--gt", "a.json"], "give either DIR, or both --gt and --detections."),
        (["evaluate", "x"], "x is not an exported folder: it has no config.yaml. Make one: lttune export"),
        (["data", "synth", "x", "--categories", "0"], "data.glyphs.num_categories is 0; use 1 to 1203."),
        (["data", "synth", "x", "--size", "big"], "Invalid value for '--size'"),
        (["data", "nothing"], "No such command 'nothing'"),
    ],
)
def test_what_is_wrong_ends_with_2_and_writes_nothing(
    arguments: list[str], message: str, lttune: Run, tmp_path: Path
) -> None:
    ran = lttune(*arguments)
    assert ran.code == 2
    assert message in ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == []


def test_every_fault_of_a_file_is_shown(lttune: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("schema: 1\nmethod: acls\non: glyphs\nspace: {optim.lr: {float: [2, 1]}}\n")
    ran = lttune("search", "bad.yaml")
    assert ran.code == 2
    assert ran.err.count(f"{tmp_path / 'bad.yaml'}: ") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (StudyError("held"), 2, "Error: held\n"),
        (OSError(28, "No space left on device"), 2, "Error: the disk is full; free some space. A search goes on with"),
        (PermissionError(13, "Permission denied", "/there"), 2, "Error: /there: Permission denied; choose another"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, message: str, lttune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise error

    command = group.get_command(None, "validate")  # type: ignore[arg-type]
    monkeypatch.setattr(command, "callback", fail)
    ran = lttune("validate", "acsl")
    assert ran.code == code
    assert ran.err.lstrip().startswith(message)
