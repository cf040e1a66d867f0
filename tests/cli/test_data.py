"""`lttune data synth` writes the dataset that it is asked for, once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

Run = Callable[..., Any]
SMALL = ["--categories", 4, "--images", 15, "--size", 64, "--seed", 3]


def test_a_small_dataset(lttune: Run, tmp_path: Path) -> None:
    ran = lttune("data", "synth", "glyphs", *SMALL, "--val", "longtail")
    assert ran.code == 0
    train, val = (orjson.loads(Path(line).read_bytes()) for line in ran.out.splitlines())
    assert (len(train["images"]), len(val["images"]), len(train["categories"])) == (15, 4, 4)
    assert train["images"][0]["height"] == 64


def test_the_same_seed_gives_the_same_bytes(lttune: Run, tmp_path: Path) -> None:
    for name in ("first", "second"):
        assert lttune("data", "synth", name, *SMALL).code == 0
    first = {path.relative_to(tmp_path / "first"): path.read_bytes() for path in (tmp_path / "first").rglob("*.*")}
    second = {path.relative_to(tmp_path / "second"): path.read_bytes() for path in (tmp_path / "second").rglob("*.*")}
    assert first == second
    assert len(first) > 19


def test_nothing_is_written_over(lttune: Run, tmp_path: Path) -> None:
    (tmp_path / "glyphs").mkdir()
    (tmp_path / "glyphs" / "mine").touch()
    ran = lttune("data", "synth", "glyphs", *SMALL)
    assert ran.code == 2
    assert "glyphs exists and is not an empty folder; name another one." in ran.err
    assert [path.name for path in (tmp_path / "glyphs").iterdir()] == ["mine"]
