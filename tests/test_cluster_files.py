"""The files of docs/cluster and deploy, as far as that goes without their platforms."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from lttune.cli import group

ROOT = Path(__file__).parents[1]
GUIDE, FOLDER, IMAGE = ROOT / "docs" / "cluster.md", ROOT / "docs" / "cluster", ROOT / "deploy" / "Dockerfile"


def texts() -> Iterator[tuple[str, str]]:
    """Each place that holds commands, its continued lines joined."""
    for block in re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        yield GUIDE.name, block
    for path in (FOLDER / "slurm.sh", IMAGE):
        yield path.name, path.read_text()
    cluster = yaml.safe_load((FOLDER / "vm_cluster.yaml").read_text())
    for key, value in cluster.items():
        if key.endswith("commands"):
            yield "vm_cluster.yaml", "\n".join(value)
    yield "rayjob.yaml", yaml.safe_load((FOLDER / "rayjob.yaml").read_text())["spec"]["entrypoint"]


def commands(program: str) -> list[tuple[str, list[str]]]:
    """Every call of a program in those places, with its words."""
    found = []
    for place, text in texts():
        for line in text.replace("\\\n", " ").splitlines():
            code = re.sub(r"(^|\s)#.*|^(COPY|WORKDIR) .*", "", line)
            for part in re.split(r"&&|;|\|\|", code):
                if match := re.search(rf"(?<![\w/.-]){program} (?!\$)(.*)", part.strip().rstrip("&").strip()):
                    found.append((place, shlex.split(match[1])))
    return found


@pytest.mark.parametrize(("place", "words"), commands("lttune"))
def test_lttune_knows_its_commands_and_options(place: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words == ["--version"]:
        return
    for name in ("LTTUNE_OUT", "LTTUNE_DATA"):
        monkeypatch.delenv(name, raising=False)
    context = click.Context(group)
    name, command, rest = group.resolve_command(context, list(words))
    assert command is not None
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, rest)
        assert command is not None
    made = command.make_context(name or "", list(rest))
    if options := made.params.get("options"):
        search = group.get_command(context, "search")
        assert search is not None
        search.make_context("search", ["acsl", *options])


def test_every_way_in_is_told() -> None:
    places = {place for place, _ in commands("lttune")}
    assert places == {"cluster.md", "slurm.sh", "Dockerfile", "vm_cluster.yaml", "rayjob.yaml"}
    told = {words[0] for _, words in commands("lttune")}
    assert {"search", "resume", "submit", "jobs", "cache", "probe"} <= told


@pytest.mark.parametrize(("place", "words"), commands("ray"))
def test_ray_knows_its_commands_and_options(place: str, words: list[str]) -> None:
    from ray.scripts.scripts import cli

    if words == ["--version"]:
        return
    command: Any = cli.commands[words[0]]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words[1:] if word.startswith("-")} <= known


def test_the_cluster_of_machines_is_one_that_ray_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    found = yaml.safe_load((FOLDER / "vm_cluster.yaml").read_text())
    validate_config(prepare_config(found))
    assert all("RAY_AUTH_MODE=token" in found[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker"))


def test_the_ray_job_belongs_together() -> None:
    job = yaml.safe_load((FOLDER / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "requirements.lock").read_text()
    assert cluster["authOptions"] == {"mode": "token"}
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    templates = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for spec in (template["template"]["spec"] for template in templates):
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert container["resources"]["limits"] == container["resources"]["requests"]
    # Both see the output folder and the data.
    paths = [{m["mountPath"] for m in t["template"]["spec"]["containers"][0]["volumeMounts"]} for t in templates]
    assert all("/shared" in found for found in paths)


def test_the_slurm_script_is_bash() -> None:
    checked = subprocess.run(["bash", "-n", FOLDER / "slurm.sh"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_what_the_image_copies_is_there() -> None:
    text = IMAGE.read_text()
    sources = [word for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert {"requirements.lock", "lttune", "trainables", "search_spaces"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
    first = {
        part.strip().split()[0] for line in re.findall(r"^RUN (.*)$", text, re.MULTILINE) for part in line.split("&&")
    }
    assert first <= {"apt-get", "rm", "python", "lttune", "ray", "useradd"}


@pytest.mark.parametrize("path", [GUIDE, IMAGE, *sorted(FOLDER.iterdir())], ids=lambda path: path.name)
def test_no_token_is_written_down(path: Path) -> None:
    assert not re.search(r"[0-9a-f]{32}", path.read_text())
    assert "RAY_AUTH_TOKEN=" not in path.read_text()


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", GUIDE.read_text()):
        assert (GUIDE.parent / target).exists(), target
