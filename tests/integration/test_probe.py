"""`lttune probe` with real processes side by side."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytestmark = pytest.mark.slow

SPEC = Path(__file__).with_name("small.yaml")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, so trials are measured there")
def test_what_this_machine_holds(bare: Any, tmp_path: Path) -> None:
    new = tmp_path / "probed.yaml"
    out, err = bare.run("probe", str(SPEC), "--seconds", "0.5", "--to", str(new), "--json")
    found = json.loads(out)
    first = found["measured"][0]
    assert (first["method"], first["num_trials"]) == ("acsl", 1)
    # A process that has imported torch, and no more than a few of them.
    assert 0.2 < first["memory_gb"] < 4
    assert all(measured["iterations_per_s"] > 1 for measured in found["measured"])
    assert "acsl, 1 trial: " in err
    resources = yaml.safe_load(new.read_text())["resources"]
    assert {name: resources[name] for name in found["resources"]} == found["resources"]
    assert found["resources"]["max_concurrent"] in {1, 2, 4}
    assert not list((bare.out / "cache").glob("stage1-*"))
    # The file is a setting that a search takes.
    assert "acsl: trains classifier" in bare.run("validate", str(SPEC), "--on", str(new))[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_share_of_a_gpu(bare: Any) -> None:
    found = json.loads(bare.run("probe", str(SPEC), "--seconds", "1", "--json")[0])
    assert found["resources"]["gpus"] in {1, 0.5, 0.25}
    # A context alone takes some hundred megabytes of the device.
    assert 0.1 < found["measured"][0]["memory_gb"] < 0.9 * torch.cuda.mem_get_info()[1] / 1e9
