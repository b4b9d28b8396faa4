"""Prefect's API, started ahead of the flow that needs it."""

import os
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
        try:
            with get_client(sync_client=True) as client:
                client.hello()
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
