"""Ray's Jobs API over a real socket: it keeps what it is sent and runs commands in the unpacked archive."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from aiohttp import web

# What `lttune.tuning` found when the tests began must not decide on tests of tokens.
TOKEN_NAMES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "LTTUNE_OUT")


class JobServer:
    """What a head's dashboard answers; `fault` makes it answer a status and text to whatever changes something.

    Attributes:
        in_place_of_searches: a command that is run instead of them.
        sent: every byte that came in: request lines, headers but the one of tokens, bodies.
        tokens: what came in that header.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fault: tuple[int, str] | None = None
        self.num_faults = 0
        self.in_place_of_searches: str | None = None
        self.sent: list[bytes] = []
        self.tokens: list[str] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._packages: dict[str, bytes] = {}
        self._loop = asyncio.new_event_loop()
        self._port: int | None = None
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,))
        self._thread.start()
        started.wait(10)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def close(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        @web.middleware
        async def note(request: web.Request, handler: Any) -> web.StreamResponse:
            return await self._note(request, handler)

        app = web.Application(middlewares=[note], client_max_size=1 << 26)
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/packages/gcs/{name}", self._has_package)
        app.router.add_put("/api/packages/gcs/{name}", self._put_package)
        app.router.add_post("/api/jobs/", self._submit)
        app.router.add_get("/api/jobs/", self._list)
        app.router.add_get("/api/jobs/{job}", self._get)
        app.router.add_get("/api/jobs/{job}/logs", self._logs)
        app.router.add_get("/api/jobs/{job}/logs/tail", self._tail)
        app.router.add_post("/api/jobs/{job}/stop", self._stop)
        runner = web.AppRunner(app, access_log=None)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        self._port = runner.addresses[0][1]
        started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.tokens.append(request.headers.get("authorization", ""))
        headers = "\n".join(f"{k}: {v}" for k, v in request.headers.items() if k.lower() != "authorization")
        self.sent.append(f"{request.method} {request.path_qs}\n{headers}\n".encode() + await request.read())
        if self.fault and (request.method != "GET" or self.fault[0] in {401, 403}):
            self.num_faults += 1
            return web.Response(status=self.fault[0], text=self.fault[1])
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": ray.__version__, "ray_commit": ""})

    async def _has_package(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["name"] in self._packages else 404)

    async def _put_package(self, request: web.Request) -> web.Response:
        self._packages[request.match_info["name"]] = await request.read()
        return web.Response()

    async def _submit(self, request: web.Request) -> web.Response:
        body = await request.json()
        job, name = body["submission_id"], body["runtime_env"]["working_dir"].removeprefix("gcs://")
        place = self.folder / job
        place.mkdir()
        (self.folder / name).write_bytes(self._packages[name])
        with zipfile.ZipFile(self.folder / name) as archive:
            archive.extractall(place)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        is_search = " -m lttune " in body["entrypoint"]
        command = (self.in_place_of_searches if is_search else None) or body["entrypoint"]
        with (place / "log").open("wb") as log:
            self._processes[job] = subprocess.Popen(
                command,
                shell=True,
                cwd=place,
                stdout=log,
                stderr=log,
                process_group=0,
                env={"PATH": path, "PYTHONSAFEPATH": "", "HOME": str(self.folder)},
            )
        self.jobs[job] = body
        return web.json_response({"job_id": job, "submission_id": job})

    def _details(self, job: str) -> dict[str, Any]:
        code = self._processes[job].poll()
        status = "RUNNING" if code is None else "SUCCEEDED" if code == 0 else "STOPPED" if code < 0 else "FAILED"
        body = self.jobs[job]
        return {
            "type": "SUBMISSION",
            "submission_id": job,
            "status": status,
            "entrypoint": body["entrypoint"],
            "metadata": body["metadata"],
            "runtime_env": body["runtime_env"],
            "driver_exit_code": code,
            "message": f"the job is {status.lower()}",
            "start_time": 1_000 + len(self.jobs),
            "end_time": None if code is None else 3_000,
        }

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response([self._details(job) for job in self.jobs])

    async def _get(self, request: web.Request) -> web.Response:
        job = request.match_info["job"]
        if job not in self.jobs:
            return web.Response(status=404, text=f"Job {job} does not exist")
        return web.json_response(self._details(job))

    async def _logs(self, request: web.Request) -> web.Response:
        return web.json_response({"logs": (self.folder / request.match_info["job"] / "log").read_text()})

    async def _tail(self, request: web.Request) -> web.WebSocketResponse:
        job = request.match_info["job"]
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        seen = 0
        while True:
            is_over = self._processes[job].poll() is not None
            text = (self.folder / job / "log").read_text()
            if text[seen:]:
                await socket.send_str(text[seen:])
                seen = len(text)
            if is_over:
                break
            await asyncio.sleep(0.02)
        await socket.close()
        return socket

    async def _stop(self, request: web.Request) -> web.Response:
        process = self._processes[request.match_info["job"]]
        was_running = process.poll() is None
        if was_running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        return web.json_response({"stopped": was_running})

    @property
    def everything_sent(self) -> bytes:
        """All that came in, archives unpacked too."""
        unpacked = [path.read_bytes() for path in self.folder.rglob("*") if path.is_file()]
        return b"\n".join([*self.sent, *unpacked, json.dumps(self.jobs).encode()])


@pytest.fixture
def job_server(tmp_path: Path) -> Iterator[JobServer]:
    folder = tmp_path / "jobs"
    folder.mkdir()
    server = JobServer(folder)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _no_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A person who gave no token, and whose home folder has none."""
    for name in TOKEN_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("lttune.tuning.cluster.tokens.HAS_OWN_TOKEN", False)
