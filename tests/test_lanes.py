"""Configurations timed by real workers, whatever they do to them, after companions compiled them."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import tuners
from tuners import DEFAULT, H200, LAYER, BreakingBench, DigestCompanion, SurfaceBench

from kernels.errors import KernelError
from kernels.spec import Case
from tasks.errors import TuningError, WorkerError, WorkerLost
from tasks.measure import Limits
from tasks.records import Status, WorkUnit
from tasks.tuning import compilers as compiling
from tasks.tuning.compilers import Compilers
from tasks.tuning.lanes import MOST_TOGETHER, ConfigBench, Lanes, load_layer, opening_lanes
from tasks.tuning.trials import Question, Trial
from tasks.workers import Companion, Worker, list_nodes, start_ray

pytestmark = pytest.mark.timeout(180)

CASES = (Case(LAYER, 16), Case(LAYER, 64))
UNIT = WorkUnit(LAYER, CASES, ("vllm-triton-default",), ("graph",))
LIMITS = Limits(check_seconds=3.0, timing_seconds_per_provider=0.5)


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A local Ray whose workers note here what they are asked."""
    folder = tmp_path_factory.mktemp("notes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNER_NOTES", str(folder))
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # of workers
        start_ray("", num_cpus=3)
        yield folder
        ray.shutdown()


@pytest.fixture(scope="module")
def breaking(notes: Path) -> Iterator[Worker]:
    """A worker that breaks."""
    worker = Worker("cpu", BreakingBench)
    yield worker
    worker.end()


@pytest.fixture
def opened(breaking: Worker, notes: Path) -> list[Worker]:
    """The same, whose notes begin anew."""
    (notes / "questions").unlink(missing_ok=True)
    return [breaking]


def config_of(**changes: int) -> dict[str, int]:
    return {**DEFAULT, **changes}


def measure(workers: list[Worker], question: Question, companions: tuple[Companion, ...] = ()) -> list[Status]:
    with closing(Compilers(companions, H200)) as compilers:
        benches = [ConfigBench(worker, UNIT, 0, LIMITS) for worker in workers]
        [answer] = Lanes(benches, compilers).measure([question])
    assert [trial.config for trial in answer.trials] == list(question.configs)
    assert all(len(trial.samples_us) == question.num_trials for trial in answer.trials if trial.status is Status.OK)
    assert answer.seconds > 0
    return [trial.status for trial in answer.trials]


def test_who_kills_or_fails_has_a_status_and_the_others_are_timed_side_by_side(
    opened: list[Worker], notes: Path
) -> None:
    configs = [config_of(num_warps=warps) for warps in (4, 16, 1, 2, 8)]
    told = measure(opened, Question(64, tuple(configs), 3, is_checked=True))
    assert told == [Status.OK, Status.CRASHED, Status.WRONG, Status.CRASHED, Status.OK]
    asked = [line.split()[1:] for line in (notes / "questions").read_text().splitlines()]
    assert asked[-1] == ["64", "2"], "once more without the others"


def test_groups_are_small_enough_to_be_held_at_the_same_time(opened: list[Worker], notes: Path) -> None:
    configs = tuple(config_of(GROUP_SIZE_M=size) for size in range(1, MOST_TOGETHER + 4))
    assert measure(opened, Question(16, configs, 1)) == [Status.OK] * len(configs)
    asked = [line.split()[1:] for line in (notes / "questions").read_text().splitlines()]
    assert asked == [["16", str(MOST_TOGETHER)], ["16", "3"]]


def test_who_is_interrupted_does_not_wait_for_the_question_in_hand(opened: list[Worker]) -> None:
    class StoppedLanes(Lanes):
        def _answer(self, question: Question) -> tuple[Trial, ...]:
            if question.batch_size == 16:
                raise KeyboardInterrupt
            answering.set()
            released.wait(60.0)
            return ()

    answering, released = threading.Event(), threading.Event()
    lanes = StoppedLanes([ConfigBench(opened[0], UNIT, 0, LIMITS)], Compilers((), H200))
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        lanes.measure([Question(size, (config_of(),), 1) for size in (16, 64)])
    took = time.monotonic() - start
    released.set()
    assert took < 20.0


def test_nothing_is_left_of_compilers_that_are_closed_while_they_compile(notes: Path) -> None:
    [node] = list_nodes()
    companions = [Companion(node, DigestCompanion) for _ in range(2)]
    compilers = Compilers(companions, H200)
    compilers.warm(CASES[0], "vllm-triton-default", [config_of(num_stages=90), config_of(num_stages=91)])
    compilers.close()
    for companion in companions:
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(companion._actor.compile_config.remote(CASES[0], "", config_of(), H200), timeout=30.0)


def test_what_compiles_to_the_same_machine_code_is_timed_once(
    opened: list[Worker], notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "COMPILE_LIMIT_SECONDS", 20.0)
    [node] = list_nodes()
    companions = (Companion(node, DigestCompanion), Companion(node, DigestCompanion))
    configs = tuple(config_of(num_stages=stages) for stages in (2, 3, 5, 4, 6))
    with closing(Compilers(companions, H200)) as compilers:
        lanes = Lanes([ConfigBench(opened[0], UNIT, 0, LIMITS)], compilers)
        [first] = lanes.measure([Question(64, configs, 2)])
        [again] = lanes.measure([Question(64, (*configs[:2], config_of(BLOCK_SIZE_M=32)), 2)])
        [checked] = lanes.measure([Question(64, configs[:2], 2, is_checked=True)])
    samples = [trial.samples_us for trial in first.trials]
    assert samples[0] == samples[1] == samples[3]
    assert len(set(samples)) == 3, "what could not be compiled ahead is timed by itself"
    assert [trial.samples_us for trial in again.trials[:2]] == [samples[0]] * 2
    assert checked.trials[0].samples_us == checked.trials[1].samples_us != samples[0], "heats are always fresh"
    asked = [line.split()[1:] for line in (notes / "questions").read_text().splitlines()]
    assert asked == [["64", "3"], ["64", "1"], ["64", "1"]]


class GoneWorker(Worker):
    """Its machine has left the cluster."""

    def call(self, method: str, *arguments: object, limit_seconds: float) -> object:
        raise WorkerLost("its machine left the cluster", with_machine=True)


def test_a_lost_worker_costs_no_question_until_none_is_left(opened: list[Worker]) -> None:
    gone = GoneWorker("cpu", SurfaceBench)
    gone.last_host, gone._is_ready = tuners.HOST, True
    lost, alive = ConfigBench(gone, UNIT, 0, LIMITS), ConfigBench(opened[0], UNIT, 0, LIMITS)
    questions = [Question(size, (config_of(),), 2) for size in (16, 64)]
    answers = Lanes([alive, lost], Compilers((), H200)).measure(questions)
    assert [answer.trials[0].status for answer in answers] == [Status.OK, Status.OK]
    assert (gone.is_retired, opened[0].is_retired) == (True, False)
    with pytest.raises(WorkerError, match=r"no worker is left to tune on.*what was measured is kept"):
        Lanes([lost], Compilers((), H200)).measure(questions)


def test_who_is_lost_while_weights_are_made_is_left_out_until_none_is_left(opened: list[Worker]) -> None:
    gone = [GoneWorker("cpu", SurfaceBench) for _ in range(2)]
    for worker in gone:
        worker.last_host, worker._is_ready = tuners.HOST, True
    lost, alive = [ConfigBench(worker, UNIT, 0, LIMITS) for worker in gone], ConfigBench(opened[0], UNIT, 0, LIMITS)
    assert load_layer([lost[0], alive]) == [alive]
    assert (gone[0].is_retired, opened[0].is_retired) == (True, False)
    with pytest.raises(WorkerError, match=r"no worker is left to tune Mixtral-8x7B .* on"):
        load_layer(lost)


def test_what_cannot_be_tuned_starts_no_processes_that_compile(opened: list[Worker]) -> None:
    started = list[object]()
    other = replace(UNIT, cases=(Case(replace(LAYER, kernel="silu_mul_fp8"), 16),))
    for workers, unit, error in (([], UNIT, WorkerError), (opened, other, KernelError)):
        with pytest.raises(error), opening_lanes(workers, started.append, unit, 0):
            pass
    assert started == []


def test_weights_that_cannot_be_made_end_it_with_the_reason(opened: list[Worker]) -> None:
    unit = replace(UNIT, layer=replace(LAYER, scheme="broken"))
    with pytest.raises(TuningError, match="cannot be tuned: generating weights: MisbehavedError: no such weights"):
        load_layer([ConfigBench(opened[0], unit, 0, LIMITS)])
