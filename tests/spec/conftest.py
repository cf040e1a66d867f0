"""A search space and its setting as files, and a way to load changed copies of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lttune.errors import SpecError
from lttune.spec.load import load_spec
from lttune.spec.search import SearchSpec

SPACE = """\
schema: 1
method: acsl
on: here
objective: {metric: AP, mode: max}
search: {trials: 4, sampler: tpe, seed: 7}
space:
  loss.score_threshold: {float: [0.05, 0.95], default: 0.7}
  optim.lr: {float: [1e-3, 0.1], log: true}
"""
SETTING = """\
description: twelve glyph images
data:
  glyphs: {num_categories: 6, num_train_images: 12, num_val_images: 8, size_px: 64, seed: 1}
detector: {name: tiny_mask_rcnn_fpn, class_agnostic_box: true, class_agnostic_mask: true}
stage1:
  optim: {name: adamw, lr: 1e-3}
  schedule: {epochs: 1, batch_size: 4, policy: one_cycle}
optim: {name: adamw, lr: 0.01}
schedule: {epochs: 3, batch_size: 4, policy: one_cycle}
evaluation: {max_dets: 20}
"""


class Files:
    """`space.yaml` and `on/here.yaml` in one folder; a change is a pair of old and new text."""

    def __init__(self, folder: Path) -> None:
        self.space = folder / "space.yaml"
        self.setting = folder / "on" / "here.yaml"
        self.setting.parent.mkdir()

    def load(
        self,
        *changes: tuple[str, str],
        setting: tuple[tuple[str, str], ...] = (),
        sets: dict[str, str] | None = None,
        **options: Any,
    ) -> SearchSpec:
        self.space.write_text(changed(SPACE, changes))
        self.setting.write_text(changed(SETTING, setting))
        return load_spec(self.space, overrides=sets, **options)

    def faults(self, *changes: tuple[str, str], **options: Any) -> list[str]:
        """The lines of the refusal, with short file names."""
        with pytest.raises(SpecError) as caught:
            self.load(*changes, **options)
        return str(caught.value).replace(f"{self.space.parent}/", "").splitlines()


def changed(text: str, changes: tuple[tuple[str, str], ...]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def load(files: Files) -> Callable[..., SearchSpec]:
    return files.load


@pytest.fixture
def faults(files: Files) -> Callable[..., list[str]]:
    return files.faults
