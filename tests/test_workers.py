"""Workers on a real local Ray: what raises, dies or hangs costs its own call and no other."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import benches
import pytest
import ray
from benches import NeverStartingBench, TestBench
from sending import sending

from tasks.checkout import CHECKOUT
from tasks.errors import WorkerCrashed, WorkerError, WorkerHung, WorkerLost, WorkerRaised
from tasks.knocking import ADDRESS_SECONDS
from tasks.workers import Companion, Worker, list_nodes, start_ray

pytestmark = pytest.mark.timeout(90)

LIMIT = 60.0
"""Generous: a fresh process imports torch."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with sending(benches):
        start_ray("")
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def worker(cluster: None) -> Iterator[Worker]:
    made = Worker("cpu", TestBench)
    yield made
    made.end()


def process_of(worker: Worker) -> int:
    return int(worker.call("process_id", limit_seconds=LIMIT))


def test_a_call_gives_the_answer_of_the_method(worker: Worker) -> None:
    assert worker.call("add", 20, 22, limit_seconds=LIMIT) == 42
    assert worker.call("device_type", limit_seconds=LIMIT) == "cpu"


def test_calls_share_one_process_and_its_state(worker: Worker) -> None:
    first = worker.call("count_call", limit_seconds=LIMIT)
    assert worker.call("count_call", limit_seconds=LIMIT) == first + 1
    assert process_of(worker) == process_of(worker)


def test_a_worker_yields_to_other_processes_no_more_than_we_do(worker: Worker) -> None:
    assert worker.call("niceness", limit_seconds=LIMIT) == os.nice(0)


def test_what_a_method_raises_is_told_by_type_and_message_and_the_process_stays(worker: Worker) -> None:
    before = process_of(worker)
    with pytest.raises(WorkerRaised) as raised:
        worker.call("raise_error", "k is 96, not divisible by 128\nsecond line", limit_seconds=LIMIT)
    assert str(raised.value) == "MisbehavedError: k is 96, not divisible by 128"
    assert not raised.value.out_of_memory
    assert not raised.value.device_lost
    assert process_of(worker) == before


def test_an_exception_without_a_message_is_told_by_its_type(worker: Worker) -> None:
    with pytest.raises(WorkerRaised, match=r"^MisbehavedError: no message$"):
        worker.call("raise_error", "", limit_seconds=LIMIT)


def test_out_of_memory_is_told_apart(worker: Worker) -> None:
    with pytest.raises(WorkerRaised, match=r"OutOfMemoryError: CUDA out of memory\. Tried") as raised:
        worker.call("raise_out_of_memory", limit_seconds=LIMIT)
    assert raised.value.out_of_memory
    assert not raised.value.device_lost


def test_what_cannot_be_sent_back_is_a_crash_and_the_next_call_has_a_fresh_process(worker: Worker) -> None:
    before = process_of(worker)
    with pytest.raises(WorkerCrashed, match=r"^raised what cannot be sent: ") as crashed:
        worker.call("raise_unsendable_error", limit_seconds=LIMIT)
    assert len(str(crashed.value).splitlines()) == 1
    assert process_of(worker) != before


@pytest.mark.parametrize(
    ("message", "lost", "out_of_memory"),
    [
        ("Triton Error [CUDA]: an illegal memory access was encountered", True, False),
        ("Triton Error [CUDA]: out of memory", True, True),
        ("k is 96, not divisible by 128", False, False),
    ],
)
def test_the_errors_of_triton_are_told_apart(worker: Worker, message: str, lost: bool, out_of_memory: bool) -> None:
    with pytest.raises(WorkerRaised) as raised:
        worker.call("raise_error", message, limit_seconds=LIMIT)
    assert (raised.value.device_lost, raised.value.out_of_memory) == (lost, out_of_memory)


def test_a_lost_device_costs_the_process(worker: Worker) -> None:
    before = process_of(worker)
    with pytest.raises(WorkerRaised, match="illegal memory access") as raised:
        worker.call("raise_accelerator_error", limit_seconds=LIMIT)
    assert raised.value.device_lost
    assert process_of(worker) != before


def test_a_process_that_dies_is_a_crash_and_the_next_call_has_a_fresh_one(worker: Worker) -> None:
    before = process_of(worker)
    with pytest.raises(WorkerCrashed) as crashed:
        worker.call("exit", limit_seconds=LIMIT)
    assert str(crashed.value)
    assert "\n" not in str(crashed.value)
    assert process_of(worker) != before
    assert worker.call("count_call", limit_seconds=LIMIT) == 1


@pytest.mark.parametrize("hang", [("sleep", 600.0), ("hold_the_gil",)], ids=["sleeping", "holding the GIL"])
def test_a_hang_is_ended_at_its_limit_and_the_next_call_has_a_fresh_process(worker: Worker, hang: tuple) -> None:
    before = process_of(worker)
    start = time.monotonic()
    with pytest.raises(WorkerHung, match=r"^no answer within 1 s$"):
        worker.call(*hang, limit_seconds=1.0)
    assert 1.0 <= time.monotonic() - start < 6.0  # a busy machine takes its time
    assert process_of(worker) != before


def test_a_worker_that_was_ended_is_no_crash(worker: Worker) -> None:
    worker.stop()  # lets go of its cores
    ended = Worker("cpu", TestBench)
    process_of(ended)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(ended.call, "sleep", 600.0, limit_seconds=LIMIT)
        time.sleep(0.5)
        ended.end()
        error = call.exception(timeout=20)
    assert type(error) is WorkerError
    assert "the run is ending" in str(error)
    with pytest.raises(WorkerError, match="the run is ending: no more calls"):
        ended.call("process_id", limit_seconds=LIMIT)


class SlowlyChoosing(Worker):
    """Waits before it starts a process."""

    def __init__(self) -> None:
        super().__init__("cpu", TestBench)
        self.is_asked, self.may_go_on = threading.Event(), threading.Event()

    def _choose_options(self) -> dict[str, object]:
        self.is_asked.set()
        assert self.may_go_on.wait(LIMIT)
        return super()._choose_options()


def test_a_worker_that_is_ended_while_a_call_begins_leaves_no_process(worker: Worker) -> None:
    worker.stop()  # lets go of its cores
    ended = SlowlyChoosing()
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(ended.call, "add", 1, 2, limit_seconds=LIMIT)
        assert ended.is_asked.wait(LIMIT)
        end = pool.submit(ended.end)
        time.sleep(0.2)
        ended.may_go_on.set()
        assert str(call.exception(timeout=LIMIT)) == "the run is ending: its workers were killed"
        end.result(timeout=LIMIT)


def test_a_companion_that_dies_is_replaced_until_it_is_ended(cluster: None) -> None:
    companion = Companion(list_nodes()[0], TestBench)
    assert companion.call("add", 1, 2, limit_seconds=LIMIT) == 3
    assert companion.call("exit", limit_seconds=LIMIT) is None
    assert companion.call("add", 1, 2, limit_seconds=LIMIT) == 3
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(companion.call, "sleep", 600.0, limit_seconds=LIMIT)
        time.sleep(0.5)
        companion.end()
        assert call.result(timeout=20) is None
    assert companion.call("add", 1, 2, limit_seconds=LIMIT) is None


def test_a_process_that_dies_at_its_start_is_tried_twice_and_then_the_worker_is_lost(worker: Worker) -> None:
    worker.stop()  # lets go of its cores
    lost = Worker("cpu", NeverStartingBench)
    start = time.monotonic()
    with pytest.raises(WorkerLost) as told:
        lost.call("add", 1, 2, limit_seconds=LIMIT)
    reason = "benches.MisbehavedError: CUDA error: no device is detected"
    assert str(told.value) == f"the cpu worker is lost: its process does not start: {reason}"
    assert time.monotonic() - start < LIMIT
    lost.end()


def test_what_a_worker_runs_on_is_known_without_another_call(worker: Worker) -> None:
    assert worker.host() == worker.last_host == benches.HOST
    before = process_of(worker)
    worker.stop()
    assert worker.last_host == benches.HOST
    assert worker.host() == benches.HOST
    assert process_of(worker) != before


def test_a_worker_that_was_given_up_says_why(worker: Worker) -> None:
    worker.stop()
    retired = Worker("cpu", TestBench)
    host = retired.host()
    retired.retire("its GPU failed twice")
    assert retired.host() == host
    with pytest.raises(WorkerCrashed, match=r"^its GPU failed twice$"):
        retired.call("add", 1, 2, limit_seconds=LIMIT)
    retired.end()


def test_many_processes_of_a_cluster_without_cpus_start_in_silence() -> None:
    script = """
import time, ray
from tasks.workers import start_ray

@ray.remote(num_cpus=0)
class Compiler:
    def process(self):
        return 1

start_ray("", num_cpus=0)
compilers = [Compiler.remote() for _ in range(12)]
print(sum(ray.get([compiler.process.remote() for compiler in compilers])))
time.sleep(2)  # Ray would tell of them within a second
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "12\n", "")


def test_who_waits_for_a_worker_when_ray_is_left_joins_no_other_cluster(cluster: None) -> None:
    """`ray.get` of a thread that Ctrl-C left behind would join any cluster of the machine."""
    script = """
import threading, time
from tasks.workers import Companion, Worker, leave_ray, list_nodes, start_ray
from tasks.errors import WorkerError
import benches, ray

def wait():
    try:
        worker.call("sleep", 600.0, limit_seconds=60.0)
    except WorkerError as error:
        print(error)

ray.cloudpickle.register_pickle_by_value(benches)
start_ray("", num_cpus=1)
worker, companion = Worker("cpu", benches.TestBench), Companion(list_nodes()[0], benches.TestBench)
worker.host()
waiting = threading.Thread(target=wait)
waiting.start()
time.sleep(1)
worker.end()
leave_ray()
waiting.join()
worker.end()
companion.end()
print(ray.is_initialized())
"""
    paths = [str(Path(__file__).parent), str(CHECKOUT)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ENABLE_AUTO_CONNECT"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the run is ending: its workers were killed\nFalse\n"


def test_a_cluster_that_is_not_there_is_told_in_one_line() -> None:
    ray.shutdown()
    with pytest.raises(WorkerError, match=r"Ray at '127\.0\.0\.1:1' does not answer: ") as refused:
        start_ray("127.0.0.1:1")
    assert "\n" not in str(refused.value)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def test_a_port_that_is_not_rays_is_told_within_seconds(listener: socket.socket) -> None:
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    start = time.monotonic()
    with pytest.raises(WorkerError, match=rf"^Ray at '{address}' does not answer: something else than Ray listens"):
        start_ray(address)
    assert time.monotonic() - start < ADDRESS_SECONDS + 2
    assert not ray.is_initialized()


def test_a_cluster_of_this_machine_that_is_not_there_is_told_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody_else = "ray._private.services.psutil.process_iter"  # other tests run clusters at the same time
    monkeypatch.setattr(nobody_else, lambda *_: iter(()))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"^Ray at 'auto' does not answer: Could not find any running Ray instance"):
        start_ray("auto")
    assert time.monotonic() - start < ADDRESS_SECONDS + 2


@pytest.mark.skipif(find_spec("grpc") is not None, reason="ray[client] is installed")
def test_ray_client_without_its_package_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answering = threading.Thread(target=answer_as_grpc, args=(listener,))
        answering.start()
        with pytest.raises(WorkerError, match=r"Ray Client requires pip package `ray\[client\]`") as refused:
            start_ray(f"ray://127.0.0.1:{listener.getsockname()[1]}")
        answering.join()
    assert "\n" not in str(refused.value)


def answer_as_grpc(listener: socket.socket) -> None:
    """Greet one caller with an empty SETTINGS frame."""
    line, _ = listener.accept()
    with line:
        line.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        line.recv(100)
