"""Attempts at units of work: each on a thread of the flow, with a worker that the pool has handed out."""

from collections.abc import Sequence
from typing import Any

from prefect import Task
from prefect.futures import PrefectFuture

from tasks.comparison_session import ComparisonSession
from tasks.errors import WorkerLost
from tasks.session import Session
from tasks.workers import Worker

MOST_WORKERS = 64
"""Threads of a flow: more than that many GPUs wait in line."""


def attempt(
    session: Session | ComparisonSession, worker: Worker, measure: Task[..., None], *what: object
) -> PrefectFuture[Any]:
    """Have a worker measure; the pool hears of the end even of an attempt that Prefect fails before it has begun."""
    future = measure.submit(session, worker, *what)
    future.add_done_callback(lambda _: session.workers.end_attempt())
    return future


def wait_for(attempts: Sequence[PrefectFuture[Any]]) -> None:
    """Wait until every attempt at a unit has ended; of one that lost its worker the unit was handed out again."""
    for future in attempts:
        ended = future.result(raise_on_failure=False)
        if isinstance(ended, BaseException) and not isinstance(ended, WorkerLost):
            raise ended
