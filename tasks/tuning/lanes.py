"""What times configurations: the workers of one kind of GPU, each with the layer's weights, side by side."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace

from kernels.moe.vllm_config_files import Config
from kernels.spec import Case
from tasks.errors import TuningError, WorkerError, WorkerLost
from tasks.measure import Failure, Limits, UnitBench
from tasks.quarantine import Quarantine
from tasks.records import Crash, Status, WorkUnit
from tasks.tuning.compilers import Compilers
from tasks.tuning.plan import draw_sample
from tasks.tuning.space import config_key, prune
from tasks.tuning.spaces import problem_of, space_of
from tasks.tuning.trials import Answer, Question, Trial
from tasks.workers import Companion, Worker

MOST_TOGETHER = 16
"""Configurations that are timed in turn: each keeps a CUDA graph and its tensors meanwhile."""
LIMITS = Limits(check_seconds=60.0, timing_seconds_per_provider=10.0)
"""Of one call to a worker: the first, and as much more for each configuration. What is compiled ahead takes seconds."""


StartCompanions = Callable[[Sequence[Worker]], Sequence[Companion]]


def start_none(_workers: Sequence[Worker]) -> Sequence[Companion]:
    """Where so little is timed that processes which compile would come too late."""
    return ()


def forget(_crash: Crash) -> None:
    """Crashes are told by the trials' statuses."""


class ConfigBench(UnitBench):
    """A layer on a worker, that times launch configurations of one provider with one timer."""

    def __init__(self, worker: Worker, unit: WorkUnit, seed: int, limits: Limits = LIMITS) -> None:
        super().__init__(worker, unit, seed, Quarantine("", (), forget), limits)
        self.worker = worker

    def try_configs(self, case: Case, question: Question) -> list[Trial]:
        """A trial of each configuration; one that kills the worker, alone and once more, costs the others nothing.

        Raises:
            WorkerLost: the worker's device or machine is gone.
        """
        trials, failure = self._time(case, question)
        if failure is None:
            return trials
        if len(question.configs) == 1:
            return self._try_once_more(case, question, failure)
        alone = [
            trial
            for config in question.configs
            for trial in self.try_configs(case, replace(question, configs=(config,)))
        ]
        left = tuple(trial.config for trial in alone if trial.samples_us)
        if not question.is_checked or len(left) < 2:
            return alone
        together, failure = self._time(case, replace(question, configs=left))
        again = {config_key(trial.config): trial for trial in together} if failure is None else {}
        return [again.get(config_key(trial.config), trial) for trial in alone]

    def _try_once_more(self, case: Case, question: Question, failure: Failure | None) -> list[Trial]:
        """What came of one configuration whose worker died: the next process may fare better, but not where it hung."""
        trials = list[Trial]()
        if failure and failure[0] is not Status.HUNG:
            trials, failure = self._time(case, question)
        return [Trial(case.num_tokens, question.configs[0], (), *failure)] if failure else trials

    def _time(self, case: Case, question: Question) -> tuple[list[Trial], Failure | None]:
        limit = self._limits.check_seconds + len(question.configs) * self._limits.timing_seconds_per_provider
        [provider], [timer] = self.unit.providers, self.unit.timers
        trials, failure = self._attempt(limit, "time_configs", case, provider, question, timer)
        return trials or [], failure


@contextmanager
def opening_lanes(
    workers: Sequence[Worker], start_companions: StartCompanions, unit: WorkUnit, seed: int
) -> Iterator["Lanes"]:
    """A layer of one provider and timer on workers of one kind of device, and processes beside them that compile.

    Args:
        start_companions: called once nothing else can go wrong before they are sure to be ended.
    Raises:
        TuningError: the weights cannot be generated; WorkerError: no worker is idle, or is left.
        EmptySpaceError: the provider's space has no configuration for the layer.
    """
    if not workers:
        raise WorkerError(f"no worker is idle: {unit.layer.label} cannot be tuned now")
    [provider], middle = unit.providers, unit.cases[len(unit.cases) // 2]
    device = workers[0].host().device
    candidates = prune(space_of(middle, provider), problem_of(middle, provider, device.arch)).configs
    companions = start_companions(workers)
    with closing(Compilers(companions, device)) as compilers:
        compilers.warm(middle, provider, draw_sample(candidates, len(companions), random.Random(seed)))
        yield Lanes(load_layer([ConfigBench(worker, unit, seed) for worker in workers]), compilers)


def load_layer(benches: Sequence[ConfigBench]) -> list[ConfigBench]:
    """Generate the weights on every worker; who is lost meanwhile is left out.

    Raises:
        TuningError: that failed; WorkerError: no worker is left.
    """

    def load(bench: ConfigBench) -> ConfigBench | None:
        try:
            bench.load()
        except WorkerLost as lost:
            bench.worker.retire(str(lost))
            return None
        return bench

    with ThreadPoolExecutor(len(benches)) as threads:
        left = [bench for bench in threads.map(load, benches) if bench]
    for bench in left:
        if bench.load_failure:
            raise TuningError(f"{bench.unit.layer.label} cannot be tuned: {bench.load_failure[1]}")
    if not left:
        raise WorkerError(f"no worker is left to tune {benches[0].unit.layer.label} on")
    return left


class Lanes:
    """Answers as many questions at the same time as there are workers. It is a Bench (tasks/tuning/trials.py)."""

    def __init__(self, benches: Sequence[ConfigBench], compilers: Compilers) -> None:
        self.host, self.workers = benches[0].host, [bench.worker for bench in benches]
        self._changed = threading.Condition()
        self._alive = list(benches)
        self._idle = list(benches)
        self._compilers = compilers
        [self._provider] = benches[0].unit.providers
        self._cases = {case.num_tokens: case for case in benches[0].unit.cases}
        self._screened: dict[tuple[int, str], Trial] = {}
        """Unchecked trials by batch size and digest of the machine code, which is timed once."""

    def measure(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions, each on one worker.

        Raises:
            WorkerError: no worker is left.
        """
        start, is_to_wait = time.perf_counter(), False
        threads = ThreadPoolExecutor(len(questions))
        try:
            told = list(threads.map(self._answer, questions))
        except Exception:
            is_to_wait = True
            raise
        finally:  # who is interrupted does not wait for the questions in hand: the workers are killed next
            threads.shutdown(wait=is_to_wait, cancel_futures=True)
        seconds = (time.perf_counter() - start) / len(questions)
        return [Answer(trials, seconds) for trials in told]

    def _answer(self, question: Question) -> tuple[Trial, ...]:
        """While one group is timed the next ones are compiled; who compiles to the same machine code shares a trial."""
        size, known = question.batch_size, dict[str, Trial]()
        case = self._cases[size]
        pending = [self._compilers.begin(case, self._provider, config) for config in question.configs]
        names: list[str] = []
        for first in range(0, len(question.configs), MOST_TOGETHER):
            new: dict[str, Config] = {}
            for config in question.configs[first : first + MOST_TOGETHER]:
                name = pending[len(names)].result() or config_key(config)
                names.append(name)
                if not question.is_checked and (size, name) in self._screened:
                    known[name] = self._screened[size, name]
                if name not in known:
                    new.setdefault(name, config)
            if new:
                trials = self._time(case, replace(question, configs=tuple(new.values())))
                known |= dict(zip(new, trials, strict=True))
        if not question.is_checked:
            self._screened |= {(size, name): trial for name, trial in known.items()}
        return tuple(replace(known[name], config=config) for name, config in zip(names, question.configs, strict=True))

    def _time(self, case: Case, question: Question) -> list[Trial]:
        """On the next idle worker; where one is lost, on another."""
        while True:
            bench = self._take()
            try:
                trials = bench.try_configs(case, question)
            except WorkerLost as lost:
                bench.worker.retire(str(lost))
                with self._changed:
                    self._alive.remove(bench)
                    self._changed.notify_all()
                if not self._alive:
                    raise WorkerError(f"no worker is left to tune on: {lost}; what was measured is kept") from lost
            else:
                with self._changed:
                    self._idle.append(bench)
                    self._changed.notify_all()
                return trials

    def _take(self) -> ConfigBench:
        with self._changed:
            self._changed.wait_for(lambda: self._idle or not self._alive)
            if not self._idle:
                raise WorkerError("no worker is left to tune on; what was measured is kept")
            return self._idle.pop()
