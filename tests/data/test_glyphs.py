import json
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lttune.data import glyphs
from lttune.data.frequency import category_frequencies
from lttune.data.glyphs import GlyphConfig, GlyphFiles, _plan, _planned_counts, make_glyphs
from lttune.data.lvis import LvisDataset, load_annotations
from lttune.errors import InputError
from lttune.types import GROUP_LETTERS


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_folder_has_the_stated_layout(small_glyphs: GlyphFiles, small_config: GlyphConfig) -> None:
    out = small_glyphs.train_annotations.parent
    assert small_glyphs == GlyphFiles(
        train_annotations=out / "train.json",
        train_images=out / "train",
        val_annotations=out / "val.json",
        val_images=out / "val",
    )
    assert sorted(p.name for p in out.iterdir()) == ["train", "train.json", "val", "val.json"]
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    names = sorted(p.name for p in small_glyphs.train_images.iterdir())
    assert names == [f"{i:08d}.jpg" for i in range(1, small_config.num_train_images + 1)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_files_load_as_a_dataset(small_glyphs: GlyphFiles, split: str) -> None:
    annotations = load_annotations(getattr(small_glyphs, f"{split}_annotations"))
    dataset = LvisDataset(annotations, getattr(small_glyphs, f"{split}_images"))
    image, target = dataset[3]
    assert image.shape == (3, 96, 96)
    assert target.masks is not None
    assert target.masks.flatten(1).any(1).all()
    for mask, (x0, y0, x1, y1) in zip(target.masks, target.boxes.int().tolist(), strict=True):
        assert mask.sum() == mask[y0:y1, x0:x1].sum()


def test_categories_carry_their_training_counts_in_both_files(small_glyphs: GlyphFiles) -> None:
    train, val = (json.loads(f.read_bytes()) for f in (small_glyphs.train_annotations, small_glyphs.val_annotations))
    assert train["categories"] == val["categories"]
    frequencies = category_frequencies(load_annotations(small_glyphs.train_annotations))
    assert [c["image_count"] for c in train["categories"]] == frequencies.image_count.tolist()
    assert [c["instance_count"] for c in train["categories"]] == frequencies.instance_count.tolist()
    assert [c["frequency"] for c in train["categories"]] == [GROUP_LETTERS[g] for g in frequencies.group]


def test_training_counts_fall_from_a_third_of_the_images_to_two(small_glyphs: GlyphFiles) -> None:
    counts = category_frequencies(load_annotations(small_glyphs.train_annotations)).image_count.tolist()
    # No category is frequent here, so none is left unlabelled.
    assert counts == np.round(np.geomspace(20, 2, 12)).astype(int).tolist()


def test_every_category_can_be_evaluated(small_glyphs: GlyphFiles) -> None:
    annotations = load_annotations(small_glyphs.val_annotations)
    counts = category_frequencies(annotations).image_count.tolist()
    assert counts == [6] * 12  # 20 images x 3.6 over 12 categories


def test_the_default_has_the_documented_groups() -> None:
    config = GlyphConfig()
    counts = _planned_counts(config, "train")
    assert (counts[0], counts[-1]) == (500, 2)
    assert Counter(np.digitize(counts, [11, 101]).tolist()) == {0: 18, 1: 24, 2: 18}
    assert set(_planned_counts(config, "val").tolist()) == {24}
    longtail = _planned_counts(replace(config, val="longtail"), "val")
    assert (longtail[0], longtail[-1]) == (133, 2)


@pytest.mark.parametrize(("num_categories", "num_images"), [(150, 1500), (1203, 1500), (1203, 20_000), (1203, 301)])
def test_many_categories_do_not_crowd_the_images(num_categories: int, num_images: int) -> None:
    config = GlyphConfig(num_categories=num_categories, num_train_images=num_images)
    counts = _planned_counts(config, "train")
    assert counts[-1] == 2
    assert 0.97 * min(8 * num_images, 2 * num_categories) <= counts.sum() <= 8 * num_images
    assert (np.diff(counts) <= 0).all()


@given(st.integers(1, 80), st.integers(20, 60), st.sampled_from(["balanced", "longtail"]), st.integers(0, 9))
def test_a_plan_gives_each_category_exactly_its_images(
    num_categories: int, num_images: int, val: str, seed: int
) -> None:
    config = GlyphConfig(num_categories=num_categories, num_val_images=num_images, val=val, seed=seed)  # type: ignore[arg-type]
    counts = _planned_counts(config, "val")
    plan = _plan(config, "val", counts)
    assert all(len(set(categories)) == len(categories) for categories in plan)
    assert np.bincount(list(chain.from_iterable(plan)), minlength=num_categories).tolist() == counts.tolist()
    loads = [len(categories) for categories in plan]
    assert max(loads) - min(loads) <= 1


def test_bytes_depend_on_the_seed_and_not_on_the_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else so small a set would be drawn by one process, whatever is asked for.
    monkeypatch.setattr(glyphs, "_PIXELS_PER_WORKER", 1)
    config = GlyphConfig(num_categories=5, num_train_images=20, num_val_images=6, size_px=64)
    folders = [tmp_path / name for name in ("one", "two", "other")]
    for folder, workers, seed in zip(folders, (1, 2, 1), (0, 0, 1), strict=True):
        make_glyphs(replace(config, seed=seed), folder, num_workers=workers)
    one, two, other = map(_bytes, folders)
    assert one == two
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one)


def test_progress_counts_all_images(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    config = GlyphConfig(num_categories=3, num_train_images=6, num_val_images=2, size_px=64)
    make_glyphs(config, tmp_path / "new" / "folder", progress=lambda done, of: told.append((done, of)))
    assert told == [(done, 8) for done in range(1, 9)]


def test_a_run_that_ends_early_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, of: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    config = GlyphConfig(num_categories=3, num_train_images=6, num_val_images=2, size_px=64)
    with pytest.raises(KeyboardInterrupt):
        make_glyphs(config, tmp_path / "glyphs", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        make_glyphs(GlyphConfig(), tmp_path)
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        make_glyphs(GlyphConfig(), tmp_path / "mine.txt")
    with pytest.raises(InputError, match="num_workers is 0"):
        make_glyphs(GlyphConfig(), tmp_path / "new", num_workers=0)


def test_lvis_counts_keep_lvis_shares_and_all_groups() -> None:
    config = GlyphConfig(num_categories=1203, num_train_images=4000, num_val_images=800, counts="lvis_v1")
    counts = _planned_counts(config, "train")
    assert counts.shape == (1203,)
    assert (np.diff(counts) <= 0).all()
    assert counts.min() == 1
    assert counts.sum() <= 4000 * 8
    # LVIS's most frequent category is in 1977 of its 100170 images and in 197.7 times as many as one of 10.
    middle = counts[600] / counts[0]
    assert middle == pytest.approx(32 / 1977, rel=0.35)
    assert (counts > 100).sum() > 50
    assert (_planned_counts(config, "val") == 4).all()


def test_a_value_added_later_changes_no_known_data() -> None:
    assert "counts" not in GlyphConfig().identity()
    assert GlyphConfig(counts="lvis_v1").identity()["counts"] == "lvis_v1"
    with pytest.raises(InputError, match="counts is zipf; use log_spaced or lvis_v1"):
        GlyphConfig(counts="zipf")  # type: ignore[arg-type]
