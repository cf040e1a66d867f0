"""`detectron2://` addresses of published weights, as detectron2's configurations write them."""

import os
import re
import warnings
from pathlib import Path

from lttune.errors import InputError

SCHEME = "detectron2://"


def is_address(weights: str | Path) -> bool:
    """Whether this is an address and not a path; a `Path` made from one counts, though it lost a slash."""
    return str(weights).startswith(SCHEME[:-1])


def local_file(weights: str | Path) -> Path:
    """The path as it is, or of a `detectron2://` address the file in the cache that detectron2 shares with it.

    The cache is `$FVCORE_CACHE`, else `~/.torch/iopath_cache`. What is not there is downloaded by detectron2 itself.

    Raises:
        InputError: an address whose file is neither in the cache nor can be downloaded.
    """
    if not is_address(weights):
        return Path(weights)
    name = re.sub(r"^detectron2:/+", "", str(weights))
    if not name or ".." in Path(name).parts:
        raise InputError(f"detector.weights: '{weights}' names no file; see detectron2's model zoo for its addresses.")
    cache = Path(os.environ.get("FVCORE_CACHE", "~/.torch/iopath_cache")).expanduser()
    cached = cache / "detectron2" / name
    return cached if cached.is_file() else _download(SCHEME + name, cached)


def _download(address: str, cached: Path) -> Path:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as where the backend is loaded
            from detectron2.utils.file_io import PathManager
    except ImportError as error:
        raise InputError(
            f"detector.weights: {address} is not in the cache, and detectron2, which would download it, is not "
            f"installed. Put the file at {cached}, or give the path of a file."
        ) from error
    try:
        return Path(PathManager.get_local_path(address))
    # Whatever network, disk and the lock on the cache have to say.
    except Exception as error:
        raise InputError(
            f"detector.weights: {address} is not in the cache and cannot be downloaded ({error}). Put the file at "
            f"{cached}, or give the path of a file."
        ) from error
