"""Rows are drawn as the contract says, and a damaged cache is noticed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lttune.engine import features
from lttune.engine.assets import Assets
from lttune.engine.columns import ColumnWriter, are_intact, read_columns
from lttune.engine.features import CachedRois, RoiBatch, RoiSampling, draw_rows
from lttune.errors import CacheError


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.integers(0, 3), max_size=20), min_size=1, max_size=5),
    st.integers(1, 12),
    st.floats(0.1, 1.0),
    st.integers(0, 5),
)
def test_drawn_rows_keep_the_limits_and_depend_on_the_image_alone(
    labels: list[list[int]], num_rois: int, fraction: float, epoch: int
) -> None:
    sampling = RoiSampling(num_rois=num_rois, positive_fraction=fraction, num_classes=3, seed=7)
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in labels])]).astype(np.int64)
    flat = np.array([label for part in labels for label in part], np.int64)
    images = np.arange(len(labels)) + 10
    rows, counts = draw_rows(flat, offsets, images, sampling, epoch)
    start = 0
    for i, part in enumerate(labels):
        mine = rows[start : start + counts[i]]
        start += counts[i]
        assert len(set(mine.tolist())) == len(mine)
        assert ((mine >= offsets[i]) & (mine < offsets[i + 1])).all()
        num_positive = int((flat[mine] < 3).sum())
        assert num_positive == min(sum(label < 3 for label in part), int(num_rois * fraction))
        assert len(mine) == num_positive + min(part.count(3), num_rois - num_positive)
        alone, _ = draw_rows(np.array(part, np.int64), np.array([0, len(part)]), images[i : i + 1], sampling, epoch)
        assert set((alone + offsets[i]).tolist()) == set(mine.tolist())
    assert start == len(rows)


def test_every_row_is_drawn_equally_often() -> None:
    sampling = RoiSampling(num_rois=4, positive_fraction=0.5, num_classes=1, seed=0)
    labels = np.array([0] * 8 + [1] * 16, np.int64)
    hits = np.zeros(24)
    for epoch in range(2000):
        rows, _ = draw_rows(labels, np.array([0, 24]), np.array([5]), sampling, epoch)
        hits[rows] += 1
    # 2 of 8 and 2 of 16: 500 and 250 expected, standard deviations 19 and 15.
    assert np.abs(hits[:8] - 500).max() < 5 * 19
    assert np.abs(hits[8:] - 250).max() < 5 * 15


def test_rows_of_an_epoch_are_the_same_in_whatever_blocks_they_are_drawn(
    assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = RoiSampling(num_rois=8, positive_fraction=0.5, num_classes=6, seed=3)
    images = np.array([11, 0, 5, 6])

    def batches() -> list[RoiBatch]:
        rois = CachedRois(assets.feature_folder("train"), sampling, torch.device("cpu"), with_box_targets=True)
        return [rois.batch(images, epoch) for epoch in (0, 1)]

    whole = batches()
    monkeypatch.setattr(features, "_DRAWN_TOGETHER", 5)
    for one, other in zip(whole, batches(), strict=True):
        for name in ("features", "labels", "instance_ids", "image_ids", "box_targets"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert one.labels.dtype == one.instance_ids.dtype == torch.int64
    assert not torch.equal(whole[0].features, whole[1].features)


def test_columns_survive_the_disk_and_damage_is_noticed(tmp_path: Path) -> None:
    with ColumnWriter(tmp_path) as writer:
        writer.append(a=np.arange(3, dtype=np.int32), b=np.ones((2, 4), np.float16), empty=np.zeros((0, 2)))
        writer.append(a=np.arange(3, 5, dtype=np.int32))
    columns = read_columns(tmp_path)
    assert columns["a"].tolist() == [0, 1, 2, 3, 4]
    assert columns["b"].shape == (2, 4)
    assert columns["empty"].shape == (0, 2)
    assert are_intact(tmp_path)
    data = bytearray((tmp_path / "b.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "b.bin").write_bytes(data)
    assert not are_intact(tmp_path)
    (tmp_path / "b.bin").write_bytes(data[:-1])
    with pytest.raises(CacheError, match=r"b\.bin: damaged, 16 bytes expected"):
        read_columns(tmp_path)
