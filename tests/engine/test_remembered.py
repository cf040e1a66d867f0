"""What is remembered of masks comes back as it was, from every process, whatever became of a file."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lttune.engine.remembered import SUFFIX, MaskFacts, RememberedMasks, mask_keys
from lttune.types import IntArray


def facts_of(keys: list[int], num_pairs: list[int]) -> MaskFacts:
    """Facts that their keys tell, so that any mix-up shows."""
    key = np.array(keys, np.int64)
    counts = np.array(num_pairs, np.int64)
    annotation = np.concatenate(
        [np.zeros(0, np.int64), *(k * 10 + np.arange(n) for k, n in zip(keys, counts, strict=True))]
    )
    return MaskFacts(key=key, area=key * 7 + 1, num_pairs=counts, annotation=annotation, iou=0.5 + annotation / 1e6)


def assert_equal(first: MaskFacts, second: MaskFacts) -> None:
    for name in ("key", "area", "num_pairs", "annotation", "iou"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_keys_tell_image_row_and_category_apart() -> None:
    image, row, category = (grid.ravel() for grid in np.meshgrid([0, 1, 5000], [0, 1, 999], [0, 1, 1229]))
    assert len(np.unique(mask_keys(image, row, category))) == 27


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 3)), max_size=12, unique_by=lambda both: both[0]), st.data()
)
def test_any_masks_can_be_found_and_taken(masks: list[tuple[int, int]], data: st.DataObject) -> None:
    facts = facts_of([key for key, _ in masks], [num for _, num in masks])
    wanted = data.draw(st.lists(st.integers(0, 99)))
    counts = dict(masks)
    place = facts.find(np.array(wanted, np.int64))
    assert [index >= 0 for index in place] == [key in counts for key in wanted]
    there = [key for key in wanted if key in counts]
    taken = facts.take(place[place >= 0])
    assert_equal(taken, facts_of(there, [counts[key] for key in there]))
    assert taken.pairs().row.tolist() == [i for i, key in enumerate(there) for _ in range(counts[key])]


def test_what_one_writes_all_find_after_a_refresh(tmp_path: Path) -> None:
    one, other = RememberedMasks(tmp_path), RememberedMasks(tmp_path)
    one.add(0, facts_of([1, 2], [2, 0]))
    other.add(0, facts_of([3], [1]))
    one.add(8, facts_of([4], [0]))
    assert len(one.of(0).key) == len(other.of(0).key) == 0
    for reader in (one, other, RememberedMasks(tmp_path)):
        reader.refresh()
        reader.refresh()  # nothing is noted twice
        found = reader.of(0)
        assert sorted(found.key) == [1, 2, 3]
        assert_equal(found.take(found.find(np.array([2, 3, 1]))), facts_of([2, 3, 1], [0, 1, 2]))
        assert_equal(reader.of(8), facts_of([4], [0]))
        assert len(reader.of(16).key) == 0
    other.add(8, facts_of([5], [3]))
    one.refresh()
    assert sorted(one.of(8).key) == [4, 5]


def cut(data: bytes) -> bytes:
    return data[:-1]


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def emptied(data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(("harm", "kept"), [(cut, [1]), (flipped, [1]), (emptied, [])])
def test_a_damaged_frame_counts_as_absent(tmp_path: Path, harm: Callable[[bytes], bytes], kept: list[int]) -> None:
    writer = RememberedMasks(tmp_path)
    writer.add(0, facts_of([1], [1]))
    writer.add(0, facts_of([2], [2]))
    (path,) = (tmp_path / "masks").glob(f"*{SUFFIX}")
    path.write_bytes(harm(path.read_bytes()))
    reader = RememberedMasks(tmp_path)
    reader.refresh()
    assert reader.of(0).key.tolist() == kept
    reader.add(0, facts_of([2], [2]))
    reader.refresh()
    assert sorted(reader.of(0).key) == [*kept, 2]


def test_a_frame_that_is_being_written_is_found_when_it_is_whole(tmp_path: Path) -> None:
    writer, reader = RememberedMasks(tmp_path), RememberedMasks(tmp_path)
    writer.add(0, facts_of([1], [1]))
    (path,) = (tmp_path / "masks").glob(f"*{SUFFIX}")
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        reader.refresh()
        assert len(reader.of(0).key) == 0
    path.write_bytes(data)
    reader.refresh()
    assert_equal(reader.of(0), facts_of([1], [1]))


def test_a_file_that_is_gone_counts_as_absent(tmp_path: Path) -> None:
    memory = RememberedMasks(tmp_path)
    memory.add(0, facts_of([1], [1]))
    memory.refresh()
    (path,) = (tmp_path / "masks").glob(f"*{SUFFIX}")
    path.unlink()
    assert len(memory.of(0).key) == 0


def test_where_nothing_can_be_written_it_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "masks").write_text("in the way")
    memory = RememberedMasks(tmp_path)
    for _ in range(2):
        memory.add(0, facts_of([1], [1]))
    assert len(caplog.records) == 1
    assert "masks are not remembered" in caplog.text


@pytest.mark.slow  # starts Python four times
def test_processes_killed_while_they_write_lose_no_more_than_what_they_wrote_last(tmp_path: Path) -> None:
    source = (
        "import sys; import numpy as np; from pathlib import Path\n"
        "from lttune.engine.remembered import MaskFacts, RememberedMasks\n"
        "memory, first = RememberedMasks(Path(sys.argv[1])), int(sys.argv[2])\n"
        "none = np.zeros(0, np.int64)\n"
        "for i in range(first, first + 10**6):\n"
        "    key = np.full(500, i)\n"
        "    memory.add(0, MaskFacts(key=key, area=key, num_pairs=0 * key, annotation=none, iou=none.astype(float)))\n"
        "    print(i, flush=True)\n"
    )
    command = [sys.executable, "-c", source, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, str(first)], stdout=subprocess.PIPE, text=True)
        for first in range(0, 4 * 10**6, 10**6)
    ]
    told: list[int] = []
    for writer in writers:
        assert writer.stdout is not None
        told += [int(writer.stdout.readline()) for _ in range(50)]
        writer.kill()
        writer.communicate()
    memory = RememberedMasks(tmp_path)
    memory.refresh()
    found: IntArray = memory.of(0).key
    numbers, counts = np.unique(found, return_counts=True)
    assert (counts == 500).all()
    assert set(told) <= set(numbers.tolist())
