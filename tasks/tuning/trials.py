"""What a search asks and is told: configurations of one batch size, timed in turn on one device.

    Question -> Bench.measure -> Answer, a Trial for each configuration

Everything that a search learns comes in answers, so that one that was killed continues from those that were kept.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kernels.moe.vllm_config_files import Config
from tasks.records import Status
from tasks.tuning.space import config_key


@dataclass(frozen=True, slots=True)
class Question:
    """Configurations of one batch size to time in turn, on one device."""

    batch_size: int
    configs: tuple[Config, ...]
    num_trials: int
    """Of each configuration; trials of the same number are taken next to each other."""
    is_checked: bool = False
    """Whether outputs must match the reference first: these may win."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration at one batch size: a time for each trial, or why there is none."""

    batch_size: int
    config: Config = field(hash=False)
    samples_us: tuple[float, ...] = ()
    """The median of each trial, microseconds per call; () unless the status is ok."""
    status: Status = Status.OK
    reason: str = ""
    """Why the status is not ok; one line."""

    @property
    def median_us(self) -> float:
        """Infinite where there is no time."""
        return statistics.median(self.samples_us) if self.samples_us else math.inf


@dataclass(frozen=True, slots=True)
class Answer:
    """What one question was answered."""

    trials: tuple[Trial, ...]
    """In the order of the question's configurations."""
    seconds: float
    """That it took: compiling what was not compiled yet, checking and timing. Questions that are answered side by side
    share the seconds evenly, so that they add up to those of a clock on the wall."""


class Bench(Protocol):
    """What times configurations."""

    def measure(self, questions: Sequence[Question]) -> Sequence[Answer]:
        """Answer questions of different batch sizes, at the same time if there are devices for it."""


Kept = Sequence[tuple[Question, Answer]]


class Replay:
    """A Bench that has the answers of a search that was killed: what it was asked is not asked again.

    Args:
        bench: what is asked.
        kept: of the search that was killed, in the order in which they were given.
        keep: called with every new answer before the search sees it.
    """

    def __init__(self, bench: Bench, kept: Kept, keep: Callable[[Question, Answer], None]) -> None:
        self._bench = bench
        self._kept: dict[Hashable, deque[Answer]] = {}
        for question, answer in kept:
            self._kept.setdefault(_identity(question), deque()).append(answer)
        self._keep = keep

    def measure(self, questions: Sequence[Question]) -> Sequence[Answer]:
        """Kept answers to the same questions, each given once, else new ones."""
        answers = [self._recall(question) for question in questions]
        new = [question for question, answer in zip(questions, answers, strict=True) if answer is None]
        given = iter(self._bench.measure(new)) if new else iter(())
        result = []
        for question, known in zip(questions, answers, strict=True):
            answer = known or next(given)
            if known is None:
                self._keep(question, answer)
            result.append(answer)
        return result

    def _recall(self, question: Question) -> Answer | None:
        kept = self._kept.get(_identity(question))
        return kept.popleft() if kept else None


def _identity(question: Question) -> Hashable:
    configs = tuple(config_key(config) for config in question.configs)
    return question.batch_size, configs, question.num_trials, question.is_checked
