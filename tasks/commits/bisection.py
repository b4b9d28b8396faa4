"""The search for the commit that did it: halve what is left, and go around what cannot be told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from math import expm1, log1p

from tasks.commits.comparisons import Contrast
from tasks.records import State

TIMED = (State.SAME, State.SLOW, State.FAST)
"""States of a commit that runs and is right."""


class Answer(Enum):
    """What trying one commit says of it."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"
    """It does not build, fails otherwise, or was not told from both within its time."""


@dataclass(frozen=True, slots=True)
class Culprit:
    """What a search found."""

    suspects: tuple[str, ...]
    """Commits one of which did it, oldest first; one if none had to be gone around."""
    before: str
    """The last good commit."""

    @property
    def commit(self) -> str:
        """The first that is known to be bad."""
        return self.suspects[-1]


def find_culprit(good: str, commits: Sequence[str], ask: Callable[[str], Answer]) -> Culprit:
    """The first bad one of some commits.

    As many questions as halvings of the line, and one more for each that cannot be told.

    Args:
        good: known to be good; comes before the commits.
        commits: oldest first; the last is known to be bad, and is not asked for.
        ask: tries a commit.
    """
    low, high = -1, len(commits) - 1
    unknown: set[int] = set()
    while left := [place for place in range(low + 1, high) if place not in unknown]:
        middle = min(left, key=lambda place: abs(2 * place - low - high))
        match ask(commits[middle]):
            case Answer.GOOD:
                low = middle
            case Answer.BAD:
                high = middle
            case Answer.UNKNOWN:
                unknown.add(middle)
    return Culprit(tuple(commits[low + 1 : high + 1]), good if low < 0 else commits[low])


def is_sought(whole: Contrast) -> bool:
    """Whether the bad commit beside the good one shows something to look for."""
    return whole.is_regression or whole.state is State.FAST


def find_size(whole: Contrast, least_change: float) -> float:
    """What each commit is asked for: the whole change, as a slow-down of that many times."""
    return expm1(abs(log1p(whole.change))) if whole.change is not None else least_change


def decide(contrast: Contrast, sought: State) -> Answer:
    """Whether a commit has what is looked for; one that fails otherwise, or is in doubt, tells nothing."""
    if contrast.state is sought:
        return Answer.BAD
    return Answer.GOOD if contrast.state in TIMED else Answer.UNKNOWN
