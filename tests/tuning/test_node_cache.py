import hashlib
from pathlib import Path
from typing import Any

import pytest

from lttune.engine.assets import Assets
from lttune.engine.cache import entries
from lttune.engine.config import DataConfig
from lttune.errors import CacheError
from lttune.spec.search import SearchSpec
from lttune.tuning import node_cache
from lttune.tuning.node_cache import Shelf, own_cache, present, pull


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A cache with one folder of three files, one of them larger than many chunks."""
    folder = tmp_path / "there" / "features-abc"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "large.bin").write_bytes(bytes(range(256)) * 100)
    (folder / "train" / "empty.bin").touch()
    (folder / "index.json").write_text("{}")
    return tmp_path / "there"


def take(shelf: Shelf, name: str, to: Path, spoil: Any = lambda chunk: chunk) -> None:
    pull(shelf.listing(name), lambda file, offset: (file, offset), lambda at: spoil(shelf.chunk(name, *at)), to / name)


def test_a_folder_comes_whole(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_cache, "_CHUNK_BYTES", 1000)
    take(Shelf(built, ()), "features-abc", tmp_path / "here")
    for path in ("train/large.bin", "train/empty.bin", "index.json"):
        assert (tmp_path / "here" / "features-abc" / path).read_bytes() == (built / "features-abc" / path).read_bytes()


def test_what_grows_meanwhile_stays_behind(built: Path, tmp_path: Path) -> None:
    growing = built / "features-abc" / "tune" / "masks" / "one.masks"
    growing.parent.mkdir(parents=True)
    growing.write_bytes(b"so far")
    shelf = Shelf(built, ())
    listed = [name for name, _, _ in shelf.listing("features-abc")]
    growing.write_bytes(b"so far and further")
    take(shelf, "features-abc", tmp_path / "here")
    assert listed == ["index.json", "train/empty.bin", "train/large.bin"]
    assert not (tmp_path / "here" / "features-abc" / "tune").exists()


def test_one_that_comes_damaged_does_not_appear(built: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"features-abc/index\.json came damaged"):
        take(Shelf(built, ()), "features-abc", tmp_path / "here", spoil=lambda chunk: chunk.replace(b"{}", b"{]"))
    assert list((tmp_path / "here").iterdir()) == []


def test_one_that_is_not_there(built: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="features-xyz is in no cache that is offered"):
        take(Shelf(built, ()), "features-xyz", tmp_path / "here")


def test_the_nodes_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LTTUNE_CACHE", raising=False)
    assert own_cache(tmp_path) == tmp_path
    monkeypatch.setenv("LTTUNE_CACHE", str(tmp_path / "local"))
    assert own_cache(tmp_path) == tmp_path / "local"


def test_what_is_here_stays_as_it_is(assets: Assets, spec: SearchSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LTTUNE_CACHE", raising=False)
    assert assets.annotation_cache
    assert assets.features

    def users() -> tuple[str, ...]:
        found = {entry.name: entry.users for entry in entries(Path(assets.annotation_cache or ""))}
        return found[Path(assets.features or "").name]

    assert present(assets, spec.on.data) is assets
    assert users() == ()
    # In a cache of the node's own nobody else keeps it from being pruned.
    monkeypatch.setenv("LTTUNE_CACHE", assets.annotation_cache)
    assert present(assets, spec.on.data) is assets
    assert len(users()) == 1


def test_glyphs_are_drawn_again(
    assets: Assets, spec: SearchSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTTUNE_CACHE", str(tmp_path))
    only_data = Assets(
        train_annotations=assets.train_annotations,
        train_images=assets.train_images,
        val_annotations=assets.val_annotations,
        val_images=assets.val_images,
        annotation_cache=assets.annotation_cache,
    )
    here = present(only_data, spec.on.data)
    assert Path(here.train_annotations).is_relative_to(tmp_path)
    assert here.train_digest == assets.train_digest
    digests = [
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(folder).iterdir())]
        for folder in (here.val_images, assets.val_images)
    ]
    assert digests[0] == digests[1] != []


def test_data_of_ones_own_are_not_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTTUNE_CACHE", str(tmp_path / "local"))
    given = Assets(
        train_annotations="/data/train.json",
        train_images="/data",
        val_annotations="/data/val.json",
        val_images="/data",
        annotation_cache=str(tmp_path / "named"),
    )
    here = present(given, DataConfig.__new__(DataConfig))
    assert here.train_annotations == "/data/train.json"
    assert here.annotation_cache == str(tmp_path / "local")
