"""`detectron2://` addresses."""

import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from lttune.detectors.weights import is_address, load_weights
from lttune.detectors.weights.urls import local_file
from lttune.errors import InputError

ADDRESS = "detectron2://ImageNetPretrained/MSRA/R-50.pth"
needs_detectron2 = pytest.mark.skipif(
    find_spec("detectron2") is None, reason="detectron2 is not installed; see its own installation guide"
)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the address's file lies in the cache, which is empty."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    return tmp_path / "detectron2/ImageNetPretrained/MSRA/R-50.pth"


def test_a_path_stays_what_it_is() -> None:
    assert not is_address("weights/R-50.pkl")
    assert local_file("weights/R-50.pkl") == Path("weights/R-50.pkl")


@pytest.mark.parametrize("address", [ADDRESS, Path(ADDRESS)], ids=["text", "path"])
def test_a_file_in_the_cache_is_loaded(address: str | Path, cached: Path) -> None:
    source, module = nn.Linear(2, 3), nn.Linear(2, 3)
    cached.parent.mkdir(parents=True)
    torch.save(source.state_dict(), cached)
    assert is_address(address)
    assert load_weights(module, address).is_complete
    assert torch.equal(module.weight, source.weight)


@pytest.mark.detectron2
@needs_detectron2
def test_the_cache_is_where_detectron2_puts_it(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, filename: str, **_: object) -> tuple[str, None]:
        asked.append(url)
        Path(filename).write_bytes(b"weights")
        return filename, None

    monkeypatch.setattr(urllib.request, "urlretrieve", download)
    for _ in range(2):
        assert local_file("detectron2://ImageNetPretrained/MSRA/R-101.pkl") == cached.with_name("R-101.pkl")
    assert cached.with_name("R-101.pkl").read_bytes() == b"weights"
    assert [url.partition("/detectron2/")[2] for url in asked] == ["ImageNetPretrained/MSRA/R-101.pkl"]


@pytest.mark.detectron2
@needs_detectron2
def test_without_a_network_a_sentence_says_where_to_put_the_file(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlretrieve", fail)
    with pytest.raises(InputError, match=r"cannot be downloaded.*no route to host.*Put the file at") as error:
        local_file(ADDRESS)
    assert str(cached) in str(error.value)


def test_without_detectron2_a_sentence_says_where_to_put_the_file(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    monkeypatch.setitem(sys.modules, "detectron2.utils.file_io", None)
    with pytest.raises(InputError, match=r"detectron2, which would download it, is not installed\. Put the file at"):
        local_file(ADDRESS)


@pytest.mark.parametrize("address", ["detectron2://", "detectron2://../../etc/passwd"])
def test_an_address_of_no_file_is_an_input_error(address: str) -> None:
    with pytest.raises(InputError, match="names no file"):
        local_file(address)
