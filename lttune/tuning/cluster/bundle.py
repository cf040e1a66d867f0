"""What a submitted job runs from: lttune itself, the resolved search space, and a caller's own modules; no data.

The archive's bytes depend on its contents alone, so that a cluster takes the same bundle once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from lttune.errors import ClusterError, InputError
from lttune.tuning.cluster.tokens import known_tokens

LIMIT_BYTES = 10 << 20
# Name of the search space inside the bundle.
SPEC_NAME = "spec.yaml"
_PACKAGES = ("lttune", "trainables", "search_spaces")
# The oldest time that an archive can tell.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_SKIPPED = ("__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache")


@contextmanager
def bundle(spec_text: str | None, *, modules: Sequence[Path] = (), limit_bytes: int = LIMIT_BYTES) -> Iterator[Path]:
    """An archive for the length of the block.

    Args:
        spec_text: the resolved search space; None where a study is resumed, which has its own.
        modules: Python files and packages that a method of one's own needs; importable in the job by their names.
        limit_bytes: largest archive, compressed.

    Raises:
        InputError: a module is missing or would hide lttune's own.
        ClusterError: the archive is too large, or a file of it holds the token that authenticates at the cluster.
    """
    contents = dict(_own_files())
    contents[f"lttune-{version('lttune')}.dist-info/METADATA"] = _metadata()
    for module in modules:
        contents |= dict(_module_files(module))
    if spec_text is not None:
        contents[SPEC_NAME] = spec_text.encode()
    _refuse_tokens(contents)
    with TemporaryDirectory(prefix="lttune-bundle-") as folder:
        archive = Path(folder) / "lttune.zip"
        with ZipFile(archive, "w", ZIP_DEFLATED) as file:
            for name, content in sorted(contents.items()):
                file.writestr(ZipInfo(name, _EPOCH), content, ZIP_DEFLATED)
        size = archive.stat().st_size
        if size > limit_bytes:
            largest = max(contents, key=lambda name: len(contents[name]))
            raise ClusterError(
                f"the bundle has {size / 1e6:.1f} MB, and {limit_bytes / 1e6:.1f} MB is the limit; its largest file is "
                f"{largest}. Data and weights belong on a disk that the cluster sees, not into --module."
            )
        yield archive


def _own_files() -> Iterator[tuple[str, bytes]]:
    for package in _PACKAGES:
        found = find_spec(package)
        assert found is not None
        assert found.submodule_search_locations
        root = Path(next(iter(found.submodule_search_locations)))
        yield from _read(root, root.parent)


def _module_files(module: Path) -> Iterator[tuple[str, bytes]]:
    path = module.expanduser().absolute()
    if not path.exists():
        raise InputError(f"--module {module}: there is no such file or folder; correct the path.")
    if path.stem in _PACKAGES:
        raise InputError(f"--module {module}: the name '{path.stem}' is lttune's own; rename it.")
    if path.is_dir() and not (path / "__init__.py").is_file():
        raise InputError(f"--module {module}: not a Python package, it has no __init__.py; name a file or a package.")
    if path.is_file() and path.suffix != ".py":
        raise InputError(f"--module {module}: not a Python file; data and weights are read from the cluster's disks.")
    yield from _read(path, path.parent)


def _read(path: Path, start: Path) -> Iterator[tuple[str, bytes]]:
    for file in _files_of(path):
        yield file.relative_to(start).as_posix(), file.read_bytes()


def _files_of(path: Path) -> Iterator[Path]:
    found: Iterable[Path] = [path] if path.is_file() else sorted(path.rglob("*"))
    for file in found:
        if file.is_file() and file.suffix != ".pyc" and not set(file.parts) & set(_SKIPPED):
            yield file


def _metadata() -> bytes:
    """What tells `importlib.metadata` the version where lttune is not installed."""
    return f"Metadata-Version: 2.1\nName: lttune\nVersion: {version('lttune')}\n".encode()


def _refuse_tokens(contents: Mapping[str, bytes]) -> None:
    for token in known_tokens():
        for name, content in contents.items():
            if token.encode() in content:
                raise ClusterError(
                    f"{name} holds the token that authenticates at the cluster, and everybody who reads the job could "
                    "read it there; take it out of the file."
                )
