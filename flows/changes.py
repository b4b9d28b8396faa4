"""What differs between two runs, as a person reads it in a terminal."""

import re
from collections.abc import Iterator, Sequence

from rich.console import Console

from dashboards.words import tell_change
from tasks.changes import (
    COUNTED,
    Change,
    TimeRatios,
    find_changes,
    find_run_before,
    has_sources,
    pair_series,
    summarize_times,
)
from tasks.errors import UsageError
from tasks.records import Night
from tasks.store import Store

DIGEST = re.compile(r"\b[0-9a-f]{40,64}\b")
DIGITS_SHOWN = 8


def read_nights(store: Store, older_id: str, newer_id: str) -> tuple[Night, Night]:
    """Two runs by their ids; by default the newest that has ended, and the one of its suite before it.

    Raises:
        StoreError: there is no such run.
        UsageError: there is nothing before it, or both are the same.
    """
    newer = store.find_run(newer_id)
    older = store.find_run(older_id) if older_id else find_run_before(store.runs(), newer)
    if older.run_id == newer.run_id:
        raise UsageError(f"{newer.run_id} is the older and the newer run: name another (all: kernel-nightly list runs)")
    return store.night(older.run_id), store.night(newer.run_id)


def print_changes(console: Console, older: Night, newer: Night) -> None:
    """Print both runs, a line per change, and how all times moved."""
    for label, night in (("older", older), ("newer", newer)):
        run = night.run
        commit = f"{run.git_commit[:DIGITS_SHOWN] or 'no commit'}{'+' * run.git_dirty}"
        tell(console, f"{label}: run {run.run_id}, suite {run.suite}, {commit}, {run.status}")
    changes = find_changes(older, newer)
    for line in change_lines(changes):
        tell(console, line)
    if not changes:
        tell(console, "nothing that both runs noted differs")
    for night in (older, newer):
        if not has_sources(night):
            tell(console, f"not compared: run {night.run.run_id} did not note sources and machine code")
    tell(
        console,
        f"all series: {tell_times(summarize_times(pair_series(older, newer))) or 'none was timed in both runs'}",
    )


def tell(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def change_lines(changes: Sequence[Change]) -> list[str]:
    """One line per subject and set of series: "gemm_kernel: 40 -> 48 registers, machine code 12 -> 34 (15 series)"."""
    lines = []
    for group in changes_together(changes):
        first = group[0]
        told = ", ".join(map(tell_difference, group))
        series = f"{first.num_series} series"
        if first.times and first.times.num_series != first.num_series:
            series += f", {first.times.num_series} timed in both"
        times = tell_times(first.times)
        lines.append(f"{first.subject}: {told} ({series}{times and f'; {times}'})")
    return lines


def changes_together(changes: Sequence[Change]) -> Iterator[list[Change]]:
    """Consecutive changes of one subject and, as far as is known, of the same series."""
    group: list[Change] = []
    for change in changes:
        same = group and (change.subject, change.num_series, change.times) == (
            group[0].subject,
            group[0].num_series,
            group[0].times,
        )
        if not same or change.what in {earlier.what for earlier in group}:
            if group:
                yield group
            group = []
        group.append(change)
    if group:
        yield group


def tell_difference(change: Change) -> str:
    """What changed, digests shortened; a count has its unit after it."""
    before, after = (
        DIGEST.sub(lambda found: found[0][:DIGITS_SHOWN], side) or "none" for side in (change.before, change.after)
    )
    if change.what in COUNTED.values():
        return f"{before} -> {after} {change.what}"
    return f"{change.what} {before} -> {after}"


def tell_times(times: TimeRatios | None) -> str:
    """The median change of time and its range, "" if nothing was timed in both runs."""
    if times is None:
        return ""
    middle, lowest, highest = (tell_change(ratio - 1) for ratio in (times.median, times.lowest, times.highest))
    return f"times {middle}" if times.num_series == 1 else f"times {middle} ({lowest} to {highest})"
