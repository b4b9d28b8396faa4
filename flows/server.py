"""Prefect's API, started ahead of the flow that needs it."""

import atexit
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import get_client

from tasks.errors import WorkerError


@contextmanager
def starting_server() -> Iterator[None]:
    """Have Prefect's ephemeral server start, or a named server answer, while the block runs; both are done at its end.

    A flow would start it too, but do nothing else meanwhile: 5 s, and 13 s where its database is new.
    """
    failures: list[Exception] = []

    def wait_for_server() -> None:
        # what this thread starts inherits it: Ctrl-C goes to every process of a terminal, and who was to hear that the
        # run ends would be gone before; Ray blocks it for its processes too
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with get_client(sync_client=True) as client:
                client.hello()
            end_embedded_server_with_us()
        except (RuntimeError, OSError, httpx.HTTPError) as failure:
            failures.append(failure)

    waiting = threading.Thread(target=wait_for_server, name="prefect-server-start")
    waiting.start()
    try:
        yield
    finally:
        waiting.join()
    if failures:
        where = os.environ.get("PREFECT_API_URL", "")
        server = f"Prefect's server at {where}" if where else "Prefect's embedded server"
        hint = (
            "start it (prefect server start) or unset PREFECT_API_URL" if where else "check PREFECT_HOME and the disk"
        )
        raise WorkerError(f"{server} does not answer: {failures[0]}; {hint}") from failures[0]


def end_embedded_server_with_us() -> None:
    """Have Prefect's embedded server killed when this process is: Prefect itself ends it at a regular exit only.

    A process waits for the other end of a pipe to close, which whatever ends this one does.
    """
    if "PREFECT_API_URL" in os.environ:
        return
    from prefect.server.api.server import SubprocessASGIServer  # which the client has imported, to start it

    server = SubprocessASGIServer().server_process
    if server is None:
        return
    watch = f"read -r never; kill -9 {server.pid}"
    watcher = subprocess.Popen(["sh", "-c", watch], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    atexit.register(watcher.kill)
