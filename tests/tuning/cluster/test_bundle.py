import zipfile
from pathlib import Path

import pytest

from lttune.errors import ClusterError, InputError
from lttune.tuning.cluster.bundle import SPEC_NAME, bundle


def test_it_holds_lttune_the_space_and_own_modules_and_nothing_else(tmp_path: Path) -> None:
    package = tmp_path / "my_losses"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__init__.py").write_text("MINE = 1\n")
    (package / "__pycache__" / "__init__.cpython-311.pyc").write_bytes(b"compiled")
    (tmp_path / "single.py").write_text("ALONE = 1\n")
    with bundle("schema: 1\n", modules=[package, tmp_path / "single.py"]) as archive, zipfile.ZipFile(archive) as file:
        names = set(file.namelist())
        assert file.read(SPEC_NAME) == b"schema: 1\n"
    assert {"lttune/cli/search.py", "trainables/acsl.py", "search_spaces/on/glyphs.yaml"} <= names
    assert {"my_losses/__init__.py", "single.py"} <= names
    tops = {name.split("/")[0] for name in names}
    assert len([top for top in tops if top.endswith(".dist-info")]) == 1
    assert tops - {top for top in tops if top.endswith(".dist-info")} == {
        *("lttune", "trainables", "search_spaces", "my_losses", "single.py", SPEC_NAME)
    }
    assert not [name for name in names if name.endswith(".pyc")]
    assert not archive.exists()


def test_the_same_contents_give_the_same_bytes() -> None:
    with bundle("a: 1\n") as first, bundle("a: 1\n") as second, bundle("a: 2\n") as other:
        assert first.read_bytes() == second.read_bytes()
        assert first.read_bytes() != other.read_bytes()


def test_too_large(tmp_path: Path) -> None:
    import random

    (tmp_path / "weights.py").write_text(f"WEIGHTS = '{random.Random(0).randbytes(200_000).hex()}'\n")
    with (
        pytest.raises(
            ClusterError, match=r"has \d\.\d MB, and 0\.1 MB is the limit; its largest file is weights\.py\."
        ),
        bundle("a: 1\n", modules=[tmp_path / "weights.py"], limit_bytes=100_000),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.py", "there is no such file or folder; correct the path"),
        ("lttune.py", "the name 'lttune' is lttune's own; rename it"),
        ("data", "not a Python package"),
        ("table.csv", "not a Python file"),
    ],
)
def test_modules_that_cannot_be_sent(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for file in ("lttune.py", "table.csv"):
        (tmp_path / file).write_text("")
    with pytest.raises(InputError, match=message), bundle(None, modules=[tmp_path / name]):
        pass


def test_a_file_with_the_token_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "planted-token-4711")
    (tmp_path / "mine.py").write_text("TOKEN = 'planted-token-4711'\n")
    with (
        pytest.raises(ClusterError, match=r"^mine\.py holds the token") as raised,
        bundle(None, modules=[tmp_path / "mine.py"]),
    ):
        pass
    assert "4711" not in str(raised.value)
