"""Real faults in a real worker's process: each costs its own case a status; what comes after it is unharmed."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import torch
from faults import BAD_TOKENS, FAULTS, FaultyBench

from kernels.spec import Case, Layer
from tasks.bench import compete_as_is
from tasks.measure import Limits, UnitBench, check_unit, time_unit
from tasks.quarantine import Quarantine
from tasks.records import Crash, Measurement, Status, WorkUnit
from tasks.workers import Worker, start_ray

pytestmark = pytest.mark.timeout(240)

LAYER = Layer("silu_mul_fp8", "grid", 1, 1, "fp8_group128", "bfloat16", {"num_experts": 4, "intermediate_size": 256})
CASES = (Case(LAYER, BAD_TOKENS), Case(LAYER, 16))
LIMITS = Limits(8.0, 8.0, 4.0)
TIMERS = {"cpu": ("wall",), "cuda": ("graph", "eager")}
STATUSES = {"out-of-memory": Status.OUT_OF_MEMORY, "endless-kernel": Status.HUNG, "hang": Status.HUNG}
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

StartWorker = Callable[[str], Worker]


@pytest.fixture(scope="module")
def start_worker() -> Iterator[StartWorker]:
    """One worker of each kind, whose processes find this folder's modules."""
    workers: dict[str, Worker] = {}

    def start(device_type: str) -> Worker:
        if device_type not in workers:
            workers[device_type] = Worker(device_type, FaultyBench)
        return workers[device_type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        start_ray("")
        yield start
        for worker in workers.values():
            worker.end()
        ray.shutdown()


@pytest.mark.parametrize(
    ("device_type", "fault"),
    [
        ("cpu", "segfault"),
        ("cpu", "late-exit"),
        *(pytest.param("cuda", f"{when}{fault}", marks=ON_GPU) for fault in FAULTS for when in ("", "late-")),
    ],
)
def test_a_fault_costs_its_own_case_and_the_others_nothing(
    start_worker: StartWorker, device_type: str, fault: str
) -> None:
    crashes: list[Crash] = []
    unit = WorkUnit(LAYER, CASES, (fault, "torch"), TIMERS[device_type])
    bench = UnitBench(start_worker(device_type), unit, 7, Quarantine("run-1", (), crashes.append), LIMITS)
    checks = check_unit(bench, lambda *_: None)
    measurements, _ = time_unit(bench, checks, "run-1", lambda *_: None)
    assert len(measurements) == len(CASES) * 2 * len(unit.timers)
    bad = [m for m in measurements if is_bad(m)]
    good = [m for m in measurements if not is_bad(m)]
    status = STATUSES.get(fault.removeprefix("late-"), Status.CRASHED)
    assert {m.status for m in bad} == {status}
    assert all(m.check.reason and not m.samples_us for m in bad)
    assert all(m.check.reason.startswith("while timing: ") is fault.startswith("late-") for m in bad)
    assert [
        (m.check.case.num_tokens, m.check.provider, m.check.reason) for m in good if m.status is not Status.OK
    ] == []
    assert all(m.samples_us for m in good)
    assert len(crashes) == {Status.CRASHED: 2, Status.HUNG: 1, Status.OUT_OF_MEMORY: 0}[status]


def is_bad(measurement: Measurement) -> bool:
    """Whether it is of the provider and the case that the fault is in."""
    return measurement.check.provider != "torch" and measurement.check.case.num_tokens == BAD_TOKENS


@pytest.mark.parametrize("device_type", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_a_hang_ends_at_its_limit(start_worker: StartWorker, device_type: str) -> None:
    fault = "endless-kernel" if device_type == "cuda" else "hang"
    unit = WorkUnit(LAYER, CASES, (fault, "torch"), TIMERS[device_type])
    bench = UnitBench(start_worker(device_type), unit, 7, Quarantine("run-1", (), lambda _: None), Limits(3.0))
    bench.load()
    start = time.monotonic()
    hung = bench.check(CASES[0], compete_as_is(fault))
    assert 3.0 <= time.monotonic() - start < 8.0  # a busy machine takes its time
    assert hung.status is Status.HUNG
    assert bench.check(CASES[0], compete_as_is("torch")).status is Status.OK


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_an_illegal_access_is_told_as_such(start_worker: StartWorker) -> None:
    unit = WorkUnit(LAYER, CASES, ("illegal-access",), TIMERS["cuda"])
    bench = UnitBench(start_worker("cuda"), unit, 7, Quarantine("run-1", (), lambda _: None), LIMITS)
    assert "illegal memory access" in bench.check(CASES[0], compete_as_is("illegal-access")).reason
