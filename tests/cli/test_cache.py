import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lttune.engine.cache import building, touch

Run = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two things of 1 and 2 MB, the larger one used last."""
    cache = tmp_path / "lttune_runs" / "cache"
    for number, name in enumerate(("stage1-aaaabbbbcccc", "features-ddddeeeeffff"), 1):
        (cache / name).mkdir(parents=True)
        (cache / name / "file.bin").write_bytes(b"x" * number * 1_000_000)
        touch(cache, name)
    return cache


def test_list(store: Path, lttune: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with building(store / "features-ddddeeeeffff", "features"):
        lines = lttune("cache", "list").out.splitlines()
        listed = json.loads(lttune("cache", "list", "--json").out)
    assert [line.split()[:4] for line in lines[:2]] == [
        ["stage1", "aaaabbbbcccc", "1.0", "MB"],
        ["features", "ddddeeeeffff", "2.0", "MB"],
    ]
    assert "used by process" in lines[1]
    assert lines[2] == f"3.0 MB in {store}"
    assert [(entry["name"], entry["bytes"], len(entry["users"])) for entry in listed["entries"]] == [
        ("stage1-aaaabbbbcccc", 1_000_000, 0),
        ("features-ddddeeeeffff", 2_000_000, 1),
    ]
    monkeypatch.setenv("LTTUNE_CACHE", str(store / "elsewhere"))
    monkeypatch.setenv("LTTUNE_CACHE_QUOTA", "20GB")
    assert lttune("cache", "list").out == f"0 B of 20.0 GB in {store / 'elsewhere'}\n"


def test_prune(store: Path, lttune: Run) -> None:
    assert lttune("cache", "prune", "--keep", "2MB", "--dry-run").out.splitlines() == [
        "would remove stage1-aaaabbbbcccc  1.0 MB",
        "would remove 1.0 MB; 2.0 MB stay",
    ]
    assert (store / "stage1-aaaabbbbcccc").exists()
    with building(store / "features-ddddeeeeffff", "features"):
        assert lttune("cache", "prune", "--all").out.splitlines()[-1] == "removed 1.0 MB; 2.0 MB stay"
    assert lttune("cache", "prune", "--all").out.splitlines()[-1] == "removed 2.0 MB"
    assert lttune("cache", "prune", "--all").out == "removed 0 B\n"


def test_an_object_store_is_no_output_folder(lttune: Run, tmp_path: Path) -> None:
    ran = lttune("cache", "list", "--out", "s3://bucket/runs")
    assert ran.code == 2
    assert "s3:/bucket/runs is an object store, and a study needs a folder that can be appended to" in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say how much may stay, --keep 20GB or --all, or set LTTUNE_CACHE_QUOTA"),
        (("--keep", "20"), "'20' is not a size; write it as 500MB"),
        (("--keep", "1GB", "--all"), "--keep and --all exclude each other"),
    ],
)
def test_what_is_wrong(arguments: tuple[str, ...], message: str, store: Path, lttune: Run) -> None:
    ran = lttune("cache", "prune", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
