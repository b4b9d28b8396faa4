"""A unit on a real worker whose providers crash, hang or raise: each costs itself a status and the others nothing."""

from collections.abc import Iterator
from pathlib import Path

import benches
import pytest
import ray
from benches import CPU, HOST, UnitTestBench

from kernels.spec import Case, Layer
from tasks.errors import WorkerCrashed, WorkerHung, WorkerRaised
from tasks.measure import UnitBench, check_unit, classify_failure, time_unit
from tasks.records import Ceiling, Check, Measurement, Status, WorkUnit
from tasks.workers import Worker, start_ray

MISBEHAVED = ("crash", "hang", "raise", "out-of-memory", "lose-device")
PROVIDERS = ("first", *(name for bad in MISBEHAVED for name in (bad, f"after-{bad}")))


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    ray.cloudpickle.register_pickle_by_value(benches)  # workers do not have tests/ on their path
    start_ray("")
    made = Worker("cpu", UnitTestBench)
    yield made
    made.end()
    ray.shutdown()


def be_quiet(case: Case, provider: str) -> None:
    """Tell nobody."""


def make_unit(
    log: Path, providers: tuple[str, ...], scheme: str = "fp8_w8a8", tokens: tuple[int, ...] = (1,)
) -> WorkUnit:
    layer = Layer("made_up", str(log), 1, 1, scheme, "bfloat16", {"n": 128})
    return WorkUnit(layer, tuple(Case(layer, num_tokens) for num_tokens in tokens), providers)


def check_all(bench: UnitBench) -> tuple[dict[str, Check], list[tuple[int, str]]]:
    """The checks of a unit of one case by provider, and what was told."""
    told: list[tuple[int, str]] = []
    checks = check_unit(bench, lambda case, provider: told.append((case.num_tokens, provider)))
    return {check.provider: check for check in checks}, told


def measure_all(bench: UnitBench, checks: list[Check]) -> list[Measurement]:
    return time_unit(bench, checks, ["wall"], "run-1", be_quiet)


def test_each_misbehaved_provider_costs_itself_a_status_and_the_others_nothing(worker: Worker, tmp_path: Path) -> None:
    log = tmp_path / "loads"
    bench = UnitBench(worker, make_unit(log, PROVIDERS), seed=7, case_limit_seconds=3.0)
    assert bench.load() is not None
    checks, told = check_all(bench)
    assert {name: check.status for name, check in checks.items() if check.status is not Status.OK} == {
        "crash": Status.CRASHED,
        "hang": Status.HUNG,
        "raise": Status.CRASHED,
        "out-of-memory": Status.OUT_OF_MEMORY,
        "lose-device": Status.CRASHED,
    }
    assert checks["hang"].reason == "no answer within 3 s"
    assert checks["raise"].reason == "MisbehavedError: two"
    assert "OutOfMemoryError" in checks["out-of-memory"].reason
    assert "illegal memory access" in checks["lose-device"].reason
    assert all(check.reason for check in checks.values() if check.status is not Status.OK)
    assert all(check.host_id == HOST.host_id for check in checks.values())
    assert told == [(1, provider) for provider in PROVIDERS]
    loads = [line.split() for line in log.read_text().splitlines()]
    assert len(loads) == 4  # first; after the crash, the hang and the lost device, not after what only raised
    assert len({process for process, _ in loads}) == 4
    assert {seed for _, seed in loads} == {"7"}


def test_a_provider_that_fails_while_it_is_timed_keeps_what_its_check_found(worker: Worker, tmp_path: Path) -> None:
    providers = ("late-crash", "fine", "late-raise", "also-fine")
    bench = UnitBench(worker, make_unit(tmp_path / "loads", providers), seed=7, case_limit_seconds=20.0)
    checks, _ = check_all(bench)
    assert {check.status for check in checks.values()} == {Status.OK}
    measured = {m.check.provider: m for m in measure_all(bench, list(checks.values()))}
    assert {name: m.status for name, m in measured.items()} == {
        "late-crash": Status.CRASHED,
        "fine": Status.OK,
        "late-raise": Status.CRASHED,
        "also-fine": Status.OK,
    }
    assert measured["late-raise"].check.reason == "while timing: MisbehavedError: two"
    assert measured["late-crash"].check.relative_error == 0.01
    assert (measured["late-crash"].samples_us, measured["fine"].samples_us) == ((), (1.0, 2.0, 3.0))
    assert measured["fine"].device == CPU


def test_a_layer_that_cannot_be_made_gives_every_check_a_status(worker: Worker, tmp_path: Path) -> None:
    log = tmp_path / "loads"
    bench = UnitBench(worker, make_unit(log, ("one", "two"), "broken", (1, 4)), seed=7)
    assert bench.load() is None
    checks = check_unit(bench, be_quiet)
    assert [(check.case.num_tokens, check.provider) for check in checks] == [
        (1, "one"),
        (1, "two"),
        (4, "one"),
        (4, "two"),
    ]
    assert {(check.status, check.reason) for check in checks} == {
        (Status.CRASHED, "generating weights: MisbehavedError: no such weights")
    }
    measurements = measure_all(bench, checks)
    assert [m.status for m in measurements] == [Status.CRASHED] * 4
    assert len(log.read_text().splitlines()) == 1


def test_the_ceilings_of_a_worker_are_those_of_its_host_and_the_run(worker: Worker, tmp_path: Path) -> None:
    bench = UnitBench(worker, make_unit(tmp_path / "loads", ("one",)), seed=7)
    assert bench.measure_ceilings("run-1") == ([Ceiling("run-1", HOST.host_id, "copy", 12.5, "GB/s")], "")
    assert check_all(bench)[0]["one"].status is Status.OK


@pytest.mark.parametrize(("bad", "reason"), [("raise", "MisbehavedError: two"), ("crash", "died")])
def test_ceilings_that_cannot_be_measured_say_why_and_cost_the_unit_nothing(
    worker: Worker, tmp_path: Path, bad: str, reason: str
) -> None:
    broken = Worker("cpu", benches.BrokenCeilingsBench)
    try:
        bench = UnitBench(broken, make_unit(tmp_path / "loads", ("one",), scheme=bad), seed=7)
        bench.load()
        ceilings, told = bench.measure_ceilings("run-1")
        assert (ceilings, reason in told.lower() or reason in told) == ([], True)
        assert check_all(bench)[0]["one"].status is Status.OK
    finally:
        broken.end()


def test_every_timer_gives_a_row_also_for_what_failed(worker: Worker, tmp_path: Path) -> None:
    bench = UnitBench(worker, make_unit(tmp_path / "loads", ("fine", "raise")), seed=7)
    checks, _ = check_all(bench)
    told: list[str] = []
    measurements = time_unit(
        bench, list(checks.values()), ["a", "b"], "run-1", lambda _, provider: told.append(provider)
    )
    rows = [(m.check.provider, m.timer, m.status) for m in measurements]
    assert rows == [
        ("fine", "a", Status.OK),
        ("fine", "b", Status.OK),
        ("raise", "a", Status.CRASHED),
        ("raise", "b", Status.CRASHED),
    ]
    assert told == ["fine", "raise"]
    assert {m.run_id for m in measurements} == {"run-1"}
    assert all(m.measured_at.tzinfo is not None for m in measurements)


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (WorkerHung("no answer within 1 s"), Status.HUNG),
        (WorkerCrashed("the process died"), Status.CRASHED),
        (WorkerRaised("E: m", out_of_memory=True, device_lost=False), Status.OUT_OF_MEMORY),
        (WorkerRaised("E: m", out_of_memory=False, device_lost=False), Status.CRASHED),
        (WorkerRaised("E: m", out_of_memory=False, device_lost=True), Status.CRASHED),
    ],
)
def test_a_failure_becomes_a_status_and_its_own_reason(failure: WorkerCrashed, status: Status) -> None:
    assert classify_failure(failure) == (status, str(failure))
