"""`lttune data` writes the dataset that it is asked for, once, and tells what is in a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

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


@pytest.fixture
def glyphs(lttune: Run) -> tuple[Path, Path]:
    train, val = (Path(line) for line in lttune("data", "synth", "glyphs", *SMALL).out.splitlines())
    return train, val


def test_sound_data_end_with_0(lttune: Run, glyphs: tuple[Path, Path]) -> None:
    train, val = glyphs
    ran = lttune("data", "validate", train, "--images", train.with_suffix(""), "--val", val)
    assert ran.code == 0
    assert "15 images, " in ran.out
    assert "0 errors" in ran.out


def test_broken_data_end_with_1_and_their_defects(lttune: Run, glyphs: tuple[Path, Path]) -> None:
    document = orjson.loads(glyphs[0].read_bytes())
    del document["annotations"][0]["bbox"]
    document["annotations"][1]["bbox"] = [1000, 0, 5, 5]
    Path("broken.json").write_bytes(orjson.dumps(document))
    Path("glyphs/train/00000001.jpg").write_bytes(b"none")
    ran = lttune("data", "validate", "broken.json", "--images", "glyphs/train")
    assert ran.code == 1
    for line in ("annotations.bbox is missing: id 1", "box lies outside its image: id 2", "image cannot be used: id 1"):
        assert line in ran.out
    ran = lttune("data", "validate", "broken.json", "--json")
    found = json.loads(ran.out)
    assert (ran.code, found["breaks_training"]) == (1, True)
    assert {finding["what"]: finding["ids"] for finding in found["findings"]}["box lies outside its image"] == [2]


def test_a_description_and_its_plot(lttune: Run, glyphs: tuple[Path, Path]) -> None:
    ran = lttune("data", "describe", glyphs[0], "--groups", 2, 4, "--plot", "plot.png")
    assert ran.code == 0
    assert "LVIS format, 15 images" in ran.out
    assert "common            3 to 4" in ran.out
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(lttune("data", "describe", glyphs[0], "--json").out)
    assert sum(group["num_categories"] for group in found["groups"]) == found["num_categories"] == 4
    assert not Path("lttune_runs").exists()


def test_the_halves_of_a_search(lttune: Run, glyphs: tuple[Path, Path]) -> None:
    ran = lttune("data", "split", glyphs[1], "--train", glyphs[0], "--to", "halves")
    assert ran.code == 0
    assert [line.split()[:2] for line in ran.out.splitlines()[2:5]] == [["tune", "2"], ["report", "2"], ["both", "4"]]
    tune, report = (orjson.loads(Path(f"halves/{name}.json").read_bytes()) for name in ("tune", "report"))
    assert len(tune["images"]) == len(report["images"]) == 2
    assert json.loads(lttune("data", "split", glyphs[1], "--json").out)["parts"][2]["name"] == "both"


def test_a_cache_that_is_there_is_used(lttune: Run, glyphs: tuple[Path, Path]) -> None:
    Path("runs/cache").mkdir(parents=True)
    first = lttune("data", "describe", glyphs[0], "--out", "runs")
    assert list(Path("runs/cache/annotations").glob("*/boxes_xywh.npy"))
    assert lttune("data", "describe", glyphs[0], "--out", "runs").out == first.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validate", "none.json"], "none.json: no such file"),
        (["describe", "none.json"], "none.json: no such file"),
        (["split", "none.json"], "none.json: no such file"),
        (["describe", "none.json", "--groups", "1"], "Option '--groups' requires 2 arguments."),
    ],
)
def test_bad_input_ends_with_2(lttune: Run, arguments: list[str], message: str) -> None:
    ran = lttune("data", *arguments)
    assert ran.code == 2
    assert message in ran.err


@pytest.mark.parametrize("command", ["synth", "validate", "describe", "split"])
def test_each_explains_itself(lttune: Run, command: str) -> None:
    ran = lttune("data", command, "--help")
    assert ran.code == 0
    assert f"lttune data {command} [OPTIONS]" in ran.out.splitlines()[0]
