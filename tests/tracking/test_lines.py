import logging
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lttune.tracking import lines


def records(file: Path, start: int = 0) -> list[dict]:
    return [record for record, _ in lines.read(file, start)]


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    lines.append(file, {"a": 1})
    lines.append(file, {"b": np.float32(0.5), "c": Path("x"), "d": MappingProxyType({"e": (1, 2)}), 3: float("nan")})
    assert records(file) == [{"a": 1}, {"b": 0.5, "c": "x", "d": {"e": [1, 2]}, "3": None}]


def test_a_missing_file_has_no_records(tmp_path: Path) -> None:
    assert records(tmp_path / "file") == []
    lines.repair(tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_reading_goes_on_from_an_offset(tmp_path: Path) -> None:
    file = tmp_path / "file"
    lines.append(file, {"a": 1})
    lines.append(file, {"a": 2})
    offsets = [end for _, end in lines.read(file)]
    assert records(file, offsets[0]) == [{"a": 2}]
    assert offsets[1] == file.stat().st_size


@given(cut=st.integers(min_value=0, max_value=24))
def test_a_killed_writer_costs_at_most_its_own_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    file = tmp_path_factory.mktemp("cut") / "file"
    lines.append(file, {"number": 1})
    whole = file.stat().st_size
    lines.append(file, {"number": 2, "x": 0.25})
    size = file.stat().st_size
    kept = min(whole + cut, size)
    with file.open("r+b") as stream:
        stream.truncate(kept)
    assert [record["number"] for record in records(file)] == ([1, 2] if kept == size else [1])

    lines.repair(file)
    lines.append(file, {"number": 3})
    assert [record["number"] for record in records(file)] == ([1, 2, 3] if kept >= size - 1 else [1, 3])


def test_a_damaged_line_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "file"
    file.write_bytes(b'{"a":1}\n\0\0\0\n[1]\n{"a":2}\n')
    with caplog.at_level(logging.WARNING):
        assert records(file) == [{"a": 1}, {"a": 2}]
    assert str(file) in caplog.text
    assert "byte 12" in caplog.text


def test_a_record_without_json_form_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file"
    lines.append(file, {"a": 1})
    with pytest.raises(TypeError):
        lines.append(file, {"a": 2**70})
    assert records(file) == [{"a": 1}]


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full to play a full disk")
    with pytest.raises(OSError, match="No space left"):
        lines.append(full, {"a": 1})
