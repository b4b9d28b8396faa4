"""Finds the best configuration of every batch size with few measurements, and says whether it beats the incumbent.

For each batch size, from the middle outward, so that there is one nearby to learn from:

    seeds      the incumbent, the default, what is given, the best of batch sizes nearby
    sample     configurations of every kind; few of them once other batch sizes are known
    proposals  those that a model of all that is known (surrogate.py) thinks may be the best, until none may be

Then, when all are known, once more seeds and proposals for each, and

    heats      the best few, in turn, half of them dropped after each heat
    contest    the best, the default and what an earlier search wrote against the incumbent (contest.py)

It is deterministic: the same answers lead to the same questions.
"""

import math
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kernels.moe.vllm_config_files import Config
from tasks.tuning.contest import Verdict, hold_contest
from tasks.tuning.knowledge import NEARBY, Knowledge
from tasks.tuning.plan import Effort, Outcome, Task, draw_sample, order_outward
from tasks.tuning.space import Space, config_key, distinct
from tasks.tuning.surrogate import Encoding, Model, fit, predict
from tasks.tuning.trials import Answer, Bench, Question

BEST = 6
"""Configurations of each batch size nearby that are seeds."""
SIDE_BY_SIDE = 3
"""Batch sizes that are explored at the same time on a device: while one's configurations are compiled, another's are
timed."""

Result = TypeVar("Result")
Tell = Callable[[int, int, Sequence[Outcome]], None]


def tell_nobody(_done: int, _steps: int, _decided: Sequence[Outcome]) -> None:
    """Where nobody wants to know how far a search is."""


def run_search(
    space: Space,
    tasks: Sequence[Task],
    bench: Bench,
    effort: Effort | None = None,
    seed: int = 0,
    lanes: int = 1,
    tell: Tell = tell_nobody,
) -> list[Outcome]:
    """Search every batch size.

    Args:
        lanes: devices that answer at the same time.
        tell: called after each step, with how many are done, how many there are, and what was decided in it.
    Returns:
        By batch size, ascending.
    """
    effort, knowledge = effort or Effort(), Knowledge(Encoding(space.values))
    searches = {task.batch_size: _Search(task, effort, knowledge, seed) for task in tasks}
    order = [searches[size] for size in order_outward(list(searches))]
    first, rest = order[:lanes], order[lanes:]  # alone, since nothing is known that would spare the others a sample
    explored = [first, *split(rest, lanes * SIDE_BY_SIDE)]
    settled = split(order, lanes)
    passes = [(wave, rounds) for rounds in (effort.most_rounds, effort.second_rounds) for wave in explored]
    num_steps, outcomes = len(passes) + len(settled), list[Outcome]()
    for number, (wave, rounds) in enumerate(passes, 1):
        _ask_side_by_side([search.explore(rounds, number / len(passes)) for search in wave], bench)
        tell(number, num_steps, ())
    for number, wave in enumerate(settled, len(passes) + 1):
        decided = _ask_side_by_side([search.settle() for search in wave], bench)
        tell(number, num_steps, decided)
        outcomes += decided
    return sorted(outcomes, key=lambda outcome: outcome.batch_size)


def split(searches: Sequence[Result], width: int) -> list[Sequence[Result]]:
    """So many at a time."""
    return [searches[first : first + width] for first in range(0, len(searches), width)]


@dataclass(slots=True)
class _Search:
    """The search of one batch size."""

    task: Task
    effort: Effort
    knowledge: Knowledge
    seed: int
    seconds: float = 0.0

    def explore(self, most_rounds: int, share: float) -> Generator[Question, Answer, None]:
        """Measure what may be the best, until nothing may or the share of the budget is spent."""
        yield from self.ask(self.list_seeds(), self.effort.screen_trials)
        model = None
        for _ in range(most_rounds):
            if self.is_spent(share) or not self.knowledge.rank(self.task.batch_size):
                break
            model = model or fit(self.knowledge.encoding, self.knowledge.observe(self.task.batch_size))
            proposals = self.propose(model)
            if not proposals:
                break
            yield from self.ask(proposals, self.effort.screen_trials)

    def settle(self) -> Generator[Question, Answer, Outcome]:
        """The heats and the contest."""
        task, knowledge = self.task, self.knowledge
        for count, trials in self.effort.heats:
            yield from self.ask(knowledge.rank(task.batch_size)[:count], trials, is_checked=True)
        written = [task.written] if task.written else []
        contestants = distinct([task.used, *knowledge.rank(task.batch_size)[:1], *written, task.default])
        verdict = yield from self.count(hold_contest(task.batch_size, contestants[0], contestants[1:]))
        return Outcome(task, verdict, len(knowledge.measured(task.batch_size)), self.seconds)

    def ask(
        self, configs: Sequence[Config], num_trials: int, *, is_checked: bool = False
    ) -> Generator[Question, Answer, None]:
        """Have configurations timed, and learn from it."""
        if configs:
            self.note((yield Question(self.task.batch_size, tuple(configs), num_trials, is_checked)))

    def count(self, contest: Generator[Question, Answer, Verdict]) -> Generator[Question, Answer, Verdict]:
        """A contest whose answers are learnt from too."""
        try:
            question = next(contest)
            while True:
                answer = yield question
                self.note(answer)
                question = contest.send(answer)
        except StopIteration as ended:
            verdict: Verdict = ended.value
            return verdict

    def note(self, answer: Answer) -> None:
        """Learn from an answer."""
        self.knowledge.learn(answer)
        self.seconds += answer.seconds

    def is_spent(self, share: float) -> bool:
        """Whether nothing more may be proposed."""
        return self.knowledge.seconds >= share * self.effort.most_seconds

    def list_seeds(self) -> list[Config]:
        """What to begin with, and was not measured."""
        task, knowledge, effort = self.task, self.knowledge, self.effort
        measured, nearby = knowledge.measured(task.batch_size), knowledge.list_nearby(task.batch_size)
        allowed = {config_key(config) for config in task.candidates.configs}
        given = [task.used, task.default, *task.seeds]
        best = [config for size in nearby[:NEARBY] for config in knowledge.rank(size)[:BEST]]
        count = 0 if measured else effort.sample if nearby else effort.first_sample
        sample = draw_sample(task.candidates.configs, count, random.Random(f"{self.seed} {task.batch_size}"))
        seeds = distinct([*given, *(config for config in best if config_key(config) in allowed), *sample])
        return [config for config in seeds if config_key(config) not in measured]

    def propose(self, model: Model) -> list[Config]:
        """What may be the best and was not measured, the most hopeful first."""
        task, effort, encoding = self.task, self.effort, self.knowledge.encoding
        measured, seen = self.knowledge.measured(task.batch_size), self.knowledge.observe(task.batch_size)
        done = measured | self.knowledge.failed()
        new = [config for config in task.candidates.configs if config_key(config) not in done]
        best = self.knowledge.rank(task.batch_size)[:12]
        points = encoding.encode([*best, *new])
        mean, deviation = predict(encoding, model, seen, points, math.log2(task.batch_size))
        hoped, to_beat = (mean - effort.boldness * deviation)[len(best) :], mean[: len(best)].min()
        order = sorted(range(len(new)), key=lambda at: (hoped[at], at))[: effort.proposals]
        needed = effort.least_configs - len(measured)
        return [new[at] for place, at in enumerate(order) if place < needed or hoped[at] < to_beat - effort.least_hope]


def _ask_side_by_side(wave: Sequence[Generator[Question, Answer, Result]], bench: Bench) -> list[Result]:
    """Have the questions of some batch sizes answered together until none has any."""
    results: list[Result] = []
    asking: list[tuple[Generator[Question, Answer, Result], Question]] = []

    def go_on(search: Generator[Question, Answer, Result], answer: Answer | None) -> None:
        try:
            asking.append((search, next(search) if answer is None else search.send(answer)))
        except StopIteration as ended:
            results.append(ended.value)

    for search in wave:
        go_on(search, None)
    while asking:
        asked, asking[:] = list(asking), []
        answers = bench.measure([question for _, question in asked])
        for (search, _), answer in zip(asked, answers, strict=True):
            go_on(search, answer)
    return results
