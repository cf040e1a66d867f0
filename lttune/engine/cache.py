"""The cache of one node: what is in it, who uses it, and what goes when it grows beyond its quota.

CACHE/KIND-DIGEST/             one thing that searches share, whole since it has this name
CACHE/annotations/DIGEST/      parsed annotations
CACHE/leases/KIND-DIGEST/      who builds it (`builder`), who uses it (`*.lease`), and when it was last used (`used`)

A lease is a file with its holder's name, touched while the holder lives. It ends when it is released, when its process
is gone, or, where that cannot be seen from here, when nobody has touched it for a while: a lock would outlive a node
that died. Ages are told by the file system's own clock, which is the same for all nodes.
"""

import json
import logging
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]

from lttune.errors import CacheError, InputError

if TYPE_CHECKING:
    from lttune.engine.assets import Assets

logger = logging.getLogger(__name__)

FOLDER_VARIABLE, QUOTA_VARIABLE = "LTTUNE_CACHE", "LTTUNE_CACHE_QUOTA"
KINDS = ("glyphs", "stage1", "features", "memory")
_ANNOTATIONS = "annotations"
# What a killed process left of a stage-1 model, to go on with.
PARTIAL_SUFFIX = ".partial.pt"
_LEASES, _BUILDER, _USED = "leases", "builder", "used"
# A lease is touched this often, and counts as left behind after the longer time without.
_BEAT_S, _EXPIRY_S = 15.0, 120.0
# What was used a moment ago is not pruned by itself: its search may be about to take the lease.
_JUST_USED_S = 600.0
_POLL_S = 0.1
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing in a cache.

    Attributes:
        name: the folder's, below the cache.
        last_used: seconds since the epoch.
        users: who leases it, as `process 12 on host`.
    """

    name: str
    path: Path
    num_bytes: int
    last_used: float
    users: tuple[str, ...]

    @property
    def kind(self) -> str:
        return re.split("[-/]", self.name)[0]

    @property
    def digest(self) -> str:
        return re.split("[-/]", self.name.removesuffix(PARTIAL_SUFFIX))[-1]


def cache_folder(out: Path) -> Path:
    """The cache of this node: LTTUNE_CACHE, else the folder `cache` of an output folder."""
    given = os.environ.get(FOLDER_VARIABLE, "").strip()
    return (Path(given).expanduser() if given else out / "cache").absolute()


# ---- leases


class Lease:
    """A file that says who uses something, touched by a thread of its own until it is released."""

    def __init__(self, path: Path) -> None:
        """Raises FileExistsError where the file is there already."""
        self._path = path
        self._token = uuid.uuid4().hex
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            json.dump({**_holder(), "token": self._token}, file)
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lttune-lease", daemon=True)
        self._thread.start()

    @property
    def is_held(self) -> bool:
        """Whether it is still ours: a process that was stopped for long finds that another one took its place."""
        return _read(self._path).get("token") == self._token

    def release(self) -> None:
        self._released.set()
        self._thread.join()
        if self.is_held:
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(_BEAT_S):
            with suppress(OSError):
                os.utime(self._path)


@contextmanager
def leased(cache: Path, assets: Collection["Assets"]) -> Iterator[None]:
    """Keep what a search stands on from being pruned, for the length of the block.

    Args:
        assets: of each method; files outside the cache are nobody's to prune.
    """
    names = sorted({name for each in assets for name in _names(cache, each)})
    with ExitStack() as stack:
        for name in names:
            lease = Lease(_lease_folder(cache, name) / f"{uuid.uuid4().hex}.lease")
            stack.callback(touch, cache, name)
            stack.callback(lease.release)
            touch(cache, name)
        yield


@once
def hold(cache: Path, name: str) -> Lease:
    """A lease for as long as this process lives, taken once."""
    return Lease(_lease_folder(cache, name) / f"{uuid.uuid4().hex}.lease")


@contextmanager
def building(folder: Path, what: str) -> Iterator[bool]:
    """Be the one that builds a folder of the cache; says whether it has still to be built.

    Raises:
        CacheError: at the end of the block, another process took this one for dead and builds.
    """
    cache, name = folder.parent, folder.name
    path = _lease_folder(cache, name) / _BUILDER
    lease = _take(path, what)
    try:
        # What a killed process left of its attempt; whoever holds the lease owns it.
        for leftover in cache.glob(f".{name}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield not folder.exists()
        if not lease.is_held:
            raise CacheError(
                f"{folder}: this process stood still for over {_EXPIRY_S:.0f} s, and another one builds it now; start "
                "again."
            )
        touch(cache, name)
    finally:
        lease.release()


def touch(cache: Path, name: str) -> None:
    """Note that something is used; a cache that may only be read needs no such notes."""
    used = _lease_folder(cache, name) / _USED
    with suppress(OSError):
        used.parent.mkdir(parents=True, exist_ok=True)
        used.touch()


def _take(path: Path, what: str) -> Lease:
    """The builder's lease, waited for while another process holds it."""
    is_told = False
    while True:
        try:
            return Lease(path)
        except FileExistsError:
            pass
        if not _is_alive(path):
            _remove_dead(path)
            continue
        if not is_told:
            logger.info("Waiting for %s, which builds %s.", _told(_read(path)), what)
            is_told = True
        time.sleep(_POLL_S)


def _remove_dead(path: Path) -> None:
    """Remove a lease that its holder left behind, and no other that took its place a moment ago."""
    dead = _read(path).get("token")
    aside = path.with_name(f"{uuid.uuid4().hex}.dead")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _read(aside).get("token") != dead:
        with suppress(OSError):  # a third one has come, and stays
            path.hardlink_to(aside)
    aside.unlink(missing_ok=True)


def _is_alive(path: Path) -> bool:
    holder = _read(path)
    if holder.get("place") == _place():
        try:
            return bool(abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 1)
        except (psutil.Error, KeyError):
            return False
    try:
        return _now(path.parent) - path.stat().st_mtime < _EXPIRY_S
    except FileNotFoundError:
        return False


def _now(folder: Path) -> float:
    """The file system's time, which other nodes' stamps are compared with."""
    probe = folder / f"{uuid.uuid4().hex}.now"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _holder() -> dict[str, object]:
    process = psutil.Process()
    return {"pid": process.pid, "started": process.create_time(), "host": socket.gethostname(), "place": _place()}


@once
def _place() -> str:
    """Where process ids mean the same: containers of one host share its name and not its processes."""
    namespace = Path("/proc/self/ns/pid")
    boot = Path("/proc/sys/kernel/random/boot_id")
    with suppress(OSError):
        return f"{boot.read_text().strip()} {namespace.stat().st_ino}"
    return socket.gethostname()


def _read(path: Path) -> dict[str, object]:
    """What a lease says; nothing where it is gone or just being written."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _told(holder: dict[str, object]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"


def _lease_folder(cache: Path, name: str) -> Path:
    return cache / _LEASES / name.removesuffix(PARTIAL_SUFFIX).replace("/", "-")


def folders_of(cache: Path, assets: "Assets") -> list[str]:
    """The folders of a cache that the assets lie in, by name; files outside it are not among them."""
    files = (assets.train_annotations, assets.val_annotations, assets.stage1_weights, assets.features, assets.memory)
    paths = [Path(file) for file in files if file]
    return sorted({path.relative_to(cache).parts[0] for path in paths if path.is_relative_to(cache)})


def _names(cache: Path, assets: "Assets") -> Iterator[str]:
    # This module is imported by commands that need no torch.
    from lttune.engine.assets import file_digest_once

    yield from folders_of(cache, assets)
    for file in (assets.train_annotations, assets.val_annotations):
        yield f"{_ANNOTATIONS}/{file_digest_once(file)[:32]}"


# ---- what is in a cache, and what goes


def entries(cache: Path) -> list[Entry]:
    """Everything that can be pruned, least recently used first."""
    found = [path for kind in KINDS for path in cache.glob(f"{kind}-*") if path.is_dir()]
    found += cache.glob(f"stage1-*{PARTIAL_SUFFIX}")
    found += [path for path in (cache / _ANNOTATIONS).glob("*") if path.is_dir() and not path.name.startswith(".")]
    return sorted((_entry(cache, path) for path in found), key=lambda entry: (entry.last_used, entry.name))


def prune(cache: Path, *, keep_bytes: int, is_dry_run: bool = False, min_idle_s: float = 0.0) -> list[Entry]:
    """Remove what was used longest ago until the rest fits; what is leased stays.

    Args:
        keep_bytes: size of what may stay.
        is_dry_run: only say what would go.
        min_idle_s: what was used later than so long ago stays, too.

    Returns:
        What went, or would go.
    """
    found = entries(cache)
    total, removed = sum(entry.num_bytes for entry in found), []
    now = _now(cache) if found else 0.0
    for entry in found:
        if total <= keep_bytes:
            break
        if entry.users or now - entry.last_used < min_idle_s:
            continue
        if is_dry_run or _remove(cache, entry):
            removed.append(entry)
            total -= entry.num_bytes
    if not is_dry_run:
        _sweep(cache)
    return removed


def _sweep(cache: Path) -> None:
    """Remove what killed builders left, where nobody builds the same now."""
    for kind in KINDS:
        for leftover in cache.glob(f".{kind}-*"):
            name = leftover.name.split(".")[1]
            if not _is_alive(_lease_folder(cache, name) / _BUILDER):
                shutil.rmtree(leftover, ignore_errors=True)


def prune_to_quota(cache: Path) -> None:
    """Prune to the quota of this node, if it has one; something that does not fit because it is in use is told."""
    quota = quota_bytes()
    if quota is None:
        return
    for entry in prune(cache, keep_bytes=quota, min_idle_s=_JUST_USED_S):
        logger.info("Pruned %s (%s) from the cache.", entry.name, size_text(entry.num_bytes))
    total = sum(entry.num_bytes for entry in entries(cache))
    if total > quota:
        logger.warning(
            "The cache %s holds %s, more than its quota of %s: all of it is in use.",
            cache,
            size_text(total),
            size_text(quota),
        )


def quota_bytes() -> int | None:
    """The quota that LTTUNE_CACHE_QUOTA gives this node's cache; None without one.

    Raises:
        InputError: it is not a size.
    """
    text = os.environ.get(QUOTA_VARIABLE, "").strip()
    if not text:
        return None
    try:
        return parse_size(text)
    except InputError as error:
        raise InputError(f"{QUOTA_VARIABLE}: {error}") from error


def parse_size(text: str) -> int:
    """Bytes of `20GB` and the like, in powers of ten.

    Raises:
        InputError: it is not a size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)\s*", text, re.IGNORECASE)
    if found is None:
        raise InputError(f"'{text}' is not a size; write it as 500MB, 20GB or 1.5TB.")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def size_text(num_bytes: float) -> str:
    """Bytes for people: `1.4 GB`."""
    unit = next((unit for unit in ("TB", "GB", "MB", "KB") if num_bytes >= _UNITS[unit]), "B")
    return f"{num_bytes / _UNITS[unit]:.1f} {unit}" if unit != "B" else f"{num_bytes:.0f} B"


def _entry(cache: Path, path: Path) -> Entry:
    name = path.relative_to(cache).as_posix()
    leases = _lease_folder(cache, name)
    alive = [
        _read(lease) for lease in (*leases.glob("*.lease"), leases / _BUILDER) if lease.exists() and _is_alive(lease)
    ]
    stamp = leases / _USED if (leases / _USED).exists() else path
    return Entry(
        name=name,
        path=path,
        num_bytes=path.stat().st_size if path.is_file() else folder_bytes(path),
        last_used=stamp.stat().st_mtime,
        users=tuple(sorted({_told(holder) for holder in alive})),
    )


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder, some of which may go meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _remove(cache: Path, entry: Entry) -> bool:
    """Remove one entry, unless somebody has begun to use it."""
    leases = _lease_folder(cache, entry.name)
    try:
        lease = Lease(leases / _BUILDER)
    except FileExistsError:
        if _is_alive(leases / _BUILDER):
            return False
        _remove_dead(leases / _BUILDER)
        return _remove(cache, entry)
    try:
        if any(_is_alive(other) for other in leases.glob("*.lease")):
            return False
        # Renamed first: nobody finds half of it under its name.
        aside = entry.path.with_name(f".{entry.path.name}.{uuid.uuid4().hex}")
        entry.path.rename(aside)
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
        (leases / _USED).unlink(missing_ok=True)
    finally:
        lease.release()
    return True
