"""Files to specs: what `--set`, `--on` and data roots do, and one clear sentence for each thing that is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lttune.errors import LttuneError, SpecError
from lttune.spec.load import find_yaml, load_spec
from lttune.spec.search import SearchSpec

Load = Callable[..., SearchSpec]
Lines = Callable[..., list[str]]

THRESHOLD = "loss.score_threshold: {float: [0.05, 0.95], default: 0.7}"
LR = "optim.lr: {float: [1e-3, 0.1], log: true}"
FILES = "  glyphs: {num_categories: 6, num_train_images: 12, num_val_images: 8, size_px: 64, seed: 1}\n"


def test_names_of_what_comes_with_lttune() -> None:
    assert find_yaml("acsl", "search space").name == "acsl.yaml"
    assert find_yaml("glyphs", "setting").parent.name == "on"
    assert load_spec("acsl").method == "acsl"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("acls", "'acls' is not a search space that comes with lttune. Did you mean 'acsl'?"),
        ("./acsl.yaml", "./acsl.yaml: there is no such search space file; correct the path."),
    ],
)
def test_missing_search_space(source: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as caught:
        load_spec(source)
    assert str(caught.value) == message
    assert isinstance(caught.value, LttuneError)


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (("search: {", "serch: {"), ["space.yaml: serch: unknown key. Did you mean 'search'?"]),
        (("trials: 4", "trails: 4"), ["space.yaml: search.trails: unknown key. Did you mean 'trials'?"]),
        (
            ("default: 0.7", "defalt: 0.7"),
            ["space.yaml: space.loss.score_threshold.defalt: unknown key. Did you mean 'default'?"],
        ),
        (
            ("loss.score_threshold", "loss.score_treshold"),
            ["space.yaml: space.loss.score_treshold is not a value of acsl. Did you mean 'loss.score_threshold'?"],
        ),
        (
            (THRESHOLD, "evaluation.max_dets: {int: [1, 9]}"),
            [
                "space.yaml: space.evaluation.max_dets belongs to the setting, which all trials share; it cannot be "
                "searched."
            ],
        ),
        (("method: acsl", "method: acls"), ["space.yaml: method: 'acls' is not a method. Did you mean 'acsl'?"]),
        (
            ("metric: AP,", "metric: APr,"),
            ["space.yaml: objective.metric: 'APr' is not a metric. Did you mean 'AP_r'?"],
        ),
        (("mode: max", "mode: up"), ["space.yaml: objective.mode: 'up' is not 'max' or 'min'."]),
        (("schema: 1", "schema: 2"), ["space.yaml: schema: 2 is not 1."]),
        (("schema: 1\n", ""), ["space.yaml: schema: missing; this key is required."]),
        (("trials: 4", "trials: many"), ["space.yaml: search.trials: 'many' is not a whole number."]),
        (("trials: 4", "trials: '4'"), ["space.yaml: search.trials: '4' is not a whole number."]),
        (("trials: 4", "trials: true"), ["space.yaml: search.trials: true is not a whole number."]),
        (("trials: 4", "trials: 4.0"), ["space.yaml: search.trials: 4.0 is not a whole number."]),
        (("trials: 4", "trials: 0"), ["space.yaml: search.trials: 0 should be greater than or equal to 1."]),
        (
            ("[0.05, 0.95]", "[low, 0.95]"),
            ["space.yaml: space.loss.score_threshold.float[0]: 'low' is not a number."],
        ),
        (
            ("[0.05, 0.95]", "[0.95, 0.05]"),
            ["space.yaml: space.loss.score_threshold: lower end 0.95 is not below upper end 0.05; write [low, high]."],
        ),
        (
            ("[0.05, 0.95]", "[0.05, 1.2]"),
            [
                "space.yaml: space.loss.score_threshold: upper end is 1.2; ACSL compares it with a sigmoid score, "
                "use a value in (0, 1)."
            ],
        ),
        (
            ("[1e-3, 0.1]", "[0, 0.1]"),
            ["space.yaml: space.optim.lr: lower end 0.0 cannot be on a log scale; use one above 0 or leave out `log`."],
        ),
        (
            ("default: 0.7", "default: 0.99"),
            [
                "space.yaml: space.loss.score_threshold: default 0.99 lies outside [0.05, 0.95]; widen the range or "
                "change the default."
            ],
        ),
        (
            ("[1e-3, 0.1]", "[0.02, 0.1]"),
            ["space.yaml: space.optim.lr: the setting's value 0.01 is not in [0.02, 0.1]; give a `default`."],
        ),
        (
            (THRESHOLD, "schedule.epochs: {float: [1, 2.5]}"),
            [
                "space.yaml: space.schedule.epochs: lower end 1.0 is not a whole number.",
                "space.yaml: space.schedule.epochs: upper end 2.5 is not a whole number.",
            ],
        ),
        (
            (THRESHOLD, "schedule.policy: {choice: [steps, cosine]}"),
            ["space.yaml: space.schedule.policy: value 'cosine' is not 'steps' or 'one_cycle'."],
        ),
        (
            (THRESHOLD, "schedule.policy: {choice: [steps]}"),
            ["space.yaml: space.schedule.policy: the setting's value one_cycle is not in ['steps']; give a `default`."],
        ),
        ((THRESHOLD, LR), ["space.yaml: space.optim.lr: given twice, on lines 7 and 8; keep one."]),
        (("on: here", "on: 5"), ["space.yaml: on: 5 is not a mapping of keys to values."]),
        (("on: here", "on: true"), ["space.yaml: on: true is not a mapping of keys to values."]),
        (("on: here\n", ""), ["space.yaml: on: missing; this key is required."]),
        (
            ("on: here", "on: her"),
            ["space.yaml: on: 'her' is not a setting that comes with lttune. Did you mean 'here'?"],
        ),
        (
            ("on: here", "on: ./no.yaml"),
            ["space.yaml: on: ./no.yaml: there is no such setting file; correct the path."],
        ),
        (
            ("seed: 7}", "seed: 7, asha: {first_rung_epochs: 4}}"),
            ["space.yaml: search.asha.first_rung_epochs is 4, but a trial has 3 epochs; use fewer."],
        ),
        (
            ("seed: 7}", "seed: 7}\nfixed: {optim.lr: 200, loss.x: 1}"),
            [
                "space.yaml: fixed.optim.lr is in `space` too; leave it out of one of them.",
                "space.yaml: fixed.optim.lr: value is 200.0; use a value above 0 and below 100.",
                "space.yaml: fixed.loss.x is not a value of acsl. Known: loss.score_threshold, "
                "loss.background_ratio_rare, loss.background_ratio_common, loss.background_ratio_frequent, "
                "loss.rounding.",
            ],
        ),
    ],
)
def test_faults_of_a_search_space(change: tuple[str, str], lines: list[str], faults: Lines) -> None:
    assert faults(change) == lines


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (("lr: 0.01}", "lrr: 0.01}"), ["optim.lr: missing; this key is required.", "optim.lrr: unknown key. Did"]),
        (("lr: 1e-3}", "lr: -1}"), ["stage1.optim.lr is -1.0; use a value above 0 and below 100."]),
        (("lr: 0.01}", "lr: fast}"), ["optim.lr: 'fast' is not a number."]),
        (("num_categories: 6", "num_categories: 2000"), ["data.glyphs.num_categories is 2000; use 1 to 1203."]),
        (("num_categories: 6", "num_categorys: 6"), ["data.glyphs.num_categorys: unknown key. Did you mean 'num_cat"]),
        ((FILES, "  {}\n"), ["data is incomplete; give either `glyphs`, or both `train` and `val`."]),
        (
            ("name: tiny_mask_rcnn_fpn", "name: tiny_mask_rcnn"),
            ["detector.name: 'tiny_mask_rcnn' is not known to any backend. Did you mean 'tiny_mask_rcnn_fpn'?"],
        ),
        (("max_dets: 20}", "max_dets: 20, max_dets: 9}"), ["evaluation.max_dets: given twice, on line 10; keep"]),
        (
            ("policy: one_cycle}\nevaluation", "policy: cosine}\nevaluation"),
            ["schedule.policy: 'cosine' is not 'steps'"],
        ),
        (("description: twelve", "descripton: twelve"), ["descripton: unknown key. Did you mean 'description'?"]),
        (("max_dets: 20}", "max_dets: 20}\nresources: {cpus: 0}"), ["resources.cpus: 0 should be greater than 0."]),
        (("max_dets: 20}", "max_dets: 20}\nfidelity: half"), ["fidelity: 'half' is not 'auto', 'cached' or 'full'."]),
        (("max_dets: 20}", "max_dets: 20}\ninput: 3"), ["input: 3 is not a mapping of keys to values."]),
    ],
)
def test_faults_of_a_setting_are_named_in_its_own_file(
    change: tuple[str, str], lines: list[str], faults: Lines
) -> None:
    found = faults(setting=(change,))
    assert len(found) == len(lines)
    for line, start in zip(found, lines, strict=True):
        assert line.startswith(f"on/here.yaml: {start}")


def test_a_setting_within_the_search_space_keeps_its_full_key_path(files: Any, tmp_path: Path) -> None:
    files.load()
    setting = "".join(f"  {line}\n" for line in files.setting.read_text().replace("lr: 0.01}", "lrr: 1}").splitlines())
    path = tmp_path / "inline.yaml"
    path.write_text(files.space.read_text().replace("on: here\n", f"on:\n{setting}"))
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert f"{path}: on.optim.lrr: unknown key. Did you mean 'lr'?" in str(caught.value).splitlines()


def test_all_faults_come_at_once(faults: Lines) -> None:
    found = faults(
        ("method: acsl", "method: acls"),
        ("on: here", "on: nowhere"),
        ("trials: 4", "trails: 4"),
        ("[0.05, 0.95]", "[0.95, 0.05]"),
        ("mode: max", "mode: up"),
        sets={"foo": "1", "loss.rounding": ""},
    )
    assert len(found) == 7
    assert faults(("trials: 4", "trails: 4"), setting=(("lr: 0.01}", "lr: fast}"),)) == [
        "on/here.yaml: optim.lr: 'fast' is not a number.",
        "space.yaml: search.trails: unknown key. Did you mean 'trials'?",
    ]
    assert len(faults(("[0.05, 0.95]", "[0.05, 1.2]"), ("[1e-3, 0.1]", "[1e-3, 200]"))) == 2


# ---- --set and --on


@pytest.mark.parametrize(
    ("key", "text", "read"),
    [
        ("search.trials", "9", lambda spec: spec.search.trials == 9),
        ("search.sampler", "random", lambda spec: spec.search.sampler == "random"),
        ("search.asha.first_rung_epochs", "2", lambda spec: spec.search.asha.first_rung_epochs == 2),
        ("objective.metric", "bbox/AP_r", lambda spec: spec.objective.metric == "bbox/AP_r"),
        ("method", "acsl", lambda spec: spec.method == "acsl"),
        ("stage1.optim.lr", "1e-2", lambda spec: spec.on.stage1.optim.lr == 0.01),
        ("data.glyphs.num_categories", "7", lambda spec: spec.on.data.glyphs.num_categories == 7),
        ("recipe", "mmdet", lambda spec: spec.on.recipe == "mmdet"),
        ("fidelity", "full", lambda spec: spec.on.fidelity == "full"),
        ("resources.cpus", "0.5", lambda spec: spec.on.resources.cpus == 0.5),
    ],
)
def test_set_changes_the_search_and_the_setting(
    key: str, text: str, read: Callable[[SearchSpec], bool], load: Load
) -> None:
    spec = load(sets={key: text})
    assert read(spec)
    assert not spec.fixed


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("optim.lr", "0.05", 0.05),
        ("loss.score_threshold", "5e-1", 0.5),
        ("recipe.classifier_start", "fresh", "fresh"),
        ("schedule.epochs", "5", 5),
        ("schedule.drop_epochs", "[1, 2]", (1, 2)),
        ("optim.clip_norm", "null", None),
        ("sampler.name", "repeat", "repeat"),
    ],
)
def test_set_fixes_what_is_searched(key: str, text: str, value: Any, load: Load) -> None:
    spec = load(sets={key: text})
    assert dict(spec.fixed) == {key: value}
    assert key not in spec.space
    section, _, name = key.partition(".")
    assert getattr(getattr(spec.resolve(spec.defaults()), section), name) == value


def test_set_replaces_what_is_fixed(load: Load) -> None:
    spec = load(
        (LR, "loss.background_ratio_rare: {float: [0.01, 1]}\nfixed: {optim.lr: 0.02}"), sets={"optim.lr": "0.03"}
    )
    assert dict(spec.fixed) == {"optim.lr": 0.03}
    assert spec.resolve({}).optim.lr == 0.03


@pytest.mark.parametrize(
    ("key", "text", "line"),
    [
        ("search.trails", "9", "--set search.trails: unknown key. Did you mean 'trials'?"),
        ("search.trials", "x", "--set search.trials: 'x' is not a whole number."),
        ("search", "3", "--set search: 3 is not a mapping of keys to values."),
        ("search.trials.x", "3", "--set search.trials.x: 'trials' holds 4, not keys; set it as a whole."),
        ("loss.score_threshold", "1.5", "--set loss.score_threshold: value is 1.5; ACSL compares it with a sigmoid"),
        ("loss.score_threshold", "abc", "--set loss.score_threshold: value 'abc' is not a number."),
        ("loss.scor", "1", "--set loss.scor is not a value of acsl. Did you mean 'loss.score_threshold'?"),
        ("loss", "1", "--set loss is not a value of acsl. Known: loss.score_threshold, "),
        ("optim.lr", "200", "--set optim.lr: value is 200.0; use a value above 0 and below 100."),
        ("optim.lrr", "1", "--set optim.lrr is not a value of acsl. Did you mean 'optim.lr'?"),
        ("schedule.epochs", "0", "--set schedule.epochs: value is 0; use at least 1."),
        ("schedule.epochs", "two", "--set schedule.epochs: value 'two' is not a whole number."),
        ("schedule.epochs", "2.0", "--set schedule.epochs: value 2.0 is not a whole number."),
        ("detector.name", "foo", "--set detector.name: 'foo' is not known to any backend. Known: tiny_mask_rcnn_fpn, "),
        ("detector", "3", "--set detector: 3 is not a mapping of keys to values."),
        ("recipe.parts", "al", "--set recipe.parts: value 'al' is not a part of a detector. Known: "),
        ("recipe", "mmdett", "--set recipe: 'mmdett' is not 'own', 'mmdet' or 'd2'."),
        ("method", "rogg", "--set method: 'rogg' is not a method. Did you mean 'rog'?"),
        ("shedule.epochs", "2", "--set shedule.epochs: unknown key. Did you mean 'schedule'?"),
        ("on", "glyphs", "--set on: the setting is chosen by --on SETTING; its values are set without `on.`."),
        ("space.optim.lr", "1", "--set space.optim.lr: unknown key. Known: description, recipe, "),
        ("optim.lr", "", "--set optim.lr=: no value; write --set optim.lr=VALUE."),
        ("optim.lr", "[", "--set optim.lr=[: line 1: not YAML: expected the node content"),
        ("stage1.checkpoint", "/nowhere", "--set stage1.checkpoint: there is no file /nowhere; correct the path."),
    ],
)
def test_wrong_set_values_are_named_as_they_were_given(key: str, text: str, line: str, faults: Lines) -> None:
    found = faults(sets={key: text})
    assert len(found) == 1
    assert found[0].startswith(line)


def test_every_wrong_set_value_is_reported(faults: Lines) -> None:
    assert len(faults(sets={"foo": "1", "optim.lr": "", "search.trials": "0", "fidelity": "x"})) == 4


def test_one_trial_needs_no_space(load: Load, faults: Lines) -> None:
    both = {"optim.lr": "0.02", "loss.score_threshold": "0.5"}
    assert load(sets={**both, "search.trials": "1"}).defaults() == {}
    assert faults(sets=both) == ["space.yaml: space is empty, so all 4 trials are one; name a value or use --trials 1."]


def test_metrics_of_masks_need_masks(faults: Lines) -> None:
    assert faults(sets={"detector.name": "faster_rcnn_r50_fpn", "objective.metric": "segm/AP_r"}) == [
        "--set objective.metric: segm/AP_r is of masks, which the detector has none of; use bbox/AP_r."
    ]


def test_on_replaces_the_setting(load: Load, faults: Lines) -> None:
    assert load(on="glyphs").on.schedule.epochs == 8
    assert faults(on="glyfs") == ["--on: 'glyfs' is not a setting that comes with lttune. Did you mean 'glyphs'?"]


# ---- data


@pytest.fixture
def on_files(tmp_path: Path) -> tuple[tuple[str, str], ...]:
    """A setting on the files `a.json` and `b.json` below a folder `root`."""
    (tmp_path / "root" / "images").mkdir(parents=True)
    for name in ("a.json", "b.json"):
        (tmp_path / "root" / name).write_text("{}")
    new = "  train: {annotations: a.json, images: images}\n  val: {annotations: b.json, images: images}\n"
    return ((FILES, new),)


def test_relative_data_paths_start_at_the_data_root(
    on_files: Any, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    by_option = load(setting=on_files, data_root=root)
    train = by_option.on.data.train
    assert train is not None
    assert (train.annotations, train.images) == (str(root / "a.json"), str(root / "images"))
    monkeypatch.setenv("LTTUNE_DATA", str(root))
    assert load(setting=on_files) == by_option
    monkeypatch.setenv("LTTUNE_DATA", "/nowhere")
    assert load(setting=on_files, data_root=root) == by_option
    monkeypatch.delenv("LTTUNE_DATA")
    monkeypatch.chdir(root)
    assert load(setting=on_files) == by_option
    monkeypatch.chdir(tmp_path)
    assert load(setting=on_files, data_root="root") == by_option


def test_missing_data_are_named_with_their_key(
    on_files: Any, faults: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LTTUNE_DATA", raising=False)
    (tmp_path / "root" / "a.json").unlink()
    assert faults(setting=on_files, data_root=tmp_path / "root") == [
        "on/here.yaml: data.train.annotations: there is no file root/a.json; set --data-root or LTTUNE_DATA."
    ]
    assert len(faults(setting=on_files, data_root=tmp_path)) == 4


def test_weights_start_where_the_command_runs(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stage1.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    sets = {"stage1.checkpoint": "stage1.safetensors", "detector.weights": "stage1.safetensors"}
    spec = load(sets=sets, data_root="/nowhere")
    assert spec.on.stage1.checkpoint == spec.on.detector.weights == str(tmp_path / "stage1.safetensors")
