"""Caches of nodes that share no disk: what one node built, the others pull from it; glyphs they draw themselves.

A node's cache is its LTTUNE_CACHE, else the folder that the driver names. Where all nodes see the same folder,
everything is there already and nothing is moved.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache as once
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lttune.engine.assets import Assets
from lttune.engine.cache import FOLDER_VARIABLE, building, folders_of, hold, prune_to_quota, touch
from lttune.engine.checkpoint import file_digest, replacing_folder
from lttune.engine.config import DataConfig
from lttune.engine.prepare import prepare_data
from lttune.engine.remembered import SUFFIX as GROWING_SUFFIX
from lttune.errors import CacheError

logger = logging.getLogger(__name__)

_NAME = "lttune-cache"
_CHUNK_BYTES = 8 << 20
# Chunks under way: the next ones are read while one is written.
_AHEAD = 4
# File, size, SHA-256.
Listing = list[tuple[str, int, str]]


def has_own_cache() -> bool:
    """Whether this node was given a cache when it was started."""
    return bool(os.environ.get(FOLDER_VARIABLE, "").strip())


def own_cache(named: Path) -> Path:
    """This node's cache, where the driver names another node's."""
    return Path(os.environ[FOLDER_VARIABLE].strip()).expanduser().absolute() if has_own_cache() else named


class Shelf:
    """What one node's cache offers to others, and keeps from being pruned meanwhile."""

    def __init__(self, cache: Path, names: Iterable[str]) -> None:
        self._cache = cache
        for name in names:
            hold(cache, name)
        self._listing = once(self._list)

    def listing(self, name: str) -> Listing:
        """The files of a folder; none where it is not there."""
        return self._listing(name)

    def chunk(self, name: str, file: str, offset: int) -> bytes:
        with (self._cache / name / file).open("rb") as opened:
            opened.seek(offset)
            return opened.read(_CHUNK_BYTES)

    def _list(self, name: str) -> Listing:
        folder = self._cache / name
        # What grows while it is offered would not be what its checksum says, and other nodes can do without.
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != GROWING_SUFFIX)
        return [(path.relative_to(folder).as_posix(), path.stat().st_size, file_digest(path)) for path in files]


@contextmanager
def offered(assets: Collection[Assets], node: str) -> Iterator[None]:
    """Offer what a node has made to the others of the cluster, for the length of the block.

    Args:
        assets: of each method, by their paths on that node.
        node: its id in Ray.
    """
    cache = Path(next(iter(assets)).annotation_cache or "")
    names = {name for each in assets for name in folders_of(cache, each)}
    here = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    shelf = ray.remote(Shelf).options(name=_NAME, num_cpus=0, scheduling_strategy=here).remote(cache, sorted(names))
    try:
        yield
    finally:
        ray.kill(shelf)


def present(assets: Assets, data: DataConfig) -> Assets:
    """The same assets on this node: as they are, pulled, or drawn again.

    Args:
        assets: as the driver names them.
        data: of the setting; glyphs are drawn from it, which is cheaper than moving many small files.

    Raises:
        CacheError: something is neither here nor offered by a node, or came damaged.
    """
    if assets.annotation_cache is None:
        return assets
    named = Path(assets.annotation_cache)
    cache = own_cache(named)
    names = folders_of(named, assets)
    is_changed = False
    for name in names:
        if not (cache / name).exists():
            is_changed = True
            _bring(cache, name, data)
        if has_own_cache():  # else it is the driver's, who holds it already
            hold(cache, name)
            touch(cache, name)
    if is_changed:
        prune_to_quota(cache)
    return assets if cache == named else _moved(assets, named, cache)


def _bring(cache: Path, name: str, data: DataConfig) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    if data.glyphs is not None and name.startswith("glyphs-"):
        prepare_data(data, cache, lambda *_: None)
        return
    with building(cache / name, name) as is_missing:
        if is_missing:
            try:
                shelf = ray.get_actor(_NAME)
            except ValueError as error:
                raise CacheError(
                    f"{name} is not in {cache} of this node, and the node that made it is gone; go on with: lttune "
                    "resume STUDY"
                ) from error
            logger.info("Pulling %s from the node that made it.", name)
            pull(
                ray.get(shelf.listing.remote(name)),
                lambda file, offset: shelf.chunk.remote(name, file, offset),
                ray.get,
                cache / name,
            )


def pull(listing: Listing, ask: Callable[[str, int], Any], wait: Callable[[Any], bytes], folder: Path) -> None:
    """Write a folder from chunks; it appears when it is whole.

    Args:
        ask: begins to fetch the chunk of a file at an offset.
        wait: gives what was asked for.

    Raises:
        CacheError: there is nothing to pull, or a file is not what it was said to be.
    """
    if not listing:
        raise CacheError(f"{folder.name} is in no cache that is offered; go on with: lttune resume STUDY")
    with replacing_folder(folder) as temporary:
        for name, size, sha256 in listing:
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            offsets = list(range(0, size, _CHUNK_BYTES))
            asked = [ask(name, offset) for offset in offsets[:_AHEAD]]
            with path.open("wb") as file:
                for position in range(len(offsets)):
                    chunk = wait(asked.pop(0))
                    if position + _AHEAD < len(offsets):
                        asked.append(ask(name, offsets[position + _AHEAD]))
                    file.write(chunk)
                    digest.update(chunk)
            if digest.hexdigest() != sha256:
                raise CacheError(f"{folder.name}/{name} came damaged from the node that made it; start again.")


def _moved(assets: Assets, named: Path, cache: Path) -> Assets:
    """The same files below another cache."""

    def moved(path: str) -> str:
        return str(cache / Path(path).relative_to(named)) if Path(path).is_relative_to(named) else path

    def moved_if_any(path: str | None) -> str | None:
        return None if path is None else moved(path)

    return replace(
        assets,
        annotation_cache=str(cache),
        train_annotations=moved(assets.train_annotations),
        train_images=moved(assets.train_images),
        val_annotations=moved(assets.val_annotations),
        val_images=moved(assets.val_images),
        stage1_weights=moved_if_any(assets.stage1_weights),
        features=moved_if_any(assets.features),
        memory=moved_if_any(assets.memory),
    )
