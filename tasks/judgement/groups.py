"""Series that moved together: a group for each kernel and provider, or for more of them where more than half moved."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tasks.records import Series, State, Verdict

TOLD = (State.SLOW, State.FAST, State.WRONG, State.FAILED, State.MISSING)
"""States that somebody is told of."""
SAME_NIGHTS = 2
"""Changes that are seen first within so many nights of each other are taken for one: noise hides the first of them."""
LEAST_OF_MACHINE, SHARE_OF_MACHINE = 2, 0.15
"""Series of a device, and their share of all, beside which the machine must have moved for somebody to be told."""
MOST_OF_THEM = 0.5
"""Share of the series of a kernel, a library or a device from which on all of it is said to have moved."""


class Subject(NamedTuple):
    """What the series of a group have in common; "" where that is not it."""

    device_name: str
    kernel: str = ""
    provider: str = ""
    """A provider, or the library in front of its name."""

    def __str__(self) -> str:
        what = " ".join(part for part in (self.kernel, self.provider) if part) or "all kernels"
        return f"{what} on {self.device_name}"

    def holds(self, series: Series) -> bool:
        """Whether a series is of this subject."""
        if series.device_name != self.device_name or (self.kernel and kernel_of(series) != self.kernel):
            return False
        return self.provider in ("", series.provider, library_of(series))


@dataclass(frozen=True, slots=True)
class Group:
    """Verdicts of one state that are one thing to look at."""

    subject: Subject
    since_run: str
    verdicts: tuple[Verdict, ...]
    """Those that moved most first."""

    @property
    def state(self) -> State:
        return self.verdicts[0].state

    @property
    def series(self) -> tuple[Series, ...]:
        return tuple(verdict.series for verdict in self.verdicts)


def is_told(verdict: Verdict) -> bool:
    """Whether somebody is told of it: that a machine is slow, too."""
    return verdict.state in TOLD or verdict.is_machine


def group_verdicts(verdicts: Sequence[Verdict], order: Mapping[str, int]) -> list[Group]:
    """The verdicts that somebody is told of, in as few groups as say what moved; of a machine, one each way.

    Args:
        verdicts: of the whole night: how many of a kernel did not move counts.
        order: numbers of the runs.
    """
    judged = [verdict.series for verdict in verdicts if verdict.state is not State.UNSUPPORTED]
    told = [verdict for verdict in verdicts if is_told(verdict)]
    groups = []
    for state in dict.fromkeys(verdict.state for verdict in told if not verdict.is_machine):
        for of_nights in split_nights([verdict for verdict in told if verdict.state is state], order):
            groups += group_moved(of_nights, judged, order)
    for is_longer in (True, False):
        groups += group_moved([v for v in told if v.is_machine and takes_longer(v) is is_longer], judged, order)
    return [group for group in groups if not group.verdicts[0].is_machine or is_of_machine(group, judged)]


def takes_longer(verdict: Verdict) -> bool:
    """Whether a series takes longer than before, rather than less."""
    return (verdict.relative_change or 0.0) > 0


def is_of_machine(group: Group, judged: Sequence[Series]) -> bool:
    """Whether a machine was slow, and not only for a moment: nobody is told of a moment."""
    least = max(LEAST_OF_MACHINE, SHARE_OF_MACHINE * sum(map(group.subject.holds, judged)))
    return len(group.verdicts) >= least


def split_nights(verdicts: Sequence[Verdict], order: Mapping[str, int]) -> list[list[Verdict]]:
    """Verdicts by the night that each is seen since; neighbouring nights together."""
    parts: list[list[Verdict]] = []
    first = 0
    for verdict in sorted(verdicts, key=lambda verdict: since(verdict, order)):
        if not parts or since(verdict, order) - first > SAME_NIGHTS:
            parts.append([])
            first = since(verdict, order)
        parts[-1].append(verdict)
    return parts


def group_moved(moved: Sequence[Verdict], judged: Sequence[Series], order: Mapping[str, int]) -> list[Group]:
    """Verdicts of one state and night, each in the widest subject of which most series moved."""
    groups, left = [], list(moved)
    for name_subject in SUBJECTS:
        parts: dict[Subject, list[Verdict]] = {}
        for verdict in left:
            parts.setdefault(name_subject(verdict.series), []).append(verdict)
        left = []
        for subject, found in parts.items():
            if name_subject is name_provider or have_most_moved(subject, found, judged):
                groups.append(make_group(subject, found, order))
            else:
                left += found
    return groups


def have_most_moved(subject: Subject, found: Sequence[Verdict], judged: Sequence[Series]) -> bool:
    """Whether a subject of several kernels or providers has moved as a whole; a machine that is slow always has."""
    if found[0].is_machine:
        return True
    kinds = {(kernel_of(verdict.series), verdict.series.provider) for verdict in found}
    return len(kinds) > 1 and len(found) > MOST_OF_THEM * sum(map(subject.holds, judged))


def make_group(subject: Subject, verdicts: Sequence[Verdict], order: Mapping[str, int]) -> Group:
    """One group, since the night that most of its verdicts name, the first of those."""
    times = Counter(verdict.since_run or verdict.run_id for verdict in verdicts)
    since_run = min(times, key=lambda run_id: (-times[run_id], order.get(run_id, -1)))
    furthest = sorted(verdicts, key=lambda verdict: -abs(verdict.relative_change or 0.0))
    return Group(subject, since_run, tuple(furthest))


def since(verdict: Verdict, order: Mapping[str, int]) -> int:
    """The place of the run that a verdict is seen since."""
    return order.get(verdict.since_run or verdict.run_id, -1)


def kernel_of(series: Series) -> str:
    """The kernel's name, with which a case's key begins."""
    return series.case_key.partition("/")[0]


def library_of(series: Series) -> str:
    """What a provider's name begins with: vllm, torch, or our own triton."""
    return series.provider.partition("-")[0]


def name_device(series: Series) -> Subject:
    return Subject(series.device_name)


def name_library(series: Series) -> Subject:
    return Subject(series.device_name, provider=library_of(series))


def name_kernel(series: Series) -> Subject:
    return Subject(series.device_name, kernel_of(series))


def name_provider(series: Series) -> Subject:
    return Subject(series.device_name, kernel_of(series), series.provider)


SUBJECTS: tuple[Callable[[Series], Subject], ...] = (name_device, name_library, name_kernel, name_provider)
"""From the widest to the narrowest."""
