"""Every search space and setting that comes with lttune loads and builds, at trial 0 and at every end of a range."""

from importlib.resources import files
from pathlib import Path

import pytest

from lttune.errors import SpecError
from lttune.spec.load import load_spec
from lttune.spec.search import SearchSpec

FOLDER = Path(str(files("search_spaces")))
SPACES = sorted(FOLDER.glob("*.yaml"))
SETTINGS = sorted(FOLDER.glob("on/*.yaml"))


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which relative data paths start, and the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(source: str, data_root: Path, **options: str) -> SearchSpec:
    """Loads a spec; data that a setting names are made as empty files first."""
    try:
        return load_spec(source, data_root=data_root, **options)  # type: ignore[arg-type]
    except SpecError as error:
        for line in str(error).splitlines():
            _, is_missing, rest = line.partition("there is no ")
            kind, _, path = rest.partition(" ")
            if not is_missing:
                raise
            made = Path(path.split(";")[0])
            (made if kind == "folder" else made.parent).mkdir(parents=True, exist_ok=True)
            if kind == "file":
                made.touch()
        return load_spec(source, data_root=data_root, **options)  # type: ignore[arg-type]


def build_all(spec: SearchSpec) -> None:
    defaults = spec.defaults()
    config = spec.resolve(defaults)
    assert config.method == spec.method
    assert set(defaults) == set(spec.space)
    for key, parameter in spec.space.items():
        for end in parameter.ends:
            assert spec.resolve({**defaults, key: end}) == spec.resolve({**defaults, key: end})


def test_there_are_some() -> None:
    assert "acsl" in {path.stem for path in SPACES}
    assert "glyphs" in {path.stem for path in SETTINGS}


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_search_space(path: Path, data_root: Path) -> None:
    by_name, by_path = load(path.stem, data_root), load(str(path), data_root)
    assert by_name == by_path
    build_all(by_name)


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.stem)
def test_setting(path: Path, data_root: Path) -> None:
    spec = load("acsl", data_root, on=path.stem)
    assert spec.on.description
    build_all(spec)


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_search_spaces_say_how_to_run_themselves(path: Path) -> None:
    assert f"lttune search search_spaces/{path.name}" in path.read_text()
