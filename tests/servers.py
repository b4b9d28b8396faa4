"""Real Prefect servers with their services running, one of a test's own and one that all others share, and a folder
that all processes of a test run share."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PREFECT = str(Path(sys.executable).parent / "prefect")
SHARED = "TESTS_SHARED_FOLDER"
"""Names that folder to them."""
LOCKED_SECONDS = 30
"""Longest that a server may go on to say that it cannot answer now."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def ask(url: str, body: object | None = None) -> object:
    """What a server answers. Where it says 503 it is asked again, as Prefect's own client does: mostly its database was
    locked, which on a busy machine is no fault, and what it had begun is rolled back."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    deadline = time.monotonic() + LOCKED_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def wait_for(url: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            ask(url)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
        else:
            return


def make_server_environment(home: Path) -> dict[str, str]:
    """Of a server, and of whoever speaks to it, with a folder and a port of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **kept,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


@contextmanager
def serving(environment: dict[str, str]) -> Iterator[str]:
    """A server of this environment; gives the address of its API."""
    server = start_server(environment)
    try:
        wait_for(f"{environment['PREFECT_API_URL']}/health", 60)
        yield environment["PREFECT_API_URL"]
    finally:
        os.killpg(server, signal.SIGKILL)
        os.waitpid(server, 0)


def start_server(environment: dict[str, str]) -> int:
    """The process of a server, which may outlive this one."""
    port = environment["PREFECT_API_URL"].removesuffix("/api").rpartition(":")[2]
    command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", port]
    silent = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    return os.posix_spawn(PREFECT, command, environment, file_actions=silent, setsid=True)


def share_folder() -> None:
    """Make it, before the processes that run tests are started."""
    os.environ[SHARED] = tempfile.mkdtemp(prefix="kernel-nightly-tests-")


def shared_folder() -> Path:
    """It is there from the first test to the last: the shared server's home, and Triton's cache."""
    return Path(os.environ[SHARED])


@cache
def share_server() -> str:
    """The address of the shared server's API; who asks first starts it."""
    home = shared_folder() / "prefect"
    home.mkdir(exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "address").exists():
            environment = make_server_environment(home)
            (home / "pid").write_text(str(start_server(environment)))
            wait_for(f"{environment['PREFECT_API_URL']}/health", 120)
            (home / "address").write_text(environment["PREFECT_API_URL"])
    return (home / "address").read_text()


@contextmanager
def using_shared_server() -> Iterator[None]:
    """Have flows that run in this process speak to it."""
    from prefect.settings import PREFECT_API_URL, temporary_settings  # conftest.py imports this file for every test

    with temporary_settings({PREFECT_API_URL: share_server()}):
        yield


def end_sharing() -> None:
    """End the shared server, if anybody has started it, and remove the shared folder."""
    folder = Path(os.environ.pop(SHARED))
    pid = folder / "prefect" / "pid"
    if pid.exists():
        os.killpg(int(pid.read_text()), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)  # what a test has left behind when it was cut off may still write there


def run_prefect(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PREFECT, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
