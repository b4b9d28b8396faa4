"""The workers of a run, and which unit is measured where: each once on every kind of device, in order.

A worker that is lost leaves the pool and its unit goes back to the head of the line. Nothing here waits in a loop: who
waits is told when a worker or a unit comes back.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from tasks.ahead import AheadBench, AheadReport
from tasks.bench import Bench, cpu_threads
from tasks.errors import WorkerError, WorkerLost
from tasks.records import WorkUnit
from tasks.workers import Companion, Worker, leave_ray, list_nodes, start_ray

MOST_LOSSES = 2
"""Workers that one unit may lose before it is tried on no other."""
MOST_COMPANIONS = 16
"""Beside one worker while it tunes: each takes 1 to 2 GB of memory."""
MOST_COMPANIONS_AHEAD = 10
"""Beside one worker that measures."""
CLOSE_SECONDS = 5.0
"""Longest to wait for a killed worker that was still starting."""


def forget(_line: str) -> None:
    """Where nobody wants to hear of lost workers."""


def split_unit(unit: WorkUnit, most: int) -> list[WorkUnit]:
    """The unit in parts of neighbouring cases, which share more kernels than others do."""
    num_cases = -(-len(unit.cases) // most)
    firsts = range(0, len(unit.cases), max(1, num_cases))
    return [replace(unit, cases=unit.cases[first : first + num_cases]) for first in firsts]


class WorkerPool:
    """The workers of a run: each measures one unit at a time. Every method may be called from any thread."""

    def __init__(
        self,
        workers: Sequence[Worker],
        companions: Mapping[Worker, Companion] | None = None,
        most_companions: int = MOST_COMPANIONS_AHEAD,
    ) -> None:
        """The workers' processes are started, those of the companions too that the machines have cores for.

        Args:
            companions: the first beside each worker that is to have some.
            most_companions: beside each of these.
        """
        self._changed = threading.Condition()
        self._starting = set(workers)
        self._idle: deque[Worker] = deque()
        self._device_of: dict[Worker, str] = {}
        """Device names of the workers that are not lost."""
        self._companions = {worker: [companion] for worker, companion in (companions or {}).items()}
        self._lines: dict[str, deque[WorkUnit]] = {}
        """Units that wait, by the name of the device that is to measure them."""
        self._most_companions = most_companions
        self._in_flight = 0
        """Units handed out whose attempts have not ended."""
        self._spent: deque[tuple[WorkUnit, Worker]] = deque()
        self._losses_of: Counter[tuple[str, str]] = Counter()
        self._asked: dict[tuple[str, str, str], Worker] = {}
        """By unit, device name and machine of what companions were asked to compile, whose companions they are."""
        self._num_parts: Counter[Worker] = Counter()
        """Of units, that each worker's companions were asked to compile."""
        self._tell: Callable[[str], None] = forget
        self.losses: list[str] = []
        """Why each worker that was lost is."""
        self._workers = list(workers)
        self._greeters = [threading.Thread(target=self._greet, args=(worker,), daemon=True) for worker in workers]
        for worker, greeter in zip(workers, self._greeters, strict=True):
            worker.start()
            greeter.start()

    def _greet(self, worker: Worker) -> None:
        """Wait until a worker's first process has opened its device."""
        try:
            name = worker.host().device.name
        except WorkerError as loss:
            worker.retire(str(loss))
            self.losses.append(str(loss))
        else:
            companions = self._companions.get(worker, [])
            while companions and len(companions) < self._count_companions(worker, self._most_companions):
                companions.append(Companion(companions[0].node, companions[0].bench))
            with self._changed:
                self._device_of[worker] = name
                self._idle.append(worker)
        finally:
            with self._changed:
                self._starting.discard(worker)
                self._changed.notify_all()

    def devices(self) -> Counter[str]:
        """How many workers there are by the name of their device; waits until each has started or is lost.

        Raises:
            WorkerError: none has started; the message says why.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._starting)
            if not self._device_of:
                raise WorkerError(
                    f"no worker can be started: {'; '.join(dict.fromkeys(self.losses))}; check ray status"
                )
            return Counter(self._device_of.values())

    def share_out(
        self, lines: Mapping[str, Sequence[WorkUnit]], tell: Callable[[str], None] = forget, *, again: bool = False
    ) -> Iterator[tuple[WorkUnit, Worker]]:
        """Each unit with the next idle worker of its device, which `returning` gives back.

        Every attempt is to be ended by `end_attempt`, one too that never came to `returning`. Ends when no unit is
        left, in the line or on a worker that may still be lost, or no worker that could take one.

        Args:
            lines: by device name, what is to be measured on it, in order.
            tell: called with one line for each worker that is lost meanwhile.
            again: the units were measured before. What no worker could take of them is forgotten, while what was left
                of the first time stays left.
        """
        with self._changed:
            self._tell = tell
            left_before, self._lines = self._lines, {device: deque(units) for device, units in lines.items()}
            self._losses_of.clear()
        while (leased := self._lease()) is not None:
            yield leased
        if again:
            with self._changed:
                self._lines = left_before

    def _lease(self) -> tuple[WorkUnit, Worker] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._spent or self._find_idle() or not self._in_flight)
            if self._spent:
                leased = self._spent.popleft()
            elif worker := self._find_idle():
                self._idle.remove(worker)
                leased = self._lines[self._device_of[worker]].popleft(), worker
            else:
                return None
            self._in_flight += 1
            return leased

    def _find_idle(self) -> Worker | None:
        """An idle worker for whose device units wait."""
        return next((worker for worker in self._idle if self._lines.get(self._device_of[worker])), None)

    def end_attempt(self) -> None:
        """Hear that an attempt at a unit has ended, however it did; its worker, unless given back, gets no other."""
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    @contextmanager
    def returning(self, worker: Worker, unit: WorkUnit) -> Iterator[None]:
        """Make the worker idle again after the block, whatever happens in it.

        What is raised in it passes through. After anything but a lost worker no unit is handed out any more: a store
        that cannot take this unit takes no other.

        Raises:
            WorkerLost: out of the block; its unit is already in the line again.
        """
        try:
            yield
        except WorkerLost as lost:
            self._drop(worker, unit, lost)
            raise
        except BaseException:
            with self._changed:
                self._lines = {}
            raise
        finally:
            with self._changed:
                if worker in self._device_of:
                    self._idle.append(worker)
                self._changed.notify_all()

    def _drop(self, worker: Worker, unit: WorkUnit, lost: WorkerLost) -> None:
        """Take a lost worker out of the pool, and put its unit back at the head of the line.

        The worker is retired first: once the unit can be had, another thread may call it.
        """
        worker.retire(f"{MOST_LOSSES} workers were lost on this unit, it is not tried on another; {lost}")
        with self._changed:
            device = self._device_of.pop(worker)
            if lost.with_machine:  # nobody is to find that out again with another unit
                for other in [idle for idle in self._idle if idle.node == worker.node]:
                    self._idle.remove(other)
                    del self._device_of[other]
            self.losses.append(str(lost))
            self._losses_of[unit.key, device] += 1
            if self._losses_of[unit.key, device] < MOST_LOSSES:
                self._lines.get(device, deque()).appendleft(unit)
            else:  # the lost worker says of every case why it was not measured
                self._spent.append((unit, worker))
            self._changed.notify_all()
        self._tell(str(lost))

    @contextmanager
    def lend(self, device_name: str) -> Iterator[list[Worker]]:
        """All idle workers of a device at once, for what is no unit; who is retired meanwhile leaves the pool."""
        with self._changed:
            lent = [worker for worker in self._idle if self._device_of[worker] == device_name]
            self._idle = deque(worker for worker in self._idle if worker not in lent)
        try:
            yield lent
        finally:
            with self._changed:
                for worker in lent:
                    if worker.is_retired:
                        del self._device_of[worker]
                    else:
                        self._idle.append(worker)
                self._changed.notify_all()

    def start_companions(self, workers: Sequence[Worker]) -> list[Companion]:
        """New companions beside workers that have one, one for each core of their machines; the caller ends them."""
        return [
            Companion(first.node, first.bench)
            for worker in workers
            for first in self._companions.get(worker, ())[:1]
            for _ in range(self._count_companions(worker, MOST_COMPANIONS))
        ]

    def _count_companions(self, worker: Worker, most: int) -> int:
        """How many companions the worker's machine has cores for, beside those of its neighbours."""
        if worker.last_host is None:
            return 0
        neighbours = sum(other.node == worker.node for other in self._workers)
        return max(1, min(most, worker.last_host.num_cpus // neighbours - 1))

    def compile_ahead(self, worker: Worker) -> None:
        """Have the worker's companions compile the next units in its line, as many as they are, unless somebody on that
        machine was asked already. They share each unit's cases, so that those of the first are ready first."""
        companions = self._companions.get(worker)
        if not companions or worker.last_host is None:
            return
        node, device = companions[0].node, worker.last_host.device
        with self._changed:
            line = {(unit.key, device.name, node.node_id): unit for unit in self._lines.get(device.name, ())}
            at_work = sum(self._asked.get(place) is worker for place in line)
            unasked = [place for place in line if place not in self._asked]
            for place in unasked[: len(companions) - at_work]:
                for part in split_unit(line[place], len(companions)):
                    companions[self._num_parts[worker] % len(companions)].ask("compile_unit", part, device)
                    self._num_parts[worker] += 1
                self._asked[place] = worker

    def take_ahead_reports(self) -> list[AheadReport]:
        """What the companions have compiled."""
        return [report for companion in self._list_companions() for report in companion.take_answers()]

    def _list_companions(self) -> list[Companion]:
        return [companion for companions in self._companions.values() for companion in companions]

    def list_left(self) -> set[tuple[str, str]]:
        """Layer keys and device names of the units in the line."""
        with self._changed:
            return {(unit.key, device) for device, line in self._lines.items() for unit in line}

    @property
    def num_left(self) -> int:
        """Units in the line."""
        with self._changed:
            return sum(map(len, self._lines.values()))

    def refuse_leftovers(self) -> None:
        """Say that units are left for which there is no worker.

        Raises:
            WorkerError: so it is.
        """
        if not self.num_left:
            return
        kind = " or ".join(device for device, line in self._lines.items() if line)
        raise WorkerError(
            f"no {kind} is left, {self.num_left} units are not measured, all others are kept; resume with --run-id: "
            + "; ".join(dict.fromkeys(self.losses))
        )

    def close(self) -> None:
        """Kill every worker."""
        for worker in self._workers:
            worker.end()
        for companion in self._list_companions():
            companion.end()
        for greeter in self._greeters:
            greeter.join(CLOSE_SECONDS)


_ahead: dict[tuple[str, str], WorkerPool] = {}
"""Pools that `start_workers` started and no run has opened yet."""


def start_workers(
    device_type: str,
    address: str = "",
    bench: type = Bench,
    companion: type | None = AheadBench,
    most_companions: int = MOST_COMPANIONS_AHEAD,
) -> None:
    """Start Ray and the worker processes ahead of `open_workers`, so that they get ready while something else does.

    Args:
        companion: started beside each GPU's worker, if any.
        most_companions: beside one worker, where its machine has cores for them.

    Raises:
        WorkerError: Ray does not answer, or GPUs were asked for and the cluster has none.
    """
    start_ray(address, num_cpus=0 if device_type == "cuda" else cpu_threads())
    nodes = list_nodes()
    if device_type == "cuda":
        workers = [Worker(device_type, bench, node) for node in nodes for _ in range(node.num_gpus)]
    else:
        workers = [Worker(device_type, bench, node) for node in nodes if node.num_cpus]
    if not workers:
        leave_ray()
        if device_type == "cuda":
            raise WorkerError("the suite needs a CUDA GPU and Ray sees none; use --suite smoke or check nvidia-smi")
        raise WorkerError("no machine of the cluster has a CPU to give; see ray status, and --num-cpus of ray start")
    companions = {}
    if companion and most_companions and device_type == "cuda":
        companions = {worker: Companion(worker.node, companion) for worker in workers if worker.node}
    _ahead[device_type, address] = WorkerPool(workers, companions, most_companions)


def abandon_workers() -> None:
    """End what `start_workers` started and no run will open: who still greets a worker when the process ends, and Ray
    with it, would start a fresh one, and Ray for it."""
    while _ahead:
        _, pool = _ahead.popitem()
        pool.close()
    leave_ray()


@contextmanager
def open_workers(
    device_type: str, address: str = "", most_companions: int = MOST_COMPANIONS_AHEAD
) -> Iterator[WorkerPool]:
    """One worker per GPU of the cluster, or one per machine for the CPU, started now if not ahead; Ray is ended after.

    Args:
        most_companions: as of start_workers, if it is called now.

    Raises:
        WorkerError: as start_workers, or no worker has started.
    """
    if (device_type, address) not in _ahead:
        start_workers(device_type, address, most_companions=most_companions)
    pool = _ahead.pop((device_type, address))
    try:
        pool.devices()
        yield pool
    finally:
        pool.close()
        leave_ray()
