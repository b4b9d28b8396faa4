"""Workers: one process per GPU (or one per machine for the CPU), replaced when it crashes or hangs. No other file
imports ray.

Ray's own retries are off: a provider that kills its process must cost its own case and no other, so the caller
hears of it (WorkerCrashed, WorkerHung) and gets a fresh process. A worker that can get none is lost (WorkerLost).
"""

import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of a Companion: nobody waits for its answers
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # who asks after the end would join any cluster there is

import ray
import ray.exceptions
from ray._private.runtime_env.working_dir import upload_working_dir_if_needed
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import kernels
import tasks
from tasks.bench import Bench, cpu_threads
from tasks.commits import committed
from tasks.errors import WorkerCrashed, WorkerError, WorkerHung, WorkerLost, WorkerRaised
from tasks.knocking import knock
from tasks.records import Host

ray.cloudpickle.register_pickle_by_value(committed)  # it runs where our code is another commit's

OBJECT_STORE_BYTES = 100 * 2**20
"""For records only: tensors never leave their worker."""
PROCESSES_AT_ONCE = 64
"""That may be starting on a machine: a cluster without CPUs would start them one by one, and warn of their number."""
START_SECONDS = 180.0
"""Longest a new worker process may take to import torch and open its device."""
START_ATTEMPTS = 2
"""Processes in a row that may die before they have opened their device; then the worker is lost."""
COLOR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Node:
    """A living machine of the Ray cluster."""

    node_id: str
    """Ray's."""
    address: str
    """IP address, for people."""
    num_gpus: int
    num_cpus: int
    """Logical: what Ray was told to give away."""


def list_nodes() -> list[Node]:
    """Machines of the cluster that is joined."""
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            gives = node["Resources"]
            cores = int(gives.get("CPU", 0))
            found.append(Node(node["NodeID"], node["NodeManagerAddress"], int(gives.get("GPU", 0)), cores))
    return found


def _start_actor(bench: type, device_type: str, node: Node | None, **options: Any) -> Any:
    """An actor of Ray that is never restarted, on `node` and no other if one is given; does not wait for it."""
    options |= {"max_restarts": 0, "max_task_retries": 0}
    if node:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    return ray.remote(**options)(bench).remote(device_type)


class Worker:
    """A handle to one Bench in its own process; used by one caller at a time, but `end` by any."""

    def __init__(self, device_type: str, bench: type = Bench, node: Node | None = None) -> None:
        self.node = node
        """The machine its processes run on; None leaves that to Ray."""
        self.last_host: Host | None = None
        """What its newest process runs on; kept when that is gone."""
        self._device_type = device_type
        self._bench = bench
        self._actor: Any = None
        self._is_ready = False
        self._ended = False
        self._beginning = threading.Lock()
        """Held while a call begins, so that `end` finds the process that it is for."""
        self._retired = ""
        """Why it was given up; every call says so."""
        self._blocker: Any = None
        self.beside: list[Worker] = []
        """Workers of the same device, which end with it."""

    def __str__(self) -> str:
        name = self.last_host.device.name if self.last_host else f"the {self._device_type} worker"
        return f"{name} on {self.node.address}" if self.node else name

    def start(self) -> None:
        """Start the process, if there is none, without waiting for it."""
        if self._actor is not None:
            return
        self._actor = _start_actor(self._bench, self._device_type, self.node, **self._choose_options())

    def _choose_options(self) -> dict[str, Any]:
        """What its process takes of the machine, as Ray's options."""
        gpus = 1 if self._device_type == "cuda" else 0
        return {"num_gpus": gpus, "num_cpus": 0 if gpus else (self.node.num_cpus if self.node else cpu_threads())}

    def host(self) -> Host:
        """The environment of the process, which is started if there is none.

        Raises:
            WorkerLost: no process can be started where this worker runs.
        """
        if self.last_host and (self._is_ready or self._retired):
            return self.last_host
        reason = ""
        for _ in range(START_ATTEMPTS):
            try:
                self.last_host = self._greet()
            except (WorkerRaised, WorkerCrashed) as failure:
                reason = str(failure)
                self.stop()
            except WorkerHung as failure:
                raise WorkerLost(f"{self} is lost: its process does not start: {failure}") from failure
            else:
                self._is_ready = True
                return self.last_host
        raise WorkerLost(f"{self} is lost: its process does not start: {reason}")

    def _greet(self) -> Host:
        """Wait until a fresh process has opened its device, and hear of it."""
        host: Host = self._ask("host", (), START_SECONDS)
        return host

    def call(self, method: str, *arguments: object, limit_seconds: float) -> Any:
        """Call a method of the Bench and wait for its result.

        Raises:
            WorkerHung: no answer within `limit_seconds`; the process is gone.
            WorkerCrashed: the process died.
            WorkerRaised: the method raised; the process is still there unless the device is lost.
            WorkerLost: there is no process and none can be started, or its machine is gone.
        """
        if not self._is_ready:
            self.host()  # so that what cannot start is told from what crashes in the method
        return self._ask(method, arguments, limit_seconds)

    def _ask(self, method: str, arguments: tuple[object, ...], limit_seconds: float) -> Any:
        with self._beginning:
            if self._ended:
                raise WorkerError("the run is ending: no more calls to its workers")
            if self._retired:
                raise WorkerCrashed(self._retired)
            self.start()
            answer = getattr(self._actor, method).remote(*arguments)
        try:
            ready, _ = ray.wait([answer], timeout=limit_seconds)
            if not ready:
                self.stop()
                raise WorkerHung(f"no answer within {limit_seconds:g} s")
            return ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raised = _describe(error)
            if raised.device_lost:
                self.stop()
            raise raised from error
        except ray.exceptions.RayError as error:
            self.stop()
            raise self._explain(error) from error

    def _explain(self, error: ray.exceptions.RayError) -> WorkerError:
        """Why there is no process any more."""
        if self._ended:
            return WorkerError("the run is ending: its workers were killed")
        if self._is_on_lost_node():
            return WorkerLost(f"{self} is lost: its machine left the cluster", with_machine=True)
        if isinstance(error, ray.exceptions.ActorDiedError) and error.actor_init_failed:
            return WorkerCrashed(_last_line(str(error)))
        if isinstance(error, ray.exceptions.RayActorError | ray.exceptions.ActorUnschedulableError):
            return WorkerCrashed(_first_line(str(error)))
        # what was raised cannot be read, so neither can whether the device is lost
        return WorkerCrashed(f"raised what cannot be sent: {_last_line(str(error))}")

    def _is_on_lost_node(self) -> bool:
        return self.node is not None and self.node.node_id not in {node.node_id for node in list_nodes()}

    @property
    def is_retired(self) -> bool:
        """Whether it was given up."""
        return bool(self._retired)

    def retire(self, reason: str) -> None:
        """Give the device up: no other worker's fresh process is to be started on what has failed.

        Every later call raises WorkerCrashed with the reason.
        """
        self.stop()
        self._retired = reason
        if self._device_type == "cuda" and self.node and not (self._ended or self._is_on_lost_node()):
            self._blocker = _start_actor(Blocker, self._device_type, self.node, num_gpus=1, num_cpus=0)

    def end(self) -> None:
        """Kill the process for good: what it was doing is no crash."""
        with self._beginning:
            self._ended = True
        self.stop()
        _kill(self._blocker)
        for worker in [*self.beside]:
            worker.end()

    def stop(self) -> None:
        """Kill the process; the next call starts a fresh one."""
        actor, self._actor, self._is_ready = self._actor, None, False
        _kill(actor)


def _kill(actor: Any) -> None:
    if actor is not None:
        with suppress(ray.exceptions.RaySystemError):  # Ray was left, and took its processes along
            ray.kill(actor, no_restart=True)


class Blocker:
    """Keeps a GPU that was given up taken: Ray would hand it to the next process that asks for one."""

    def __init__(self, device_type: str) -> None:
        self._device_type = device_type


class Companion:
    """A process beside a GPU's worker, on the same machine and without a GPU. It is help and no more: nobody waits for
    what it answers, and what fails in it costs nothing."""

    def __init__(self, node: Node, bench: type) -> None:
        self.node = node
        self.bench = bench
        self._answers: list[Any] = []
        self._ended = False
        self._replacing = threading.Lock()
        self._start()

    def _start(self) -> None:
        self._actor = _start_actor(self.bench, "cuda", self.node, num_gpus=0, num_cpus=0)

    def ask(self, method: str, *arguments: object) -> None:
        """Begin a call, after those that were begun before, and wait for nothing."""
        self._answers.append(getattr(self._actor, method).remote(*arguments))

    def call(self, method: str, *arguments: object, limit_seconds: float) -> Any:
        """What it answers; None if that fails or takes longer: a fresh process is started then, unless it was ended."""
        answer = getattr(self._actor, method).remote(*arguments)
        try:
            return ray.get(answer, timeout=limit_seconds)
        except ray.exceptions.RayTaskError:
            return None
        except ray.exceptions.RayError:  # its process died, or is killed now
            with self._replacing:
                _kill(self._actor)
                if not self._ended:
                    self._start()
            return None

    def take_answers(self) -> list[Any]:
        """What has been answered by now, without what failed."""
        answers = []
        if self._answers:
            ready, self._answers = ray.wait(self._answers, num_returns=len(self._answers), timeout=0)
            for answer in ready:
                with suppress(ray.exceptions.RayError):
                    answers.append(ray.get(answer))
        return answers

    def end(self) -> None:
        """Kill the process for good."""
        with self._replacing:
            self._ended = True
            _kill(self._actor)


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


def start_ray(address: str, num_cpus: int | None = None) -> None:
    """Join the Ray cluster at `address`, or start one on this machine if it is empty.

    Every worker of a cluster that is joined runs our code as it is here, whatever its machine has.

    Args:
        address: "host:port", "ray://host:port", "auto" for the cluster that this machine is a node of, or empty.
        num_cpus: logical CPUs of a cluster started here, all cores by default; Ray keeps an idle process for each.

    Raises:
        WorkerError: the cluster does not answer; the message names the address.
    """
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    small: dict[str, Any] = {
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "num_cpus": num_cpus,
        "_system_config": {
            "worker_niceness": 0,  # with Ray's own 15 a busy machine starves what is timed
            "worker_maximum_startup_concurrency": PROCESSES_AT_ONCE,
        },
    }
    try:
        if not address:
            with _keeping_sigterm():
                ray.init(address="local", **small, **quiet)
            return
        knock(address)
        with tempfile.TemporaryDirectory(prefix="kernel-nightly-") as folder, _keeping_sigterm():
            _copy_code(Path(folder))
            ray.init(address=address, runtime_env={"working_dir": folder}, **quiet)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        where = f"Ray at {address!r} does not answer" if address else "Ray does not start on this machine"
        raise WorkerError(
            f"{where}: {_first_line(str(error))}; try ray status; if it asks for a token, "
            "set RAY_AUTH_MODE=token and the RAY_AUTH_TOKEN of its machines"
        ) from error


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Have SIGTERM mean after the block what it meant before: `ray.init` would make it the end of the process, also
    where Prefect cancels a run with it."""
    if threading.current_thread() is not threading.main_thread():  # only there Ray, or anybody, can set it
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _copy_code(folder: Path) -> None:
    """Put what a worker imports of ours into a folder.

    Ray sends it to every node as its working directory: as a module it would come after the folder that the command
    was started in, where another node may have another version.
    """
    for package in (kernels, tasks):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))


def send_folder(folder: Path) -> dict[str, str]:
    """The runtime environment of an actor that works in a copy of the folder, on whatever node it is.

    Ray itself uploads folders of whole jobs only. It deletes one that nobody uses for minutes: ask for each actor.
    """
    with tempfile.TemporaryDirectory(prefix="kernel-nightly-") as packed:
        environment = {"working_dir": str(folder)}
        sent: dict[str, str] = upload_working_dir_if_needed(environment, include_gitignore=False, scratch_dir=packed)
    return sent


def leave_ray() -> None:
    """Leave the cluster, and end it if it was started here."""
    ray.shutdown()
