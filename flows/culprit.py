"""What a bisection found, as Markdown, and its exit code."""

from dataclasses import dataclass

from dashboards.words import tell_change
from flows.pull_request import tell_interval, tell_us
from flows.report import EXIT_INCOMPLETE, EXIT_OK, EXIT_REGRESSION
from tasks.channels.markdown import code_span, table_row
from tasks.commits.bisection import Culprit
from tasks.commits.comparisons import Contrast
from tasks.naming import tell_series
from tasks.records import Series, State

UNSOUGHT = {
    State.SAME: "nothing has changed",
    State.AMBIGUOUS: "the bad commit could not be told from the good one; give more --budget",
}
"""What is said where no commit was looked for, by the state of the bad one."""


@dataclass(frozen=True, slots=True)
class Step:
    """One commit against another."""

    head: str
    """Short hash and first line."""
    base: str
    contrast: Contrast
    is_new: bool
    """Measured now, and not remembered."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a bisection found."""

    series: Series
    good: str
    """Short hash and first line."""
    bad: str
    state: State
    """Of the bad commit against the good one."""
    steps: tuple[Step, ...]
    culprit: Culprit | None = None
    """None where there was nothing to look for."""
    suspects: tuple[str, ...] = ()
    """Those of the culprit, in words."""
    evidence: Contrast | None = None
    """Of the culprit against the commit before it; None where several commits are left."""

    @property
    def is_proven(self) -> bool:
        """Whether one commit is left, and beside the one before it does what the bad one does."""
        return self.evidence is not None and self.evidence.state is self.state


def exit_code(finding: Finding) -> int:
    """What the end tells a script: 1 if the commit was found, 0 if nothing has changed, 3 if neither is sure."""
    if finding.state is State.SAME:
        return EXIT_OK
    return EXIT_REGRESSION if finding.is_proven else EXIT_INCOMPLETE


def make_markdown(finding: Finding) -> str:
    """The culprit first, then what was measured to find it."""
    lines = [
        f"## kernel-nightly: {tell_headline(finding)}",
        "",
        f"{code_span(tell_series(finding.series))}, from {code_span(finding.good)} to {code_span(finding.bad)}",
        "",
    ]
    if finding.evidence and finding.evidence.change is not None:
        change, interval = tell_change(finding.evidence.change), tell_interval(finding.evidence)
        lines += [f"Beside the commit before it its time changes by {change} ({interval}).", ""]
    if len(finding.suspects) > 1:
        lines += [*(f"- {code_span(suspect)}" for suspect in finding.suspects), ""]
    lines += [
        "| commit | against | commit us | against us | change | interval | sittings | verdict |",
        "|---|---|--:|--:|--:|--:|--:|---|",
        *(make_row(step) for step in finding.steps),
        "",
    ]
    return "\n".join(lines)


def tell_headline(finding: Finding) -> str:
    """One line."""
    if finding.culprit is None:
        return UNSOUGHT.get(finding.state, f"the bad commit is {finding.state}: there is nothing to look for")
    if len(finding.suspects) > 1:
        return f"one of {len(finding.suspects)} commits made it {finding.state}: the others could not be told"
    told = f"{code_span(finding.suspects[0])} made it {finding.state}"
    return told if finding.is_proven else f"{told}, though not beside the commit before it"


def make_row(step: Step) -> str:
    """What one comparison said."""
    contrast = step.contrast
    remembered = "" if step.is_new else " (measured before)"
    cells = [
        code_span(step.head),
        code_span(step.base),
        tell_us(contrast.head_us),
        tell_us(contrast.base_us),
        tell_change(contrast.change),
        tell_interval(contrast),
        str(contrast.num_sittings or ""),
        f"{contrast.state}{remembered} {code_span(contrast.reason)}".strip(),
    ]
    return table_row(cells)
