"""The pool on a real local Ray: which unit goes where, what comes back, and what is left when nobody is."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import benches
import pytest
import ray
from benches import HOST, ManyCoresBench, NeverStartingBench, SlowlyStartingBench, TestBench
from prefect import flow
from sending import sending
from servers import using_shared_server

from flows.nightly import attempt, measure_unit, wait_for
from kernels.spec import Case, Device, Layer
from tasks.errors import WorkerCrashed, WorkerError, WorkerLost
from tasks.pool import CLOSE_SECONDS, WorkerPool, abandon_workers, open_workers, split_unit, start_workers
from tasks.records import WorkUnit
from tasks.workers import Node, Worker, list_nodes, start_ray

pytestmark = pytest.mark.timeout(90)

LIMIT = 60.0
DEVICE = HOST.device.name
UNITS = [WorkUnit(Layer("made_up", name, 1, 1, "fp8_w8a8", "bfloat16", {}), (), ()) for name in ("one", "two", "six")]


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    with sending(benches):
        start_ray("", num_cpus=2)
        yield
        ray.shutdown()


@pytest.fixture
def pools(local_ray: None) -> Iterator[list[WorkerPool]]:
    """Pools that are closed after the test."""
    opened: list[WorkerPool] = []
    yield opened
    for pool in opened:
        pool.close()


def open_pool(pools: list[WorkerPool], *benches_of_workers: type) -> WorkerPool:
    [node] = list_nodes()
    pools.append(WorkerPool([Worker("cpu", bench, replace(node, num_cpus=1)) for bench in benches_of_workers]))
    return pools[-1]


@contextmanager
def attempting(pool: WorkerPool, worker: Worker, unit: WorkUnit) -> Iterator[None]:
    """What a task does with a unit, and the flow when the task has ended."""
    try:
        with pool.returning(worker, unit):
            yield
    finally:
        pool.end_attempt()


def lose(pool: WorkerPool, worker: Worker, unit: WorkUnit, reason: str) -> None:
    with pytest.raises(WorkerLost, match=reason), attempting(pool, worker, unit):
        raise WorkerLost(reason)


def test_a_worker_is_given_back_and_measures_the_next_unit(pools: list[WorkerPool]) -> None:
    pool = open_pool(pools, TestBench)
    assert pool.devices() == {DEVICE: 1}
    shared = pool.share_out({DEVICE: UNITS[:2]})
    unit, leased = next(shared)
    assert unit is UNITS[0]
    with attempting(pool, leased, unit):
        assert leased.call("add", 1, 2, limit_seconds=LIMIT) == 3
    unit, again = next(shared)
    assert (unit, again) == (UNITS[1], leased)
    with attempting(pool, again, unit):
        assert again.call("add", 1, 2, limit_seconds=LIMIT) == 3
    assert list(shared) == []
    assert (pool.num_left, pool.losses) == (0, [])
    pool.refuse_leftovers()
    pool.close()
    with pytest.raises(WorkerError, match="the run is ending"):
        again.call("add", 1, 2, limit_seconds=LIMIT)


def test_after_an_error_that_is_no_lost_worker_nothing_more_is_handed_out(pools: list[WorkerPool]) -> None:
    pool = open_pool(pools, TestBench)
    assert pool.devices() == {DEVICE: 1}
    shared = pool.share_out({DEVICE: UNITS})
    unit, leased = next(shared)
    with pytest.raises(KeyError), attempting(pool, leased, unit):
        raise KeyError
    assert list(shared) == []


def test_a_unit_whose_worker_is_lost_comes_back_once_and_is_then_given_up(pools: list[WorkerPool]) -> None:
    pool = open_pool(pools, TestBench, TestBench)
    assert pool.devices() == {DEVICE: 2}
    told: list[str] = []
    shared = pool.share_out({DEVICE: UNITS[:1]}, told.append)
    unit, first = next(shared)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, shared)
        time.sleep(0.3)
        assert not waiting.done(), "the unit may come back"
        lose(pool, first, unit, "its GPU fell off")
        again, second = waiting.result(timeout=20)
    assert again is unit
    assert second is not first
    lose(pool, second, unit, "its node is gone")
    given_up, nobody = next(shared)
    assert given_up is unit
    with attempting(pool, nobody, unit):
        assert nobody.host() == HOST
        with pytest.raises(WorkerCrashed, match=r"^2 workers were lost on this unit.* on another; its node is gone$"):
            nobody.call("add", 1, 2, limit_seconds=LIMIT)
    assert list(shared) == []
    assert told == pool.losses == ["its GPU fell off", "its node is gone"]
    pool.refuse_leftovers()


def test_a_unit_is_given_up_on_a_worker_that_is_retired_however_slow_the_console_is(pools: list[WorkerPool]) -> None:
    pool = open_pool(pools, TestBench, TestBench)
    pool.devices()
    printed = threading.Event()

    def print_slowly(line: str) -> None:
        if line == "two":
            printed.wait(20)

    shared = pool.share_out({DEVICE: UNITS[:1]}, print_slowly)
    unit, first = next(shared)
    lose(pool, first, unit, "one")
    unit, second = next(shared)
    with ThreadPoolExecutor(1) as thread:
        losing = thread.submit(lose, pool, second, unit, "two")
        given_up, nobody = next(shared)
        assert (given_up, nobody, losing.done()) == (unit, second, False)
        with (
            pytest.raises(WorkerCrashed, match=r"^2 workers were lost on this unit"),
            attempting(pool, nobody, unit),
        ):
            nobody.call("add", 1, 2, limit_seconds=LIMIT)
        printed.set()
        losing.result()
    assert list(shared) == []


@pytest.mark.timeout(200)
def test_an_attempt_that_fails_before_it_has_begun_ends_the_run_and_does_not_hang(pools: list[WorkerPool]) -> None:
    pool = open_pool(pools, TestBench)
    pool.devices()
    nameless: Any = SimpleNamespace(key="nameless")  # Prefect cannot make the task's name of it
    session: Any = SimpleNamespace(workers=pool)

    @flow
    def measure() -> int:
        attempts = [
            attempt(session, worker, measure_unit, unit)
            for unit, worker in pool.share_out({DEVICE: [nameless, UNITS[0]]})
        ]
        with pytest.raises(AttributeError, match="layer"):
            wait_for(attempts)
        return len(attempts)

    with using_shared_server():
        assert measure() == 1
    assert pool.num_left == 1


def test_units_for_which_no_worker_is_left_are_refused(pools: list[WorkerPool]) -> None:
    pool = open_pool(pools, TestBench)
    pool.devices()
    shared = pool.share_out({DEVICE: UNITS})
    unit, worker = next(shared)
    lose(pool, worker, unit, "its GPU fell off")
    assert list(shared) == []
    assert pool.num_left == 3
    with pytest.raises(WorkerError) as refused:
        pool.refuse_leftovers()
    assert str(refused.value) == (
        "no cpu: made up is left, 3 units are not measured, all others are kept; resume with --run-id: its GPU fell off"
    )
    assert refused.value.exit_code == 3


def test_units_are_shared_out_again_and_only_what_was_left_the_first_time_is_missing(pools: list[WorkerPool]) -> None:
    pool = open_pool(pools, TestBench)
    pool.devices()
    for again in (False, True):
        shared = pool.share_out({DEVICE: UNITS[:2], "another GPU": UNITS[2:] * (2 if again else 1)}, again=again)
        for unit, (leased, worker) in zip(UNITS, shared, strict=False):
            assert leased is unit
            with attempting(pool, worker, unit):
                assert worker.call("add", 1, 2, limit_seconds=LIMIT) == 3
    assert pool.num_left == 1
    with pytest.raises(WorkerError, match=r"^no another GPU is left, 1 units are not measured"):
        pool.refuse_leftovers()


def test_a_unit_that_lost_a_worker_may_lose_another_when_it_is_shared_out_again(pools: list[WorkerPool]) -> None:
    pool = open_pool(pools, TestBench, TestBench)
    pool.devices()
    shared = pool.share_out({DEVICE: UNITS[:1]})
    unit, first = next(shared)
    lose(pool, first, unit, "its GPU fell off")
    unit, second = next(shared)
    with attempting(pool, second, unit):
        assert second.host() == HOST
    assert list(shared) == []
    shared = pool.share_out({DEVICE: UNITS[:1]}, again=True)
    unit, again = next(shared)
    assert again is second
    lose(pool, second, unit, "so did this one")
    assert list(shared) == [], "it is in the line again, and not given up on a worker that is retired"
    assert pool.num_left == 0
    pool.refuse_leftovers()


def test_who_is_idle_on_a_lost_machine_is_lost_with_it(pools: list[WorkerPool]) -> None:
    pool = open_pool(pools, TestBench, TestBench)
    pool.devices()
    shared = pool.share_out({DEVICE: UNITS[:1]})
    unit, worker = next(shared)
    with pytest.raises(WorkerLost), attempting(pool, worker, unit):
        raise WorkerLost("its machine is gone", with_machine=True)
    assert list(shared) == []
    assert (pool.num_left, pool.losses) == (1, ["its machine is gone"])


def test_a_worker_that_does_not_start_is_left_out(pools: list[WorkerPool]) -> None:
    pool = open_pool(pools, NeverStartingBench, TestBench)
    assert pool.devices() == {DEVICE: 1}
    [loss] = pool.losses
    assert loss.endswith(
        "is lost: its process does not start: benches.MisbehavedError: CUDA error: no device is detected"
    )
    unit, worker = next(pool.share_out({DEVICE: UNITS[:1]}))
    assert (unit, worker.last_host) == (UNITS[0], HOST)


def test_workers_of_which_none_starts_are_told_in_one_line(pools: list[WorkerPool]) -> None:
    pool = open_pool(pools, NeverStartingBench, NeverStartingBench)
    with pytest.raises(WorkerError, match=r"^no worker can be started: the cpu worker on .* is lost: ") as refused:
        pool.devices()
    assert str(refused.value).count("no device is detected") == 1, "the same of both"
    assert "\n" not in str(refused.value)


class Listener:
    """Keeps what a companion is asked."""

    asked: ClassVar[list[tuple[int, str, tuple[int, ...]]]] = []
    """Number of the companion, model and numbers of tokens, in the order asked."""
    count: ClassVar[int] = 0

    def __init__(self, node: Node, bench: type) -> None:
        self.node, self.bench, self._number = node, bench, Listener.count
        Listener.count += 1

    def ask(self, method: str, unit: WorkUnit, _device: Device) -> None:
        assert method == "compile_unit"
        self.asked.append((self._number, unit.layer.model, tuple(case.num_tokens for case in unit.cases)))

    def end(self) -> None:
        """Nothing to end."""


def test_companions_are_started_as_soon_as_the_cores_are_known_and_share_the_cases_of_the_next_units(
    pools: list[WorkerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.pool.Companion", Listener)
    Listener.count = 0
    Listener.asked.clear()
    [node] = list_nodes()
    worker = Worker("cpu", ManyCoresBench, replace(node, num_cpus=1))
    first: Any = Listener(node, TestBench)
    pools.append(pool := WorkerPool([worker], {worker: first}, most_companions=3))
    assert pool.devices() == {DEVICE: 1}
    assert Listener.count == 3
    units = [replace(unit, cases=tuple(Case(unit.layer, number) for number in (1, 2, 4, 8))) for unit in UNITS]
    shared = pool.share_out({DEVICE: units})
    unit, leased = next(shared)
    with attempting(pool, leased, unit):
        pool.compile_ahead(leased)
        pool.compile_ahead(leased)
    assert Listener.asked == [(0, "two", (1, 2)), (1, "two", (4, 8)), (2, "six", (1, 2)), (0, "six", (4, 8))]


@pytest.mark.parametrize(("most", "sizes"), [(1, [7]), (3, [3, 3, 1]), (6, [2, 2, 2, 1]), (9, [1] * 7)])
def test_a_unit_is_split_into_neighbouring_cases(most: int, sizes: list[int]) -> None:
    unit = replace(UNITS[0], cases=tuple(Case(UNITS[0].layer, number) for number in range(1, 8)))
    parts = split_unit(unit, most)
    assert [len(part.cases) for part in parts] == sizes
    assert sum((part.cases for part in parts), ()) == unit.cases
    assert split_unit(UNITS[0], most) == []


def test_a_pool_is_closed_while_its_workers_start(pools: list[WorkerPool]) -> None:
    pool = open_pool(pools, SlowlyStartingBench)
    time.sleep(0.5)
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < CLOSE_SECONDS + 5
    assert pool.losses == ["the run is ending: its workers were killed"]


def test_workers_that_no_run_will_open_are_ended_and_nobody_starts_them_again(
    local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[list[str]] = []
    monkeypatch.setattr(
        "tasks.pool.leave_ray",
        lambda: left.append([thread.name for thread in threading.enumerate() if thread.name.endswith("(_greet)")]),
    )
    start_workers("cpu", bench=SlowlyStartingBench, companion=None)
    abandon_workers()
    assert left == [[]], "Ray is left after the last who speaks with it"


def test_gpus_that_are_not_there_are_told_in_one_line() -> None:
    ray.shutdown()
    with pytest.raises(WorkerError) as refused, open_workers("cuda"):
        pass
    assert str(refused.value) == "the suite needs a CUDA GPU and Ray sees none; use --suite smoke or check nvidia-smi"
    assert type(refused.value) is WorkerError
    assert refused.value.exit_code == 3
    assert not ray.is_initialized()
