"""A worker beside another, on older code that is made up here: what that does not know is told and costs nothing."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import benches
import pytest
import ray
from benches import HOST, TestBench
from sending import sending

from kernels.spec import Case, Layer
from tasks.commits.beside import CommitWorker
from tasks.errors import WorkerCrashed, WorkerError, WorkerHung, WorkerRaised
from tasks.workers import Worker, start_ray

pytestmark = pytest.mark.timeout(90)

LIMIT = 60.0
COMMIT = "0123456789abcdef0123"
RECORDS = """
from dataclasses import dataclass

@dataclass(frozen=True, slots=True)
class Device:
    name: str

@dataclass(frozen=True, slots=True)
class Host:
    device: Device
    device_uuid: str = ""

@dataclass(frozen=True, slots=True)
class Trial:
    turn: int
"""
SPEC = """
from dataclasses import dataclass

@dataclass(frozen=True, slots=True)
class Case:
    num_tokens: int
    layer: object
"""
BENCH = """
import os, time
import kernels
from tasks.records import Device, Host, Trial

class Bench:
    def __init__(self, device_type):
        self.device_type = device_type

    def host(self):
        return Host(Device({device!r}))

    def where(self):
        return kernels.__file__, os.getpid(), self.device_type

    def count_tokens(self, case):
        return type(case).__module__, case.num_tokens

    def make_trial(self):
        return Trial(turn=3)

    def raise_error(self):
        raise KeyError("no such provider")

    def raise_out_of_memory(self):
        raise type("OutOfMemoryError", (Exception,), {{}})("of an older version")

    def exit(self):
        os._exit(7)

    def sleep(self):
        time.sleep(600)
"""


def write_code(folder: Path, bench: str) -> Path:
    """Packages of an older version, as far as a worker needs them."""
    for path, source in (("kernels/spec.py", SPEC), ("tasks/records.py", RECORDS), ("tasks/bench.py", bench)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).parent.joinpath("__init__.py").touch()
        (folder / path).write_text(source)
    return folder


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with sending(benches):
        start_ray("")
        made = Worker("cpu", TestBench)
        yield made
        made.end()
        ray.shutdown()


@pytest.fixture(scope="module")
def earlier(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommitWorker]:
    folder = write_code(tmp_path_factory.mktemp("code"), BENCH.format(device=HOST.device.name))
    made = CommitWorker(worker, folder, COMMIT)
    yield made
    made.end()


def test_it_runs_the_code_of_the_folder_on_the_others_device_without_the_others_cores(
    worker: Worker, earlier: CommitWorker
) -> None:
    file, process, device_type = earlier.call("where", limit_seconds=LIMIT)
    assert "working_dir_files" in Path(file).parts
    assert device_type == "cpu"
    assert process != worker.call("process_id", limit_seconds=LIMIT)
    assert earlier.host() is worker.host()
    assert str(earlier) == "the code of commit 0123456789ab"


def test_records_become_those_of_the_older_code_by_their_names(earlier: CommitWorker) -> None:
    case = Case(Layer("k", "m", 1, 1, "s", "d", {}), 5)
    with pytest.raises(WorkerRaised, match=r"^AttributeError: module 'kernels\.spec' has no attribute 'Layer'$"):
        earlier.call("count_tokens", case, limit_seconds=LIMIT)


def test_what_the_older_code_lacks_or_answers_otherwise_is_told_in_one_line(earlier: CommitWorker) -> None:
    with pytest.raises(WorkerRaised, match=r"^AttributeError: 'Bench' object has no attribute 'drop_case'$"):
        earlier.call("drop_case", limit_seconds=LIMIT)
    with pytest.raises(WorkerRaised, match=r"^TypeError: .*\.sleep\(\) takes 1 positional argument but 2 were given$"):
        earlier.call("sleep", 1, limit_seconds=LIMIT)
    with pytest.raises(WorkerRaised) as told:
        earlier.call("make_trial", limit_seconds=LIMIT)
    unknown = "Trial.__init__() got an unexpected keyword argument 'turn'"
    assert str(told.value) == f"the code of commit 0123456789ab answers what is not known here: {unknown}"


def test_what_it_raises_and_how_it_ends_is_told_as_of_any_worker(earlier: CommitWorker) -> None:
    with pytest.raises(WorkerRaised, match=r"^KeyError: 'no such provider'$"):
        earlier.call("raise_error", limit_seconds=LIMIT)
    with pytest.raises(WorkerCrashed):
        earlier.call("exit", limit_seconds=LIMIT)
    start = time.monotonic()
    earlier.host()
    with pytest.raises(WorkerHung, match=r"^no answer within 1 s$"):
        earlier.call("sleep", limit_seconds=1.0)
    assert time.monotonic() - start < LIMIT
    assert earlier.call("where", limit_seconds=LIMIT)


def test_code_that_cannot_be_imported_is_a_crash_and_never_a_lost_worker(worker: Worker, tmp_path: Path) -> None:
    broken = CommitWorker(worker, write_code(tmp_path, "import tasks.gone"), COMMIT)
    reason = r"^the code of commit 0123456789ab is lost: its process does not start: .*No module named 'tasks\.gone'$"
    try:
        for _ in range(2):
            with pytest.raises(WorkerCrashed, match=reason):
                broken.call("where", limit_seconds=LIMIT)
    finally:
        broken.end()


def test_another_device_than_the_others_is_refused(worker: Worker, tmp_path: Path) -> None:
    elsewhere = CommitWorker(worker, write_code(tmp_path, BENCH.format(device="cpu: another")), COMMIT)
    try:
        with pytest.raises(WorkerCrashed, match=r"runs on cpu: another  instead of cpu: made up $"):
            elsewhere.host()
    finally:
        elsewhere.end()
    elsewhere.end()
    assert elsewhere not in worker.beside, "as many of them would stay as there are sittings"


def test_it_ends_with_the_worker_that_it_is_beside(worker: Worker, earlier: CommitWorker) -> None:
    process = earlier.call("where", limit_seconds=LIMIT)[1]
    worker.end()
    with pytest.raises(WorkerError, match="the run is ending"):
        earlier.call("where", limit_seconds=LIMIT)
    while Path(f"/proc/{process}").exists():
        time.sleep(0.05)
    assert os.getpid() != process
