"""Annotation files parsed once: columns on disk, named by the file's SHA-256, mapped into memory by every process.

The mapped pages of all processes of a machine are the same memory. A folder of columns appears when it is whole, and
one that is damaged is built again.
"""

import hashlib
import logging
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from filelock import FileLock, Timeout

from lttune.data.lvis import annotations_from_text, paused_collector, read_text
from lttune.data.segmentations import PackedSegmentations, pack_segmentations
from lttune.types import Annotations

logger = logging.getLogger(__name__)

# Raised whenever other columns, or other values in them, come out of the same file.
_FORMAT = 1
_INDEX, _NAMES = "index.json", "names.json"
_CHUNK_BYTES = 1 << 24
# A file that was changed a moment ago may change again within the tick of its time stamp.
_SETTLED_S = 2.0

_ARRAYS = (
    "image_ids",
    "image_heights",
    "image_widths",
    "category_ids",
    "frequency_group",
    "annotation_ids",
    "annotation_image",
    "annotation_category",
    "boxes_xywh",
    "areas",
    "is_ignored",
    "negative",
    "not_exhaustive",
)
_TEXTS = ("file_names", "category_names")


def cached_annotations(
    path: Path, cache: Path, *, is_checked: bool = True, parsing: Callable[[], None] | None = None
) -> Annotations:
    """What `load_annotations` gives, from the cache where the file was parsed before.

    Arrays are mapped copy-on-write, and segmentations are unpacked one by one.

    Args:
        path: the annotation file.
        cache: folder shared by all processes; made where it is missing.
        is_checked: whether every byte of the columns is compared with its checksum; without, sizes are.
        parsing: called before the file is parsed, which takes long.

    Raises:
        DataError: the file is missing or breaks the format.
    """
    store = cache / "annotations"
    known = store / f"{hashlib.sha256(bytes(path.absolute())).hexdigest()[:32]}.json"
    stamp = _stamp(path)
    digest = _known_digest(known, stamp)
    if digest is not None:
        annotations = _open(store / digest, str(path), is_checked=is_checked)
        if annotations is not None:
            return annotations
    text = read_text(path)
    digest = hashlib.sha256(text).hexdigest()[:32]
    store.mkdir(parents=True, exist_ok=True)
    with _locked(store / f"{digest}.lock"):
        annotations = _open(store / digest, str(path), is_checked=True)
        if annotations is None:
            if parsing is not None:
                parsing()
            _build(text, path, store / digest)
            annotations = _open(store / digest, str(path), is_checked=False)
            assert annotations is not None, "the columns just written cannot be read"
    if stamp is not None and time.time() - stamp["mtime_ns"] * 1e-9 > _SETTLED_S:
        _replace(known, orjson.dumps({**stamp, "digest": digest}))
    return annotations


def _stamp(path: Path) -> dict[str, int] | None:
    """What changes when the file does, without reading it; None where there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "inode": found.st_ino}


def _known_digest(known: Path, stamp: dict[str, int] | None) -> str | None:
    try:
        entry = orjson.loads(known.read_bytes())
        digest = entry.pop("digest")
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) and entry == stamp else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Waiting for another process that parses the same annotations.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(text: bytes, path: Path, folder: Path) -> None:
    """Parse the text into the folder; the caller holds its lock."""
    with paused_collector():
        annotations = annotations_from_text(text, str(path))
        columns = {name: getattr(annotations, name) for name in _ARRAYS}
        columns |= pack_segmentations(annotations.segmentations)
    # What a killed process left of its attempt, and a folder that turned out to be damaged.
    for leftover in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if folder.exists():
        logger.warning("%s is damaged; it is built again from %s.", folder, path)
        shutil.rmtree(folder)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        # A folder inside, because the temporary one is readable by its owner only.
        whole = Path(temporary) / "columns"
        whole.mkdir()
        for name, column in columns.items():
            np.save(whole / f"{name}.npy", column)
        (whole / _NAMES).write_bytes(orjson.dumps({name: getattr(annotations, name) for name in _TEXTS}))
        files = {
            file.name: {"bytes": file.stat().st_size, "crc32": _checksum(file)} for file in sorted(whole.iterdir())
        }
        index = {"format": _FORMAT, "is_exhaustive": annotations.is_exhaustive, "files": files}
        (whole / _INDEX).write_bytes(orjson.dumps(index))
        whole.rename(folder)


def _open(folder: Path, source: str, *, is_checked: bool) -> Annotations | None:
    """The columns of a folder, or None where it is missing, damaged or of another format."""
    try:
        index = orjson.loads((folder / _INDEX).read_bytes())
        if index["format"] != _FORMAT:
            return None
        for name, file in index["files"].items():
            is_whole = (folder / name).stat().st_size == file["bytes"]
            if not is_whole or (is_checked and _checksum(folder / name) != file["crc32"]):
                return None
        columns = {name.removesuffix(".npy"): _mapped(folder / name) for name in index["files"] if name != _NAMES}
        names = orjson.loads((folder / _NAMES).read_bytes())
        values: dict[str, Any] = {name: columns[name] for name in _ARRAYS}
        values |= {name: tuple(names[name]) for name in _TEXTS}
        return Annotations(
            source=source,
            segmentations=PackedSegmentations(columns),
            is_exhaustive=index["is_exhaustive"],
            **values,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _mapped(path: Path) -> npt.NDArray[Any]:
    """An array of a file, copy-on-write: torch warns of arrays that it may not write."""
    return np.asarray(np.load(path, mmap_mode="c"))


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _replace(path: Path, content: bytes) -> None:
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        file.write(content)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
