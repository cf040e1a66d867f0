"""A search as a job of an existing cluster: preflight first, then the same command that runs it anywhere."""

import json
import os
import re
import secrets
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from lttune.detectors.weights import is_address
from lttune.engine.config import DataConfig
from lttune.errors import ClusterError, InputError
from lttune.spec.search import SearchSpec
from lttune.spec.yaml_text import to_yaml
from lttune.tuning.cluster.bundle import SPEC_NAME, bundle
from lttune.tuning.cluster.client import STUDY_KEY, JobsClient, JobState, is_loopback
from lttune.tuning.cluster.preflight import MARK, differences, look
from lttune.tuning.cluster.tokens import known_tokens

# By the name of the interpreter: the one that runs Ray there, first on the path of its processes.
_PYTHON = "python"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is to run.

    Attributes:
        spec: what is searched; None where the study is resumed.
        study: its name.
        out: folder of all studies, as every node of the cluster sees it.
        modules: Python files and packages of the caller's own.
        options: further options of `lttune search` or `lttune resume`.
    """

    spec: SearchSpec | None
    study: str
    out: Path
    modules: Sequence[Path] = ()
    options: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.out.is_absolute():
            raise InputError(f"--out {self.out} is relative; give the folder as every node of the cluster sees it.")

    @property
    def command(self) -> str:
        """The job's entry point."""
        what = ["search", SPEC_NAME, "--study", self.study] if self.spec else ["resume", self.study]
        return shlex.join([_PYTHON, "-m", "lttune", *what, "--address", "auto", "--out", str(self.out), *self.options])

    @property
    def metadata(self) -> dict[str, str]:
        return {STUDY_KEY: self.study, "lttune.out": str(self.out), "lttune.version": version("lttune")}


def submit(submission: Submission, client: JobsClient, say: Callable[[str], None]) -> str:
    """Send a search to a cluster; gives the job's id.

    Args:
        say: told what happens, a line each.

    Raises:
        InputError: a module is missing.
        ClusterError: the bundle is too large, the cluster lacks something, or took no job.
    """
    spec, study = submission.spec, submission.study
    job = f"lttune-{re.sub('[^A-Za-z0-9_-]', '-', study)}-{secrets.token_hex(4)}"
    text = None if spec is None else f"# lttune resume {study}\n{to_yaml(spec.to_document())}"
    preflight = _preflight_arguments(submission)
    command = shlex.join([_PYTHON, "-m", "lttune.tuning.cluster.preflight", json.dumps(preflight)])
    _refuse_tokens([submission.command, command, *submission.metadata.values()])
    with bundle(text, modules=submission.modules) as archive:
        say(f"Bundle: {archive.stat().st_size / 1e6:.1f} MB.")
        client.submit(command, job=f"{job}-preflight", archive=archive, metadata={"lttune.preflight": job})
        there = _answer(client, f"{job}-preflight")
        detector = None if spec is None else spec.on.detector
        faults = differences(
            look(preflight["packages"], (), None),
            there,
            uses_detectron2=detector is None or (detector.backend != "torchvision" and "tiny" not in detector.name),
        )
        if faults:
            raise ClusterError("\n  ".join([f"{client.address} cannot run what runs here:", *faults]))
        say("Preflight: the cluster has the same Python, Ray, lttune, torch and detectron2.")
        client.submit(submission.command, job=job, archive=archive, metadata=submission.metadata)
    return job


def submitted_out(out: str | None, address: str) -> Path:
    """The output folder of a submission: on this machine as for any search, elsewhere it has to be given in full.

    Raises:
        InputError: the folder would mean another one there.
    """
    given = out or os.environ.get("LTTUNE_OUT") or ("lttune_runs" if is_loopback(address) else "")
    if "://" in given:
        raise InputError(
            f"--out {given} is an object store, and a study needs a folder that can be appended to; name a shared one "
            "or a mount that every node sees, and copy from there."
        )
    folder = Path(given)
    if is_loopback(address):
        return folder.absolute()
    if not folder.is_absolute():
        raise InputError(
            f"--out is {given or 'not given'}; name the folder in full, as every node of the cluster sees it."
        )
    return folder


def exit_code(state: JobState) -> int:
    """The exit code that stands for a job's end: its own where that is 0 or 2, else 1."""
    if state.status == "SUCCEEDED":
        return 0
    return 2 if state.exit_code == 2 else 1


def _answer(client: JobsClient, job: str) -> dict[str, Any]:
    """What the preflight job found."""
    output: list[str] = []
    state = client.follow(job, output.append)
    for line in "".join(output).splitlines():
        if line.startswith(MARK):
            found: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return found
    said = next((line for line in reversed("".join(output).splitlines()) if line.strip()), state.message)
    raise ClusterError(
        f"the preflight job {job} ended {state.status} without an answer: {said.strip() or 'it said nothing'}. "
        f"`{_PYTHON}` must be on the path of Ray's processes there, the one that runs Ray."
    )


def _preflight_arguments(submission: Submission) -> dict[str, Any]:
    own = [
        re.split(r"[\s<>=!~;\[]", need, maxsplit=1)[0] for need in requires("lttune") or [] if "extra ==" not in need
    ]
    return {
        "packages": sorted({*own, "ray", "torch", "torchvision", "detectron2"}),
        "paths": [] if submission.spec is None else _paths(submission.spec),
        "out": str(submission.out),
    }


def _paths(spec: SearchSpec) -> list[str]:
    """Files and folders that a search reads, which must lie on the cluster."""
    setting = spec.on
    found = [setting.stage1.checkpoint, setting.detector.weights, *_data_paths(setting.data)]
    return [path for path in found if path is not None and not is_address(path)]


def _data_paths(data: DataConfig) -> list[str]:
    return [path for split in (data.train, data.val) if split for path in (split.annotations, split.images)]


def _refuse_tokens(texts: Sequence[str]) -> None:
    if any(token in text for token in known_tokens() for text in texts):
        raise ClusterError(
            "a value of this submission holds the token that authenticates at the cluster, and everybody who lists "
            "jobs could read it; leave it out."
        )
