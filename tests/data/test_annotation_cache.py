"""A cached file gives what the parsed file gives, whatever happened to cache and file in between."""

import json
import os
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lttune.data import annotation_cache
from lttune.data.annotation_cache import cached_annotations
from lttune.data.lvis import load_annotations
from lttune.errors import DataError
from lttune.types import Annotations

Parsed = list[None]


@pytest.fixture
def path(document: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(document))
    _age(path)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def _age(path: Path, seconds: float = 60) -> None:
    """Make the file look as if it had been written so long ago."""
    written = path.stat().st_mtime - seconds
    os.utime(path, (written, written))


def _columns(cache: Path) -> Path:
    (folder,) = (found for found in (cache / "annotations").iterdir() if found.is_dir())
    return folder


def _equal(first: Annotations, second: Annotations) -> bool:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, np.ndarray):
            return a.dtype == b.dtype and np.array_equal(a, b)
        return bool(list(a) == list(b) if not isinstance(a, (str, bool)) else a == b)

    return all(same(getattr(first, field.name), getattr(second, field.name)) for field in fields(Annotations))


def _counting(parsed: Parsed) -> Callable[[], None]:
    return lambda: parsed.append(None)


def test_columns_equal_the_parsed_file(path: Path, cache: Path) -> None:
    first, second = (cached_annotations(path, cache) for _ in range(2))
    assert _equal(first, load_annotations(path))
    assert _equal(second, first)


def test_a_file_is_parsed_once(path: Path, cache: Path, tmp_path: Path) -> None:
    parsed: Parsed = []
    copy = tmp_path / "copy.json"
    copy.write_bytes(path.read_bytes())
    _age(copy)
    for name in (path, path, copy, copy):
        assert cached_annotations(name, cache, parsing=_counting(parsed)).source == str(name)
    assert len(parsed) == 1


def test_a_known_file_is_not_read(path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_annotations(path, cache)

    def refuse(_: Path) -> bytes:
        raise AssertionError("the file was read again")

    monkeypatch.setattr(annotation_cache, "read_text", refuse)
    assert cached_annotations(path, cache).num_images == 2


def test_a_changed_file_is_parsed_again(path: Path, cache: Path, document: dict[str, Any]) -> None:
    cached_annotations(path, cache)
    document["categories"][0]["name"] = "NINE"  # as long as before
    path.write_text(json.dumps(document))
    _age(path, 30)
    assert cached_annotations(path, cache).category_names[2] == "NINE"


def test_a_file_of_this_moment_is_compared_by_its_content(path: Path, cache: Path, document: dict[str, Any]) -> None:
    stamp = path.stat().st_mtime + 60
    os.utime(path, (stamp, stamp))
    cached_annotations(path, cache)
    document["categories"][0]["name"] = "NINE"
    path.write_text(json.dumps(document))
    os.utime(path, (stamp, stamp))
    assert cached_annotations(path, cache).category_names[2] == "NINE"


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["boxes_xywh.npy", "names.json", "index.json", "segmentation_numbers.npy"])
@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink])
def test_damaged_columns_are_built_again(path: Path, cache: Path, name: str, damage: Callable[[Path], None]) -> None:
    # Not what was mapped: a mapped array changes with its file.
    expected = load_annotations(path)
    cached_annotations(path, cache)
    damage(_columns(cache) / name)
    assert _equal(cached_annotations(path, cache), expected)
    parsed: Parsed = []
    cached_annotations(path, cache, parsing=_counting(parsed))
    assert parsed == []


def test_sizes_are_compared_even_unchecked(path: Path, cache: Path) -> None:
    expected = load_annotations(path)
    cached_annotations(path, cache)
    _cut(_columns(cache) / "areas.npy")
    assert _equal(cached_annotations(path, cache, is_checked=False), expected)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"digest": 7}', b'{"digest": "0123"}'])
def test_a_damaged_note_of_the_file_costs_a_read(path: Path, cache: Path, content: bytes) -> None:
    cached_annotations(path, cache)
    (note,) = (cache / "annotations").glob("*.json")
    note.write_bytes(content)
    parsed: Parsed = []
    assert cached_annotations(path, cache, parsing=_counting(parsed)).num_images == 2
    assert parsed == []


def test_another_format_is_built_again(path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_annotations(path, cache)
    monkeypatch.setattr(annotation_cache, "_FORMAT", 2)
    parsed: Parsed = []
    cached_annotations(path, cache, parsing=_counting(parsed))
    assert len(parsed) == 1


def test_leftovers_of_a_killed_process_are_cleared(path: Path, cache: Path) -> None:
    cached_annotations(path, cache)
    folder = _columns(cache)
    leftover = folder.with_name(f".{folder.name}-killed")
    leftover.mkdir()
    _cut(folder / "areas.npy")
    cached_annotations(path, cache)
    assert not leftover.exists()


def test_processes_that_build_at_once_parse_once(path: Path, cache: Path) -> None:
    parsed: Parsed = []
    found: list[Annotations] = []
    threads = [
        threading.Thread(target=lambda: found.append(cached_annotations(path, cache, parsing=_counting(parsed))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(parsed) == 1
    assert all(_equal(annotations, found[0]) for annotations in found)


def test_a_broken_file_is_refused_each_time_and_leaves_no_columns(path: Path, cache: Path) -> None:
    path.write_text('{"images": []}')
    for _ in range(2):
        with pytest.raises(DataError, match="annotations: missing"):
            cached_annotations(path, cache)
    assert not any(found.is_dir() for found in (cache / "annotations").iterdir())


def test_a_missing_file_is_named(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        cached_annotations(tmp_path / "none.json", cache)
    assert not cache.exists()


def test_columns_may_be_written_to_without_reaching_the_file(path: Path, cache: Path) -> None:
    annotations = cached_annotations(path, cache)
    torch.from_numpy(annotations.areas).zero_()
    assert cached_annotations(path, cache).areas.tolist() == [2, 4, 0, 6.5]


def test_a_subset_of_cached_columns_reads_segmentations_on_demand(path: Path, cache: Path) -> None:
    subset = cached_annotations(path, cache).subset(np.array([1]))
    assert subset.annotation_ids.tolist() == [1, 3]
    assert subset.segmentations[0] == {"size": [4, 6], "counts": [5, 2, 17]}
    assert len(subset.segmentations) == 2
