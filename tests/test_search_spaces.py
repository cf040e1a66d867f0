"""Every search space and setting that comes with lttune loads and builds, at trial 0 and at every end of a range."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from lttune.errors import SpecError
from lttune.spec.load import load_spec
from lttune.spec.search import SearchSpec
from trainables import recipe_of

FOLDER = Path(str(files("search_spaces")))
SPACES = sorted(FOLDER.glob("*.yaml"))
SETTINGS = sorted(FOLDER.glob("on/*.yaml"))


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which relative data paths start, and the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(source: str, data_root: Path, **options: Any) -> SearchSpec:
    """Loads a spec; data that a setting names are made as empty files first."""
    try:
        return load_spec(source, data_root=data_root, recipe_of=recipe_of, **options)
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
        return load_spec(source, data_root=data_root, recipe_of=recipe_of, **options)


def build_all(spec: SearchSpec) -> None:
    sampled = set()
    for method, defaults in zip(spec.methods, spec.initial(), strict=True):
        assert spec.resolve(defaults).method == method
        for draw in spec.draws():
            if draw.key != "method" and draw.is_active(defaults):
                sampled.add(draw.name)
                for end in draw.parameter.ends:
                    assert spec.resolve({**defaults, draw.key: end}) == spec.resolve({**defaults, draw.key: end})
    assert sampled == {draw.name for draw in spec.draws()} - {"method"}


def test_there_are_some() -> None:
    assert {"acsl", "all", "baseline", "ecm", "loce", "rog", "seesaw"} <= {path.stem for path in SPACES}
    assert {"glyphs", "glyphs_lvis", "lvis_v05_r50_mmdet_1x", "lvis_v1_r50_mmdet_1x"} <= {
        path.stem for path in SETTINGS
    }


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_search_space(path: Path, data_root: Path) -> None:
    by_name, by_path = load(path.stem, data_root), load(str(path), data_root)
    assert by_name == by_path
    build_all(by_name)


@pytest.mark.parametrize("space", ["acsl", "loce", "ecm"])
@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.stem)
def test_setting(path: Path, space: str, data_root: Path) -> None:
    # LOCE's memory is not published for a cascade, see below.
    overrides = {"loss.has_memory": "false"} if space == "loce" and "cascade" in path.stem else {}
    spec = load(space, data_root, on=path.stem, overrides=overrides)
    assert spec.on.description
    build_all(spec)


@pytest.mark.parametrize(
    "path", [path for path in SETTINGS if path.stem.startswith("lvis")], ids=lambda path: path.stem
)
def test_a_setting_tells_how_long_it_is_and_that_nobody_has_run_it(path: Path, data_root: Path) -> None:
    notes = load("ecm", data_root, on=path.stem).notes()
    assert notes[0] == "not verified on LVIS: nobody has run this setting to its end"
    assert any("iterations of 16" in note for note in notes)
    assert f"--on {path.stem}" in path.read_text()


@pytest.mark.parametrize(
    "path", [path for path in SETTINGS if path.stem.startswith("lvis")], ids=lambda path: path.stem
)
def test_the_detector_follows_the_recipe_of_its_setting(path: Path, data_root: Path) -> None:
    setting = load("ecm", data_root, on=path.stem).on
    detector = setting.detector
    assert detector.recipe == setting.recipe == path.stem.split("_")[-2]
    assert detector.is_cascade == ("cascade" in path.stem)
    backbone = next(depth for depth in ("r50", "r101", "x101_64x4d") if f"_{depth}_" in path.stem)
    assert detector.name.endswith(f"_rcnn_{backbone}_fpn")
    if setting.recipe == "mmdet":
        is_acsl = path.stem.startswith("lvis_v05") and not detector.name.startswith("mask")
        assert detector.roi_align == ("legacy" if is_acsl else "aligned")
        is_smooth = is_acsl or detector.is_cascade
        assert (detector.box_loss_beta, detector.rpn_loss_beta) == ((1.0, 0.111111) if is_smooth else (0.0, 0.0))


def test_a_cascade_has_no_feature_memory(data_root: Path) -> None:
    with pytest.raises(SpecError, match=r"loss\.has_memory is True; a feature memory is published .* one stage"):
        load("loce", data_root, on="lvis_v1_cascade_r101_mmdet_2x")
    with pytest.raises(SpecError, match=r"loss\.has_memory is True; .* cascade_mask_rcnn_r101_fpn has three"):
        load("rog", data_root, on="lvis_v1_cascade_r101_mmdet_2x", overrides={"loss.object_loss": "loce"})


def test_a_cascade_is_not_cached_where_its_boxes_move(data_root: Path) -> None:
    options = {"on": "lvis_v05_cascade_r101_mmdet_1x", "overrides": {"fidelity": "cached"}}
    assert load("acsl", data_root, **options).resolve({}).fidelity == "cached"
    options["overrides"] |= {"loss.has_memory": "false"}
    with pytest.raises(SpecError, match="loce trains the box regressor, which moves the boxes that later stages"):
        load("loce", data_root, **options)


def test_detectron2s_1x_is_180000_iterations(data_root: Path) -> None:
    spec = load("ecm", data_root, on="lvis_v1_r50_d2_1x")
    assert "ecm: 36 epochs, 180,000 iterations of 16, 2,880,000 images" in spec.notes()
    assert spec.resolve({}).sampler.rounding == "stochastic"


def test_the_exploration_samples_what_the_methods_own_spaces_do(data_root: Path) -> None:
    """The same ranges and defaults, but for a sharp step of ROG's."""
    every = load("all", data_root)
    for method in every.methods:
        baseline = method in {"cross_entropy", "sigmoid_cross_entropy"}
        own = load("baseline", data_root, overrides={"method": method}) if baseline else load(method, data_root)
        of_method = {"method": method, **every.defaults(method)}
        shared = {draw.key: draw.parameter for draw in every.draws() if draw.is_active(of_method)}
        assert shared.keys() - {"method", "loss.step"} == own.space.keys(), method
        for key, parameter in own.space.items():
            assert shared[key].model_copy(update={"when": parameter.when}) == parameter, (method, key)
        assert every.resolve(of_method) == own.resolve(own.defaults()), method


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_search_spaces_say_how_to_run_themselves(path: Path) -> None:
    assert f"lttune search search_spaces/{path.name}" in path.read_text()
