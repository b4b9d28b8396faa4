"""A unit on a real worker whose providers crash, hang or raise: each costs itself a status and the others nothing."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import benches
import pytest
import ray
from benches import CPU, HOST, UnitTestBench
from sending import sending

import tasks.bench
from kernels.spec import Case, Layer
from tasks.bench import compete_as_is
from tasks.errors import WorkerCrashed, WorkerHung, WorkerLost, WorkerRaised
from tasks.measure import CHECK_LIMIT_SECONDS, Limits, UnitBench, check_unit, classify_failure, time_unit
from tasks.quarantine import Quarantine
from tasks.records import Ceiling, Check, Crash, Measurement, Status, WorkUnit
from tasks.workers import Node, Worker, start_ray

MISBEHAVED = ("crash", "hang", "raise", "out-of-memory", "lose-device")
PROVIDERS = ("first", *(name for bad in MISBEHAVED for name in (bad, f"after-{bad}")))
SAMPLES_US = (1.0, 2.0, 3.0)


pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with sending(benches, tasks.bench):
        start_ray("")
        made = Worker("cpu", UnitTestBench)
        yield made
        made.end()
        ray.shutdown()


def be_quiet(case: Case, provider: str) -> None:
    """Tell nobody."""


@pytest.fixture
def crashes() -> list[Crash]:
    """What was committed of crashes."""
    return []


def make_unit(
    log: Path,
    providers: tuple[str, ...],
    scheme: str = "fp8_w8a8",
    tokens: tuple[int, ...] = (1,),
    timers: tuple[str, ...] = ("wall",),
) -> WorkUnit:
    layer = Layer("made_up", str(log), 1, 1, scheme, "bfloat16", {"n": 128})
    return WorkUnit(layer, tuple(Case(layer, num_tokens) for num_tokens in tokens), providers, timers)


def open_bench(
    worker: Worker, unit: WorkUnit, crashes: list[Crash], earlier: Sequence[Crash] = (), limit_seconds: float = 20.0
) -> UnitBench:
    limits = Limits(limit_seconds, limit_seconds / 2, limit_seconds / 2)
    return UnitBench(worker, unit, 7, Quarantine("run-1", earlier, crashes.append), limits)


def check_all(bench: UnitBench) -> tuple[dict[str, Check], list[tuple[int, str]]]:
    """The checks of a unit of one case by provider, and what was told."""
    told: list[tuple[int, str]] = []
    checks = check_unit(bench, lambda case, provider: told.append((case.num_tokens, provider)))
    return {check.provider: check for check in checks}, told


def measure_all(bench: UnitBench) -> dict[str, Measurement]:
    """The measurements of a unit of one case and one timer by provider."""
    checks = check_unit(bench, be_quiet)
    measurements, _ = time_unit(bench, checks, "run-1", be_quiet)
    return {measurement.check.provider: measurement for measurement in measurements}


def loads_of(log: Path) -> list[list[str]]:
    """Process and seed of every time the layer was loaded."""
    return [line.split() for line in log.read_text().splitlines()]


def tries_of(log: Path) -> list[str]:
    """Providers in the order they were tried to be checked, and late ones to be timed."""
    return Path(f"{log}.tries").read_text().splitlines()


def timings_of(log: Path) -> list[str]:
    """Timers in the order they were asked for, without repetitions."""
    return list(dict.fromkeys(Path(f"{log}.timers").read_text().splitlines()))


def test_each_misbehaved_provider_costs_itself_a_status_and_the_others_nothing(
    worker: Worker, tmp_path: Path, crashes: list[Crash]
) -> None:
    log = tmp_path / "loads"
    bench = open_bench(worker, make_unit(log, PROVIDERS), crashes, limit_seconds=3.0)
    assert bench.load() is not None
    checks, told = check_all(bench)
    assert {name: check.status for name, check in checks.items() if check.status is not Status.OK} == {
        "crash": Status.CRASHED,
        "hang": Status.HUNG,
        "raise": Status.CRASHED,
        "out-of-memory": Status.OUT_OF_MEMORY,
        "lose-device": Status.CRASHED,
    }
    assert checks["hang"].reason == "no answer within 3 s (hung once in this run: not tried again)"
    assert checks["raise"].reason == "MisbehavedError: two"
    assert "OutOfMemoryError" in checks["out-of-memory"].reason
    assert "illegal memory access" in checks["lose-device"].reason
    assert checks["lose-device"].reason.endswith("(crashed 2 times in this run: not tried again)")
    assert all(check.reason for check in checks.values() if check.status is not Status.OK)
    assert all(check.host_id == HOST.host_id for check in checks.values())
    assert told == [(1, provider) for provider in PROVIDERS]
    tries = tries_of(log)
    assert {name: tries.count(name) for name in PROVIDERS if tries.count(name) != 1} == {"crash": 2, "lose-device": 2}
    loads = loads_of(log)
    assert len(loads) == 6  # first; after two crashes, the hang and the device lost twice, not after what only raised
    assert len({process for process, _ in loads}) == 6
    assert {seed for _, seed in loads} == {"7"}
    assert [(crash.provider, crash.status) for crash in crashes] == [
        ("crash", Status.CRASHED),
        ("crash", Status.CRASHED),
        ("hang", Status.HUNG),
        ("lose-device", Status.CRASHED),
        ("lose-device", Status.CRASHED),
    ]
    assert {(crash.run_id, crash.device_name) for crash in crashes} == {("run-1", CPU.name)}


def test_a_provider_that_crashes_once_is_tried_in_a_fresh_process_and_kept(
    worker: Worker, tmp_path: Path, crashes: list[Crash]
) -> None:
    log = tmp_path / "loads"
    measured = measure_all(open_bench(worker, make_unit(log, ("crash-once", "fine")), crashes))
    assert {name: (m.status, m.samples_us) for name, m in measured.items()} == {
        "crash-once": (Status.OK, SAMPLES_US),
        "fine": (Status.OK, SAMPLES_US),
    }
    assert [(crash.provider, crash.status) for crash in crashes] == [("crash-once", Status.CRASHED)]
    assert len({process for process, _ in loads_of(log)}) == 2


def test_timers_that_would_do_the_same_share_samples_and_every_row_is_there(
    worker: Worker, tmp_path: Path, crashes: list[Crash]
) -> None:
    unit = make_unit(tmp_path / "loads", ("fine", "late-raise"), timers=("twin", "wall", "other twin"))
    bench = open_bench(worker, unit, crashes)
    measurements, references = time_unit(bench, check_unit(bench, be_quiet), "run-1", be_quiet)
    rows = {(m.timer, m.check.provider): (m.status, len(m.samples_us), len(m.trials)) for m in measurements}
    assert len(rows) == len(measurements) == 6
    assert {rows[timer, "fine"] for timer in unit.timers} == {(Status.OK, 3, 1)}
    assert {rows[timer, "late-raise"] for timer in unit.timers} == {(Status.CRASHED, 0, 0)}
    assert [reference.timer for reference in references] == list(unit.timers)
    assert timings_of(tmp_path / "loads") == ["twin", "wall"]


def test_who_fails_while_a_case_is_timed_costs_the_others_no_sample(
    worker: Worker, tmp_path: Path, crashes: list[Crash]
) -> None:
    log = tmp_path / "loads"
    providers = ("late-crash", "fine", "late-raise", "also-fine")
    measured = measure_all(open_bench(worker, make_unit(log, providers), crashes))
    assert {name: m.status for name, m in measured.items()} == {
        "late-crash": Status.CRASHED,
        "fine": Status.OK,
        "late-raise": Status.CRASHED,
        "also-fine": Status.OK,
    }
    assert measured["late-raise"].check.reason == "while timing: MisbehavedError: two"
    crashed = measured["late-crash"]
    assert crashed.check.reason.startswith("while timing: ")
    assert crashed.check.reason.endswith("(crashed 2 times in this run: not tried again)")
    assert crashed.check.relative_error == 0.01  # what its check found
    assert (crashed.samples_us, crashed.trials) == ((), ())
    assert measured["fine"].samples_us == measured["also-fine"].samples_us == SAMPLES_US
    assert measured["fine"].device == CPU
    assert tries_of(log).count("crash") == 3  # with the others, then twice alone
    assert [crash.provider for crash in crashes] == ["late-crash", "late-crash"]


@pytest.mark.parametrize(
    ("providers", "rounds", "calls"),
    [
        (("fine", "late-raise", "also-fine"), [{2}, set(), {2}], 3),
        (("fine", "late-raise"), [{0}, set()], 1),
        (("fine", "lonely", "late-raise"), [{0}, {1}, set()], 2),
        (("fine", "lonely"), [{0}, {1}], 2),
    ],
)
def test_who_fails_leaves_the_others_to_take_turns_and_only_if_that_fails_too_they_share_no_round(
    worker: Worker,
    tmp_path: Path,
    crashes: list[Crash],
    providers: tuple[str, ...],
    rounds: list[set[int]],
    calls: int,
) -> None:
    unit = make_unit(tmp_path / "loads", providers)
    bench = open_bench(worker, unit, crashes)
    measurements, references = time_unit(bench, check_unit(bench, be_quiet), "run-1", be_quiet)
    assert [{trial.round for trial in m.trials} for m in measurements] == rounds
    assert all((m.samples_us == SAMPLES_US) == (m.status is Status.OK) == bool(m.trials) for m in measurements)
    assert [(r.name, r.samples_us, r.case_key) for r in references] == [("copy", (5.0,) * calls, unit.cases[0].key)]


def test_providers_that_were_timed_together_share_their_rounds(
    worker: Worker, tmp_path: Path, crashes: list[Crash]
) -> None:
    measured = measure_all(open_bench(worker, make_unit(tmp_path / "loads", ("fine", "also-fine")), crashes))
    assert [trial.round for m in measured.values() for trial in m.trials] == [0, 0]


def test_a_hang_while_a_case_is_timed_is_not_tried_again_and_the_others_keep_their_times(
    worker: Worker, tmp_path: Path, crashes: list[Crash]
) -> None:
    log = tmp_path / "loads"
    bench = open_bench(worker, make_unit(log, ("fine", "late-hang")), crashes, limit_seconds=2.0)
    measured = measure_all(bench)
    assert measured["fine"].samples_us == SAMPLES_US
    assert measured["late-hang"].status is Status.HUNG
    hung = "while timing: no answer within 2 s (hung once in this run: not tried again)"
    assert measured["late-hang"].check.reason == hung
    assert tries_of(log).count("hang") == 2  # with the other, which may have been to blame, then alone
    assert [(crash.provider, crash.status) for crash in crashes] == [("late-hang", Status.HUNG)]
    resumed = measure_all(open_bench(worker, bench.unit, crashes, earlier=tuple(crashes), limit_seconds=2.0))
    assert tries_of(log).count("hang") == 2  # nor by the run when it is resumed
    assert (resumed["late-hang"].status, resumed["late-hang"].check.reason) == (Status.HUNG, hung.split(": ", 1)[1])
    assert resumed["fine"].samples_us == SAMPLES_US
    assert len(crashes) == 1


def test_timing_has_a_limit_of_its_own_that_grows_with_the_providers(worker: Worker, tmp_path: Path) -> None:
    unit = make_unit(tmp_path / "loads", ("fine", "late-hang", "also-fine"))
    limits = Limits(20.0, 0.5, 0.25)
    assert Limits().find_timing_seconds(4) == 120.0 < CHECK_LIMIT_SECONDS
    bench = UnitBench(worker, unit, 7, Quarantine("run-1", (), lambda _: None), limits)
    checks = check_unit(bench, be_quiet)
    start = time.monotonic()
    timed = bench.time(checks[0].case, [compete_as_is(check.provider) for check in checks], "wall")
    assert time.monotonic() - start > limits.find_timing_seconds(3) + limits.find_timing_seconds(1)
    assert set(timed.readings) == {"fine", "also-fine"}
    assert timed.failures["late-hang"][1].startswith("no answer within 0.75 s (")


def test_a_limit_is_not_spent_on_importing_torch(worker: Worker, tmp_path: Path, crashes: list[Crash]) -> None:
    measure_all(open_bench(worker, make_unit(tmp_path / "loads", ("fine",)), crashes))
    assert not worker.call("has_torch", limit_seconds=20.0)


def test_a_hang_ends_at_its_limit(worker: Worker, tmp_path: Path, crashes: list[Crash]) -> None:
    bench = open_bench(worker, make_unit(tmp_path / "loads", ("hang",)), crashes, limit_seconds=1.0)
    assert bench.load() is not None
    start = time.monotonic()
    checks, _ = check_all(bench)
    assert 1.0 <= time.monotonic() - start < 6.0  # a busy machine takes its time
    assert checks["hang"].status is Status.HUNG


def test_what_is_quarantined_with_one_timer_is_not_tried_with_the_next(worker: Worker, tmp_path: Path) -> None:
    log, tries_at_commit = tmp_path / "loads", list[int]()
    unit = make_unit(log, ("late-crash",), timers=("a", "b"))
    quarantine = Quarantine("run-1", (), lambda crash: tries_at_commit.append(tries_of(log).count("crash")))
    bench = UnitBench(worker, unit, 7, quarantine)
    measurements, _ = time_unit(bench, check_unit(bench, be_quiet), "run-1", be_quiet)
    assert [(m.timer, m.status) for m in measurements] == [("a", Status.CRASHED), ("b", Status.CRASHED)]
    assert all("not tried again" in m.check.reason for m in measurements)
    assert tries_at_commit == [1, 2]  # each crash is stored before the provider is tried again


def test_a_case_that_crashes_leaves_the_same_providers_other_cases_alone(
    worker: Worker, tmp_path: Path, crashes: list[Crash]
) -> None:
    unit = make_unit(tmp_path / "loads", ("crash-once",), tokens=(1, 4))
    quarantine = Quarantine("run-1", (), crashes.append)
    bench = UnitBench(worker, unit, 7, quarantine)
    quarantine.note(unit.cases[0], "crash-once", bench.host, Status.HUNG, "no answer within 20 s")
    checks = check_unit(bench, be_quiet)
    assert [(check.case.num_tokens, check.status) for check in checks] == [(1, Status.HUNG), (4, Status.OK)]


def test_a_layer_that_cannot_be_made_gives_every_check_a_status(
    worker: Worker, tmp_path: Path, crashes: list[Crash]
) -> None:
    log = tmp_path / "loads"
    bench = open_bench(worker, make_unit(log, ("one", "two"), "broken", (1, 4)), crashes)
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
    measurements, references = time_unit(bench, checks, "run-1", be_quiet)
    assert [m.status for m in measurements] == [Status.CRASHED] * 4
    assert references == []
    assert len(loads_of(log)) == 1
    assert crashes == []


def test_the_ceilings_of_a_worker_are_those_of_its_host_and_the_run(
    worker: Worker, tmp_path: Path, crashes: list[Crash]
) -> None:
    bench = open_bench(worker, make_unit(tmp_path / "loads", ("one",)), crashes)
    assert bench.measure_ceilings("run-1") == ([Ceiling("run-1", HOST.host_id, "copy", 12.5, "GB/s")], "")
    assert check_all(bench)[0]["one"].status is Status.OK


@pytest.mark.parametrize(("bad", "reason"), [("raise", "MisbehavedError: two"), ("crash", "died")])
def test_ceilings_that_cannot_be_measured_say_why_and_cost_the_unit_nothing(
    worker: Worker, tmp_path: Path, crashes: list[Crash], bad: str, reason: str
) -> None:
    worker.stop()  # lets go of its cores
    broken = Worker("cpu", benches.BrokenCeilingsBench)
    try:
        bench = open_bench(broken, make_unit(tmp_path / "loads", ("one",), scheme=bad), crashes)
        bench.load()
        ceilings, told = bench.measure_ceilings("run-1")
        assert (ceilings, reason in told.lower() or reason in told) == ([], True)
        assert check_all(bench)[0]["one"].status is Status.OK
    finally:
        broken.end()


def test_every_timer_gives_a_row_also_for_what_failed(worker: Worker, tmp_path: Path, crashes: list[Crash]) -> None:
    bench = open_bench(worker, make_unit(tmp_path / "loads", ("fine", "raise"), timers=("a", "b")), crashes)
    checks, _ = check_all(bench)
    told: list[str] = []
    measurements, references = time_unit(
        bench, list(checks.values()), "run-1", lambda _, provider: told.append(provider)
    )
    assert [(m.timer, m.check.provider, m.status) for m in measurements] == [
        ("a", "fine", Status.OK),
        ("a", "raise", Status.CRASHED),
        ("b", "fine", Status.OK),
        ("b", "raise", Status.CRASHED),
    ]
    assert [(r.timer, r.name) for r in references] == [("a", "copy"), ("b", "copy")]
    assert told == ["fine", "raise"]
    assert {m.run_id for m in measurements} == {"run-1"}
    assert all(m.measured_at.tzinfo is not None for m in measurements)


def test_a_unit_says_what_its_seconds_went_into(worker: Worker, tmp_path: Path, crashes: list[Crash]) -> None:
    bench = open_bench(worker, make_unit(tmp_path / "loads", ("fine",)), crashes)
    with bench.clock.measure("verify"):
        check_unit(bench, be_quiet)
    cost = bench.take_cost("run-1")
    assert (cost.run_id, cost.layer_key, cost.host_id) == ("run-1", bench.unit.key, HOST.host_id)
    assert set(cost.seconds) == {"verify", "total", "sampling"}
    assert cost.seconds["total"] == cost.seconds["verify"] > 0


def test_a_worker_that_is_lost_costs_a_measured_unit_its_own_seconds_and_one_it_died_of_everything(
    worker: Worker, tmp_path: Path, crashes: list[Crash]
) -> None:
    worker.stop()  # lets go of its cores
    lost = Worker("cpu", UnitTestBench)
    try:
        bench = open_bench(lost, make_unit(tmp_path / "loads", ("fine",)), crashes)
        with bench.clock.measure("time"):
            assert measure_all(bench)["fine"].samples_us == SAMPLES_US
        dead = open_bench(lost, make_unit(tmp_path / "loads", ("crash",)), crashes)
        assert check_all(dead)[0]["crash"].status is Status.CRASHED
        lost.stop()
        lost.node = Node("ab" * 28, "10.0.0.9", 0, 1)  # no machine of the cluster
        assert set(bench.take_cost("run-1").seconds) == {"time", "total"}
        with pytest.raises(WorkerLost):
            dead.take_cost("run-1")
    finally:
        lost.end()


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
