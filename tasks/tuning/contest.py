"""Whether a challenger takes the incumbent's place: fresh trials, in turn, until their ratio is settled."""

import statistics
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from kernels.moe.vllm_config_files import Config
from tasks.intervals import Interval, interval_rank
from tasks.tuning.trials import Answer, Question, Trial

CONFIDENCE = 0.99
"""Of an interval: it is looked at a few times, for every batch size."""
LEAST_GAIN = 0.002
"""A ratio must be below 1 - LEAST_GAIN with its whole interval."""
FIRST_LOOK = 12
"""Trials of each before the first look; the next comes after as many more."""
LAST_LOOK = 48

Asking = Generator[Question, Answer, "Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a contest found."""

    winner: Config = field(hash=False)
    reason: str
    incumbent_us: float | None = None
    """Median of the contest's trials; None if it could not be timed."""
    winner_us: float | None = None
    ratio: Interval | None = None
    """Of the winner's times over the incumbent's, or of the best challenger's where the incumbent stays."""


def hold_contest(batch_size: int, incumbent: Config, challengers: Sequence[Config]) -> Asking:
    """Time the incumbent and those that may take its place in turn; never the trials that they were chosen by.

    Args:
        challengers: if the incumbent does not run, the last of them takes its place and is challenged by the rest.
    """
    alive, samples = [incumbent, *challengers], list[list[float]]()
    failures: list[Trial] = []
    while True:
        answer = yield Question(batch_size, tuple(alive), FIRST_LOOK, is_checked=True)
        failures += [trial for trial in answer.trials if not trial.samples_us]
        runs = [bool(trial.samples_us) for trial in answer.trials]
        if not runs[0]:
            left = [config for config, does_run in zip(alive[1:], runs[1:], strict=True) if does_run]
            return (yield from _replace_incumbent(batch_size, answer.trials[0], left))
        samples = samples or [[] for _ in alive]
        pairs = zip(samples, answer.trials, strict=True)
        samples = [[*old, *trial.samples_us] for old, trial in pairs if trial.samples_us]
        alive = [config for config, does_run in zip(alive, runs, strict=True) if does_run]
        ratios = [find_ratio(times, samples[0]) for times in samples[1:]]
        if all(map(is_settled, ratios)) or len(samples[0]) >= LAST_LOOK:
            break
    return judge(alive, samples, failures)


def _replace_incumbent(batch_size: int, failed: Trial, left: Sequence[Config]) -> Asking:
    """What to do about an incumbent that does not run."""
    why = f"the incumbent is {failed.status}: {failed.reason}"
    if not left:
        return Verdict(failed.config, f"kept, though {why}; nothing else runs")
    verdict = yield from hold_contest(batch_size, left[-1], left[:-1])
    return Verdict(verdict.winner, f"replaced: {why}", None, verdict.winner_us)


def find_ratio(times: Sequence[float], others: Sequence[float]) -> Interval:
    """The median ratio of trials that were taken side by side, and its interval of CONFIDENCE."""
    ratios = sorted(time / other for time, other in zip(times, others, strict=True))
    rank = interval_rank(len(ratios), CONFIDENCE)
    if not rank:
        return Interval(statistics.median(ratios), 0.0, float("inf"))
    return Interval(statistics.median(ratios), ratios[rank - 1], ratios[-rank])


def is_won(ratio: Interval) -> bool:
    """Whether the interval is on the challenger's side."""
    return ratio.high < 1 - LEAST_GAIN


def is_settled(ratio: Interval) -> bool:
    """Whether more trials would change nothing: won, or no gain is in reach."""
    return is_won(ratio) or ratio.low > 1 - LEAST_GAIN


def judge(alive: Sequence[Config], samples: Sequence[Sequence[float]], failures: Sequence[Trial] = ()) -> Verdict:
    """The challenger that won by most, or the incumbent.

    Args:
        alive: the incumbent, then the challengers that run; samples: their times, side by side.
        failures: of the challengers that do not run.
    """
    incumbent = alive[0]
    incumbent_us = statistics.median(samples[0])
    if len(alive) == 1:
        why = (
            f"the challenger is {failures[0].status}: {failures[0].reason}" if failures else "nothing better was found"
        )
        return Verdict(incumbent, f"kept: {why}", incumbent_us, incumbent_us)
    ratios = {at: find_ratio(samples[at], samples[0]) for at in range(1, len(alive))}
    won = [at for at, ratio in ratios.items() if is_won(ratio)]
    best = min(won or ratios, key=lambda at: ratios[at].median)
    ratio = ratios[best]
    if won:
        return Verdict(
            alive[best], f"replaced: {tell_ratio(ratio)}", incumbent_us, statistics.median(samples[best]), ratio
        )
    return Verdict(incumbent, f"kept: the best other takes {tell_ratio(ratio)}", incumbent_us, incumbent_us, ratio)


def tell_ratio(ratio: Interval) -> str:
    """E.g. "4.6% less time (-4.7% to -4.5%)"."""
    change = ratio.median - 1
    return f"{abs(change):.1%} {'more' if change > 0 else 'less'} time ({ratio.low - 1:+.1%} to {ratio.high - 1:+.1%})"
