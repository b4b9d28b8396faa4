"""A comparison as the text of a pull request: GitHub-flavoured Markdown, and the exit code that goes with it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from dashboards.words import tell_change
from flows.artifacts import show_text
from flows.report import EXIT_INCOMPLETE, EXIT_OK, EXIT_REGRESSION
from tasks.channels.files import write_whole
from tasks.channels.markdown import append_text, code_span, table_row
from tasks.commits.archive import PACKAGES
from tasks.commits.comparisons import REGRESSIONS, Comparison, Contrast
from tasks.commits.paired import CONFIDENCE, FALSE_ALARMS
from tasks.commits.refs import SHORT, find_merge_base, have_same_code, tell_commit
from tasks.comparison_session import Outcome
from tasks.lines import print_line
from tasks.records import State

MOST_ROWS = 200
"""Of one table: a comment of GitHub's holds 65,536 characters."""
QUIET = (State.SAME, State.UNSUPPORTED)
"""States whose rows are folded, or left out."""
ORDER = (*REGRESSIONS, State.AMBIGUOUS, State.FAST, State.NEW, *QUIET)
"""Of the rows: what somebody should look at comes first."""


def exit_code(outcome: Outcome) -> int:
    """What a comparison's end tells a script: 1 if anything is worse on the head, 3 if not all could be compared."""
    if any(contrast.is_regression for contrast in outcome.contrasts):
        return EXIT_REGRESSION
    was_compared = any(contrast.num_sittings for contrast in outcome.contrasts)
    has_failed = any(contrast.state not in QUIET for contrast in outcome.contrasts)
    is_whole = outcome.comparison.status == "complete" and (was_compared or not has_failed)
    return EXIT_OK if is_whole else EXIT_INCOMPLETE


def deliver(text: str, description: str, console: Console, file: Path | None, environ: Mapping[str, str]) -> None:
    """Print a Markdown text, and write it where it was asked for: to the page of Prefect's run, to a file, and to the
    summary of a job of GitHub Actions.

    Raises:
        ChannelError: it cannot be written there.
    """
    print_line(console, text)
    show_text(text, description)
    if file:
        write_whole(file, text, "--markdown")
    if environ.get("GITHUB_STEP_SUMMARY"):
        append_text(environ, text)


def make_markdown(outcome: Outcome) -> str:
    """What a branch changes: first the rows that somebody should read, the others folded."""
    comparison, contrasts = outcome.comparison, outcome.contrasts
    counts = Counter(contrast.state for contrast in contrasts)
    summary = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state]) or "nothing was measured"
    lines = [f"## kernel-nightly: {code_span(comparison.head)} against {code_span(comparison.base)}: {summary}", ""]
    if comparison.status != "complete":
        lines += [f"The comparison ended as **{comparison.status}**: what is missing was not measured.", ""]
    told = [contrast for contrast in contrasts if contrast.state not in QUIET]
    shown = sorted(told, key=lambda contrast: (ORDER.index(contrast.state), -abs(contrast.change or 0)))
    same = [contrast for contrast in contrasts if contrast.state is State.SAME]
    lines += make_table(shown, comparison)
    if same:
        lines += [f"<details><summary>{len(same)} SAME</summary>", "", *make_table(same, comparison), "</details>", ""]
    lines += make_notes(outcome)
    return "\n".join(lines)


def make_table(contrasts: Sequence[Contrast], comparison: Comparison) -> list[str]:
    """One row per series; nothing if there are none."""
    if not contrasts:
        return []
    sides = f"{code_span(comparison.base)} us | {code_span(comparison.head)} us"
    lines = [
        f"| kernel, case | provider, timer | {sides} | change | {CONFIDENCE:.0%} interval | sittings | verdict |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    lines += [make_row(contrast) for contrast in contrasts[:MOST_ROWS]]
    left = len(contrasts) - MOST_ROWS
    return [*lines, "", *([f"and {left} more", ""] if left > 0 else [])]


def make_row(contrast: Contrast) -> str:
    """Series, times, change and verdict of one contrast."""
    series, case = contrast.series, contrast.case
    verdict = f"**{contrast.state}**" if contrast.is_regression else str(contrast.state)
    cells = [
        f"{case.layer.kernel} {code_span(case.label)}",
        f"{series.provider}, {series.timer}",
        tell_us(contrast.base_us),
        tell_us(contrast.head_us),
        tell_change(contrast.change),
        tell_interval(contrast),
        str(contrast.num_sittings or ""),
        f"{verdict} {code_span(contrast.reason)}".strip(),
    ]
    return table_row(cells)


def tell_interval(contrast: Contrast) -> str:
    """From where to where the change may be; nothing where one sitting alone tells of it."""
    return f"{tell_change(contrast.low)} to {tell_change(contrast.high)}" if contrast.num_sittings > 1 else ""


def tell_us(median_us: float | None) -> str:
    """Microseconds, or nothing."""
    return f"{median_us:.1f}" if median_us is not None else ""


def make_notes(outcome: Outcome) -> list[str]:
    """Which commits, where, how much work, and how to read it."""
    comparison = outcome.comparison
    devices = ", ".join(sorted({contrast.series.device_name for contrast in outcome.contrasts})) or "no device"
    head, base = tell_commit(comparison.head_commit), tell_commit(comparison.base_commit)
    where = f"on {code_span(devices)}, seed {comparison.seed}"
    work = f"{outcome.sittings} sittings, {outcome.seconds:.0f} s in all"
    excluded, rarity = f"{comparison.least_change:.0%}", f"{FALSE_ALARMS:.0%}"
    lines = [
        f"{code_span(head)} against {code_span(base)} {where}: {work}. "
        "In a sitting a fresh process of each commit takes turns on one device (A B B A).",
        "",
        f"SAME: the interval leaves out a change of {excluded}. SLOW, FAST: not noise; fewer than {rarity} of such "
        "comparisons of equal code would show any. AMBIGUOUS: the time was up before either was shown.",
        "",
    ]
    if have_same_code(comparison.base_commit, comparison.head_commit):
        lines += [f"Both run the same code: nothing of {' and '.join(PACKAGES)} differs between them.", ""]
    common = find_merge_base(comparison.base_commit, comparison.head_commit)
    if common and common != comparison.base_commit:
        lines += [
            f"{code_span(comparison.base)} has commits that {code_span(comparison.head)} lacks, which count too; "
            f"`--base {common[:SHORT]}` is where the two part.",
            "",
        ]
    return lines
