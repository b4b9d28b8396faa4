"""Workers: one process per GPU (or one for the CPU), replaced when it crashes or hangs. No other file imports ray.

Ray's own retries are off: a provider that kills its process must cost its own case and no other, so the caller
hears of it (WorkerCrashed, WorkerHung) and gets a fresh process.
"""

import os
import queue
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import ray.exceptions

from tasks.bench import Bench, cpu_threads
from tasks.errors import WorkerCrashed, WorkerError, WorkerHung, WorkerRaised
from tasks.records import WorkUnit

OBJECT_STORE_BYTES = 100 * 2**20
"""For records only: tensors never leave their worker."""
START_SECONDS = 180.0
"""Longest a new worker process may take to import torch and open its device."""
ADDRESS_SECONDS = 5.0
"""Longest a Ray cluster's port may take to accept a connection; Ray itself would try for minutes."""
COLOR = re.compile(r"\x1b\[[0-9;]*m")


class Worker:
    """A handle to one Bench in its own process."""

    def __init__(self, device_type: str, bench: type = Bench) -> None:
        self._device_type = device_type
        self._bench = bench
        self._actor: Any = None
        self._ended = False

    def start(self) -> None:
        """Start the process without waiting for it."""
        gpus = 1 if self._device_type == "cuda" else 0
        cpus = 0 if gpus else cpu_threads()
        remote = ray.remote(num_gpus=gpus, num_cpus=cpus, max_restarts=0, max_task_retries=0)(self._bench)
        self._actor = remote.remote(self._device_type)

    def call(self, method: str, *arguments: object, limit_seconds: float) -> Any:
        """Call a method of the Bench and wait for its result.

        Raises:
            WorkerHung: no answer within `limit_seconds`; the process is gone.
            WorkerCrashed: the process died.
            WorkerRaised: the method raised; the process is still there unless the device is lost.
        """
        if self._ended:
            raise WorkerError("the run is ending: no more calls to its workers")
        if self._actor is None:
            self.start()
        answer = getattr(self._actor, method).remote(*arguments)
        ready, _ = ray.wait([answer], timeout=limit_seconds)
        if not ready:
            self.stop()
            raise WorkerHung(f"no answer within {limit_seconds:g} s")
        try:
            return ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raised = _describe(error)
            if raised.device_lost:
                self.stop()
            raise raised from error
        except ray.exceptions.RayActorError as error:
            self.stop()
            if self._ended:
                raise WorkerError("the run is ending: its workers were killed") from error
            raise WorkerCrashed(_first_line(str(error))) from error
        except ray.exceptions.RayError as error:
            self.stop()  # what was raised cannot be read, so neither can whether the device is lost
            raise WorkerCrashed(f"raised what cannot be sent: {_last_line(str(error))}") from error

    def end(self) -> None:
        """Kill the process for good: what it was doing is no crash."""
        self._ended = True
        self.stop()

    def stop(self) -> None:
        """Kill the process; the next call starts a fresh one."""
        if self._actor is not None:
            ray.kill(self._actor, no_restart=True)
            self._actor = None


def _first_line(text: str) -> str:
    lines = [line.strip() for line in COLOR.sub("", text).splitlines() if line.strip()]
    return lines[0] if lines else "no message"


def _last_line(text: str) -> str:
    return _first_line("\n".join(reversed(text.splitlines())))


def _describe(error: ray.exceptions.RayTaskError) -> WorkerRaised:
    """What a method raised, without Ray's wrapping."""
    cause = error.cause
    names = {base.__name__ for base in type(cause).__mro__}
    message = _first_line(str(cause))
    return WorkerRaised(
        f"{type(cause).__name__}: {message}",
        out_of_memory="OutOfMemoryError" in names or "out of memory" in message,
        device_lost="AcceleratorError" in names or "CUDA error" in message or "[CUDA]" in message,
    )


class WorkerPool:
    """The workers of a run: each measures one unit at a time."""

    def __init__(self, workers: list[Worker]) -> None:
        self._workers = workers
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in workers:
            worker.start()
            self._idle.put(worker)

    def __len__(self) -> int:
        return len(self._workers)

    def share_out(self, units: Iterable[WorkUnit]) -> Iterator[tuple[WorkUnit, Worker]]:
        """Each unit with the next idle worker, which `returning` gives back; waits until there is one."""
        for unit in units:
            yield unit, self._idle.get()

    @contextmanager
    def returning(self, worker: Worker) -> Iterator[None]:
        """Make the worker idle again after the block, whatever happens in it."""
        try:
            yield
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Kill every worker."""
        for worker in self._workers:
            worker.end()


def start_ray(address: str, num_cpus: int | None = None) -> None:
    """Join the Ray cluster at `address`, or start one on this machine if it is empty.

    Args:
        num_cpus: logical CPUs of a cluster started here, all cores by default; Ray keeps an idle process for each.

    Raises:
        WorkerError: the cluster does not answer; the message names the address.
    """
    if ray.is_initialized():
        return
    small: dict[str, Any] = {
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "num_cpus": num_cpus,
        "_system_config": {"worker_niceness": 0},  # with Ray's own 15 a busy machine starves what is timed
    }
    try:
        _knock(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level="error", **({} if address else small))
    except (OSError, ray.exceptions.RayError) as error:
        where = f"Ray at {address!r} does not answer" if address else "Ray does not start on this machine"
        raise WorkerError(
            f"{where}: {_first_line(str(error))}; try ray status; all processes need one RAY_AUTH_TOKEN"
        ) from error


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at "host:port"; other forms of address are left to Ray."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=ADDRESS_SECONDS).close()


def count_gpus() -> int:
    """GPUs of the cluster that is joined."""
    return int(ray.cluster_resources().get("GPU", 0))


_ahead: dict[tuple[str, str], WorkerPool] = {}
"""Pools that `start_workers` started and no run has opened yet."""


def start_workers(device_type: str, address: str = "") -> None:
    """Start Ray and the worker processes ahead of `open_workers`, so that they get ready while something else does.

    Raises:
        WorkerError: Ray does not answer, or GPUs were asked for and the cluster has none.
    """
    start_ray(address, num_cpus=0 if device_type == "cuda" else cpu_threads())
    workers = count_gpus() if device_type == "cuda" else 1
    if not workers:
        ray.shutdown()
        raise WorkerError("the suite needs a CUDA GPU and Ray sees none; use --suite smoke or check nvidia-smi")
    _ahead[device_type, address] = WorkerPool([Worker(device_type) for _ in range(workers)])


@contextmanager
def open_workers(device_type: str, address: str = "") -> Iterator[WorkerPool]:
    """One worker per GPU of the cluster, or one for the CPU, started now if not ahead; all of Ray is ended after it.

    Raises:
        WorkerError: as start_workers.
    """
    if (device_type, address) not in _ahead:
        start_workers(device_type, address)
    pool = _ahead.pop((device_type, address))
    try:
        yield pool
    finally:
        pool.close()
        ray.shutdown()
