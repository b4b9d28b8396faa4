"""What a search is given and gives back, and in which order it goes."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from kernels.moe.vllm_config_files import Config
from tasks.tuning.contest import Verdict
from tasks.tuning.space import Candidates, config_key


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    The defaults were chosen on simulated surfaces (tests/surfaces.py): see the figures in tests/test_search.py.
    """

    first_sample: int = 64
    """Configurations of the batch size that nothing is known of."""
    sample: int = 8
    """Of the others."""
    screen_trials: int = 2
    """Of a configuration before the heats."""
    proposals: int = 12
    """Configurations of a round."""
    most_rounds: int = 5
    """Of proposals, at one batch size."""
    second_rounds: int = 6
    """More of them, once every batch size is known."""
    least_configs: int = 64
    """At one batch size, however sure the model is."""
    boldness: float = 2.5
    """A configuration may be the best if it is when it is so many standard deviations better than thought."""
    least_hope: float = 0.004
    """By how much of the best time it must be better then."""
    heats: tuple[tuple[int, int], ...] = ((10, 4), (5, 8), (3, 8))
    """Configurations and trials of each heat."""
    most_seconds: float = math.inf
    """Of the answers, as a clock on the wall counts: no batch size proposes more once its share is spent; what is known
    goes to the contest."""


@dataclass(frozen=True, slots=True)
class Task:
    """One batch size to search."""

    batch_size: int
    candidates: Candidates
    incumbent: Config | None = field(hash=False)
    """The tuned configuration that is used today; None if there is none, and the default is."""
    default: Config = field(hash=False)
    seeds: tuple[Config, ...] = field(hash=False, default=())
    """Winners of earlier nights and of neighbours."""
    written: Config | None = field(hash=False, default=None)
    """What an earlier search wrote into the file that is to be written: it too must be beaten."""

    @property
    def used(self) -> Config:
        """What is used today."""
        return self.incumbent or self.default


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found for one batch size."""

    task: Task
    verdict: Verdict
    num_configs: int
    """That were measured."""
    seconds: float
    """Of the answers."""

    @property
    def batch_size(self) -> int:
        return self.task.batch_size

    @property
    def winner(self) -> Config:
        """What should be used: what is used today unless it was beaten."""
        return self.verdict.winner

    @property
    def is_replaced(self) -> bool:
        """Whether that is another configuration than what is used today."""
        return config_key(self.task.used) != config_key(self.winner)


def order_outward(batch_sizes: Sequence[int]) -> list[int]:
    """From the middle to both ends in turn, so that there is one nearby to learn from."""
    ordered = sorted(batch_sizes)
    middle = len(ordered) // 2
    places = sorted(range(len(ordered)), key=lambda place: (abs(place - middle), place))
    return [ordered[place] for place in places]


def draw_sample(configs: Sequence[Config], count: int, rng: random.Random) -> list[Config]:
    """Some of every kind: each next one has the values that were drawn least, at random where that is open."""
    left = list(configs)
    rng.shuffle(left)
    drawn: list[Config] = []
    counts: dict[tuple[str, int], int] = {}
    while left and len(drawn) < count:
        crowds = [sum(counts.get(place, 0) for place in config.items()) for config in left]
        chosen = left.pop(min(range(len(left)), key=crowds.__getitem__))
        drawn.append(chosen)
        for place in chosen.items():
            counts[place] = counts.get(place, 0) + 1
    return drawn
