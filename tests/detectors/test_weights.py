"""Loading initial weights."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lttune.detectors.weights import load_weights
from lttune.errors import InputError


class Net(nn.Module):
    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"body": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))})
        self.classifier = nn.Linear(4, outputs)


@pytest.mark.parametrize("kind", ["plain.pth", "nested.pth", "nested_twice.pt", "plain.safetensors"])
def test_a_whole_detector_is_loaded_to_the_bit(kind: str, tmp_path: Path) -> None:
    path, source, module = tmp_path / kind, Net(), Net()
    state = source.state_dict()
    if kind.endswith(".safetensors"):
        save_file(state, path)
    elif kind == "plain.pth":
        torch.save(state, path)
    else:
        torch.save({"model": state, "epoch": 3}, path)
    report = load_weights(module, path)
    assert report.is_complete
    assert set(report.loaded) == set(state)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_what_does_not_fit_is_named_and_keeps_its_start(tmp_path: Path) -> None:
    source, module = Net(outputs=7), Net()
    state = source.state_dict()
    del state["backbone.body.1.weight"]
    state["mask_head.weight"] = torch.zeros(2)
    torch.save(state, tmp_path / "stage1.pth")
    start = module.classifier.weight.clone()
    report = load_weights(module, tmp_path / "stage1.pth")
    assert report.missing == ("backbone.body.1.weight",)
    assert report.mismatched == ("classifier.weight", "classifier.bias")
    assert report.unexpected == ("mask_head.weight",)
    assert not report.is_complete
    assert torch.equal(module.classifier.weight, start)
    assert torch.equal(module.backbone["body"][0].weight, source.backbone["body"][0].weight)
    assert "classifier.weight" in str(report)
    assert "mask_head.weight" in str(report)


def test_weights_of_a_backbone_alone_go_into_it(tmp_path: Path) -> None:
    source, module = Net(), Net()
    torch.save({**source.backbone["body"].state_dict(), "fc.weight": torch.zeros(9)}, tmp_path / "backbone.pth")
    report = load_weights(module, tmp_path / "backbone.pth")
    assert report.prefix == "backbone.body."
    assert report.unexpected == ("fc.weight",)
    assert set(report.missing) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(module.backbone["body"][0].weight, source.backbone["body"][0].weight)


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("pwned"),))


def test_files_that_could_run_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(RunsCode()))
    torch.save({"weight": RunsCode()}, tmp_path / "evil.pth")
    for name in ("evil.pkl", "evil.pth"):
        with pytest.raises(InputError, match=name):
            load_weights(Net(), tmp_path / name)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.pth", None, "is not a file"),
        ("damaged.pth", b"not a checkpoint", "cannot be read"),
        ("damaged.safetensors", b"not a checkpoint", "cannot be read"),
        ("empty.pth", {"epoch": 3}, "no named tensors"),
        ("other.pth", {"encoder.weight": torch.zeros(3)}, "'encoder.weight'.*'backbone.body.0.weight'"),
    ],
)
def test_a_file_without_fitting_weights_is_an_input_error(
    name: str, content: object, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=message):
        load_weights(Net(), path)
