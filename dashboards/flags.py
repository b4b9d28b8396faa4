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
    is_of_case: bool = False
    """Whether it holds for every row of the case: a table tells it once."""


def list_flags(row: Row) -> tuple[Flag, ...]:
    """Everything to know of a row that was timed; () for one that nothing is wrong with."""
    flags = []
    trials = row.trials
    if trials and trials.num_slow:
        flags.append(Flag(f"clock {trials.num_slow}/{trials.num_trials}", tell_slow_clocks(trials)))
    if row.machine and row.machine.is_slow:
        change = row.machine.relative_change
        longer = f"{row.machine.name}, which no commit changes, took {change:.1%} longer beside this case"
        sentence = f"{longer} than usual: the machine was slower"
        flags.append(Flag(f"reference slow {tell_change(change)}", sentence, is_of_case=True))
    if row.speedup and row.speedup.is_timed_alone:
        sentence = f"shares no round with {row.reference}: the speed-up is the ratio of the two medians"
        flags.append(Flag("timed alone", sentence))
    return tuple(flags)
