"""The table of a trial's categories lies beside its checkpoint, bounded in bytes."""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch

from lttune.engine.assets import Assets
from lttune.tuning.categories import MAX_BYTES, categories_csv, categories_file, read_categories, write_categories


def test_a_row_per_category(assets: Assets) -> None:
    first, second, *_ = assets.train.category_ids.tolist()
    table = categories_csv(assets, {"segm": {first: 12.34567, second: math.nan}, "bbox": {first: 1.0}})
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["name"] for row in rows] == list(assets.train.category_names)
    assert ["rcf".index(row["group"]) for row in rows] == assets.frequencies.group.tolist()
    assert (rows[0]["segm_AP"], rows[0]["bbox_AP"]) == ("12.346", "1.0")
    assert (rows[1]["segm_AP"], rows[1]["bbox_AP"]) == ("", "")


def test_a_detector_without_masks_has_no_mask_ap(assets: Assets) -> None:
    (_, row, *_) = csv.reader(io.StringIO(categories_csv(assets, {"bbox": {int(assets.train.category_ids[0]): 2.0}})))
    assert row[-2:] == ["", "2.0"]


def test_too_many_categories_are_cut_and_the_table_says_so(assets: Assets) -> None:
    C = 20_000
    train = replace(assets.train, category_ids=np.arange(C), category_names=("a name, quoted",) * C)
    counts = SimpleNamespace(group=torch.zeros(C, dtype=torch.int64), image_count=torch.ones(C, dtype=torch.int64))
    many = cast("Assets", SimpleNamespace(train=train, frequencies=counts))
    table = categories_csv(many, {})
    assert len(table.encode()) <= MAX_BYTES
    assert table.splitlines()[-1].startswith("# cut: ")
    assert table.splitlines()[-2].endswith(',"a name, quoted",r,1,,')


def test_it_is_found_by_the_checkpoint(assets: Assets, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "0007.pt"
    assert read_categories(checkpoint) is None
    write_categories(checkpoint, assets, {})
    assert categories_file(checkpoint) == tmp_path / "categories" / "0007.csv"
    assert read_categories(checkpoint) == categories_csv(assets, {})
    assert [path.name for path in categories_file(checkpoint).parent.iterdir()] == ["0007.csv"]
