"""The pool on a real local Ray: which unit goes where, what comes back, and what is left when nobody is."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import benches
import pytest
import ray
from benches import HOST, NeverStartingBench, TestBench

from kernels.spec import Layer
from tasks.errors import WorkerCrashed, WorkerError, WorkerLost
from tasks.pool import WorkerPool, open_workers
from tasks.records import WorkUnit
from tasks.workers import Worker, start_ray

pytestmark = pytest.mark.timeout(90)

LIMIT = 60.0
DEVICE = HOST.device.name


class SlowlyStartingBench(TestBench):
    """Would be started only after the test has ended."""

    __test__ = False

    def __init__(self, device_type: str) -> None:
        time.sleep(600)
        super().__init__(device_type)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(benches)
    start_ray("", num_cpus=2 * Worker("cpu").num_cpus)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def started(local_ray: None) -> Iterator[list[Worker]]:
    """Two workers whose processes all pools of the tests share, as long as none is lost."""
    workers = [Worker("cpu", TestBench) for _ in range(2)]
    yield workers
    for worker in workers:
        worker.end()


@pytest.fixture
def units() -> list[WorkUnit]:
    return [WorkUnit(Layer("made_up", name, 1, 1, "fp8_w8a8", "bfloat16", {}), (), ()) for name in ("one", "two", "six")]


def lose(pool: WorkerPool, worker: Worker, unit: WorkUnit, reason: str = "its GPU fell off") -> None:
    with pytest.raises(WorkerLost, match=reason), pool.returning(worker, unit):
        raise WorkerLost(reason)


@pytest.mark.usefixtures("started")
class TestSharing:
    def test_a_worker_is_given_back_even_after_an_error(self, started: list[Worker], units: list[WorkUnit]) -> None:
        pool = WorkerPool(started[:1])
        assert pool.devices() == {DEVICE: 1}
        shared = pool.share_out({DEVICE: units[:2]})
        unit, leased = next(shared)
        assert unit is units[0]
        with pytest.raises(KeyError), pool.returning(leased, unit):
            raise KeyError
        unit, again = next(shared)
        assert (unit, again) == (units[1], leased)
        with pool.returning(again, unit):
            assert again.call("add", 1, 2, limit_seconds=LIMIT) == 3
        assert list(shared) == []
        assert pool.num_left == 0
        pool.refuse_leftovers()
