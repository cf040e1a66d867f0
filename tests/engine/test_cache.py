import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lttune.engine import cache as cache_module
from lttune.engine.assets import Assets
from lttune.engine.cache import building, entries, leased, parse_size, prune, prune_to_quota, size_text, touch
from lttune.errors import CacheError, InputError

HOLD = """
import sys, time
from pathlib import Path
from lttune.engine.cache import building
with building(Path(sys.argv[1]), "features") as is_missing:
    print("building", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three things of 1000, 2000 and 3000 bytes, used in this order."""
    cache = tmp_path / "cache"
    for number, name in enumerate(("glyphs-aaa", "stage1-bbb", "features-ccc"), 1):
        (cache / name / "part").mkdir(parents=True)
        (cache / name / "part" / "file.bin").write_bytes(b"x" * 1000 * number)
        touch(cache, name)
        os.utime(cache / "leases" / name / "used", (number * 1e6, number * 1e6))
    return cache


def of(cache: Path) -> Assets:
    """Assets on two of the three."""
    glyphs = cache / "glyphs-aaa"
    for name in ("train.json", "val.json"):
        (glyphs / name).write_text(name)
    return Assets(
        train_annotations=str(glyphs / "train.json"),
        train_images=str(glyphs / "train"),
        val_annotations=str(glyphs / "val.json"),
        val_images=str(glyphs / "val"),
        stage1_weights=str(cache / "stage1-bbb" / "weights.safetensors"),
    )


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that builds `features-new` and does not come to an end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "cache" / "features-new")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "building\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_what_is_there_least_recently_used_first(store: Path) -> None:
    found = entries(store)
    assert [(entry.name, entry.kind, entry.digest, entry.num_bytes) for entry in found] == [
        ("glyphs-aaa", "glyphs", "aaa", 1000),
        ("stage1-bbb", "stage1", "bbb", 2000),
        ("features-ccc", "features", "ccc", 3000),
    ]
    assert [entry.last_used for entry in found] == [1e6, 2e6, 3e6]
    assert not any(entry.users for entry in found)


def test_annotations_and_an_unfinished_stage_1_are_entries(store: Path) -> None:
    (store / "annotations" / "ddd").mkdir(parents=True)
    (store / "annotations" / "known.json").write_text("{}")
    (store / "stage1-eee.partial.pt").write_bytes(b"12345")
    names = {entry.name: (entry.kind, entry.digest, entry.num_bytes) for entry in entries(store)}
    assert names["annotations/ddd"] == ("annotations", "ddd", 0)
    assert names["stage1-eee.partial.pt"] == ("stage1", "eee", 5)
    assert {entry.name for entry in prune(store, keep_bytes=-1)} == set(names)
    assert sorted(path.name for path in store.iterdir()) == ["annotations", "leases"]


def test_prune_removes_what_was_used_longest_ago(store: Path) -> None:
    would = prune(store, keep_bytes=3000, is_dry_run=True)
    assert [entry.name for entry in would] == ["glyphs-aaa", "stage1-bbb"]
    assert len(entries(store)) == 3
    assert prune(store, keep_bytes=3000) == would
    assert [entry.name for entry in entries(store)] == ["features-ccc"]
    assert prune(store, keep_bytes=3000) == []


def test_what_is_leased_stays(store: Path) -> None:
    assets = of(store)
    with leased(store, [assets]):
        users = {entry.name: entry.users for entry in entries(store)}
        assert users["glyphs-aaa"] == users["stage1-bbb"] != ()
        assert users["features-ccc"] == ()
        assert f"process {os.getpid()} on" in users["stage1-bbb"][0]
        assert [entry.name for entry in prune(store, keep_bytes=0)] == ["features-ccc"]
    # Released, and used just now.
    assert [entry.users for entry in entries(store)] == [(), ()]
    assert all(entry.last_used > 1e9 for entry in entries(store))
    assert prune(store, keep_bytes=0, min_idle_s=60) == []
    assert len(prune(store, keep_bytes=0)) == 2


def test_several_methods_lease_what_they_share_once(store: Path) -> None:
    assets = of(store)
    with leased(store, [assets, replace(assets, features=str(store / "features-ccc"))]):
        assert len(list((store / "leases" / "glyphs-aaa").glob("*.lease"))) == 1
        assert prune(store, keep_bytes=0) == []


def test_one_builder_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "features-new"
    order: list[str] = []
    first_is_in = threading.Event()

    def first() -> None:
        with building(folder, "features") as is_missing:
            assert is_missing
            first_is_in.set()
            time.sleep(0.1)
            folder.mkdir()
            order.append("built")

    thread = threading.Thread(target=first)
    thread.start()
    first_is_in.wait(5)
    with building(folder, "features") as is_missing:
        order.append("waited")
        assert not is_missing
    thread.join()
    assert order == ["built", "waited"]
    assert not (tmp_path / "cache" / "leases" / "features-new" / "builder").exists()


def test_a_builder_that_fails_leaves_the_place_free(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "features-new"
    with pytest.raises(ZeroDivisionError), building(folder, "features"):
        raise ZeroDivisionError
    with building(folder, "features") as is_missing:
        assert is_missing


def test_a_killed_builder_is_followed_at_once(holder: "subprocess.Popen[str]", tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "features-new"
    (folder.parent / ".features-new.half").mkdir()
    assert prune(folder.parent, keep_bytes=0) == []
    assert (folder.parent / ".features-new.half").exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with building(folder, "features") as is_missing:
        assert is_missing
        assert not (folder.parent / ".features-new.half").exists()


def test_a_lease_of_another_node_ends_without_a_heartbeat(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "features-new"
    builder = tmp_path / "cache" / "leases" / "features-new" / "builder"
    builder.parent.mkdir(parents=True)
    there = {"pid": 1, "started": 0.0, "host": "node-7", "place": "another boot", "token": "theirs"}
    builder.write_text(json.dumps(there))
    stands = threading.Event()

    def wait_for_it() -> None:
        with building(folder, "features"):
            stands.set()

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    assert not stands.wait(0.3)
    then = time.time() - cache_module._EXPIRY_S - 1
    os.utime(builder, (then, then))
    assert stands.wait(5)
    thread.join()


def test_leases_are_touched_while_they_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_BEAT_S", 0.01)
    builder = tmp_path / "cache" / "leases" / "features-new" / "builder"
    with building(tmp_path / "cache" / "features-new", "features"):
        os.utime(builder, (1e6, 1e6))
        deadline = time.monotonic() + 5
        while builder.stat().st_mtime == 1e6:
            assert time.monotonic() < deadline


def test_a_builder_that_stood_still_finds_another_in_its_place(tmp_path: Path) -> None:
    builder = tmp_path / "cache" / "leases" / "features-new" / "builder"
    with (
        pytest.raises(CacheError, match="another one builds it now; start again"),
        building(tmp_path / "cache" / "features-new", "features"),
    ):
        builder.write_text(json.dumps({"token": "another"}))
    assert json.loads(builder.read_text()) == {"token": "another"}


def test_the_quota(store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    prune_to_quota(store)
    assert len(entries(store)) == 3
    monkeypatch.setenv("LTTUNE_CACHE_QUOTA", "5KB")
    prune_to_quota(store)
    assert [entry.name for entry in entries(store)] == ["stage1-bbb", "features-ccc"]
    monkeypatch.setenv("LTTUNE_CACHE_QUOTA", "1KB")
    for name in ("stage1-bbb", "features-ccc"):
        touch(store, name)
    prune_to_quota(store)
    assert len(entries(store)) == 2
    assert "holds 5.0 KB, more than its quota of 1.0 KB: all of it is in use" in caplog.text
    monkeypatch.setenv("LTTUNE_CACHE_QUOTA", "much")
    with pytest.raises(InputError, match="LTTUNE_CACHE_QUOTA: 'much' is not a size; write it as"):
        prune_to_quota(store)


@pytest.mark.parametrize(("text", "wanted"), [("20GB", 20 * 10**9), ("1.5 tb", 1500 * 10**9), ("7B", 7)])
def test_sizes(text: str, wanted: int) -> None:
    assert parse_size(text) == wanted


@pytest.mark.parametrize("text", ["", "20", "GB", "-1GB", "1e3GB", "1 GiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="is not a size; write it as 500MB"):
        parse_size(text)


def test_sizes_for_people() -> None:
    assert [size_text(n) for n in (0, 999, 1500, 2.5e12)] == ["0 B", "999 B", "1.5 KB", "2.5 TB"]
