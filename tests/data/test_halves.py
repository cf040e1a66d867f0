import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lttune.data.halves import describe_halves, write_halves
from lttune.data.lvis import load_annotations
from lttune.data.split import split_halves
from lttune.errors import InputError
from lttune.types import Annotations


def test_each_half_says_what_it_can_judge(make_annotations: Callable[..., Annotations]) -> None:
    annotations = make_annotations([(0, 0), (1, 0), (2, 1), (3, 0)], num_images=4, num_categories=3)
    halves = split_halves(annotations)
    found = describe_halves(annotations, halves, group=np.array([2, 0, 0]))
    tune, report, both = found.parts
    assert (tune.num_images, report.num_images, both.num_images) == (2, 2, 4)
    assert tune.num_annotations + report.num_annotations == both.num_annotations == 4
    assert both.per_group == (0, 0, 1)
    assert both.not_judged == (1, 2)
    # The one image of category 1 is in one of them.
    assert {tune.num_categories, report.num_categories} == {1, 2}
    assert "cannot be judged by both halves: 2 (ids 1, 2)" in str(found)


def test_groups_are_left_out_where_nothing_states_them(make_annotations: Callable[..., Annotations]) -> None:
    annotations = make_annotations([(0, 0), (1, 0)], num_images=2, num_categories=1)
    found = describe_halves(annotations, split_halves(annotations))
    assert found.parts[0].per_group is None
    assert "rare" not in str(found)


def test_halves_are_written_as_files(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "val.json"
    document["info"] = {"kept": True}
    path.write_text(json.dumps(document))
    annotations = load_annotations(path)
    halves = split_halves(annotations)
    files = write_halves(path, annotations, halves, tmp_path / "halves")
    for file, images in zip(files, (halves.tune, halves.report), strict=True):
        half = load_annotations(file)
        expected = annotations.subset(images)
        assert half.image_ids.tolist() == expected.image_ids.tolist()
        assert half.annotation_ids.tolist() == expected.annotation_ids.tolist()
        assert list(half.segmentations) == list(expected.segmentations)
        assert half.category_ids.tolist() == annotations.category_ids.tolist()
        assert json.loads(file.read_text())["info"] == {"kept": True}
    with pytest.raises(InputError, match=r"tune\.json exists already"):
        write_halves(path, annotations, halves, tmp_path / "halves")
