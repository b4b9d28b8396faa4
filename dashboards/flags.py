"""What a reader must know of a row before believing its figures: a few words, and a sentence for who asks."""

from dataclasses import dataclass

from dashboards.rows import Row
from dashboards.trials import tell_slow_clocks
from dashboards.words import tell_change


@dataclass(frozen=True, slots=True)
class Flag:
    """One reservation."""

    label: str
    sentence: str


def list_flags(row: Row) -> tuple[Flag, ...]:
    """Everything to know of a row that was timed; () for one that nothing is wrong with."""
    flags = []
    trials = row.trials
    if trials and trials.num_slow:
        flags.append(Flag(f"slow clock {trials.num_slow}/{trials.num_trials}", tell_slow_clocks(trials)))
    if row.machine and row.machine.is_slow:
        change = row.machine.relative_change
        longer = f"{row.machine.name}, which never changes, took {change:.1%} longer beside this case than over the run"
        cause = "the machine was slow, or the case takes it to its power limit"
        flags.append(Flag(f"reference slow {tell_change(change)}", f"{longer}: {cause}"))
    if row.speedup and row.speedup.is_timed_alone:
        sentence = f"shares no round with {row.reference}: the speed-up is the ratio of the two medians"
        flags.append(Flag("timed alone", sentence))
    return tuple(flags)
