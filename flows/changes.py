"""What differs between two runs, as a person reads it in a terminal."""

import re
from collections.abc import Iterator, Sequence

from rich.console import Console

from dashboards.words import tell_change, tell_figure
from tasks.errors import UsageError
from tasks.judgement.changes import (
    ANOTHER_CARD,
    COUNTED,
    Change,
    Pair,
    TimeRatios,
    count_alone,
    find_changes,
    find_most_moved,
    find_run_before,
    has_sources,
    pair_series,
    summarize_times,
)
from tasks.lines import print_line
from tasks.nights import Night
from tasks.storage.store import Store

DIGEST = re.compile(r"\b[0-9a-f]{40,64}\b")
DIGITS_SHOWN = 8
NUM_MOVED = 5
"""Series that are told one by one: those whose times moved most."""


def read_nights(store: Store, run_ids: Sequence[str]) -> tuple[Night, Night]:
    """Two runs by their ids, the older first.

    Of one id, or of the newest run that has ended where there is none, the older is the one of its suite before it.

    Raises:
        StoreError: there is no such run.
        UsageError: there is nothing before it, both are the same, or there are more than two.
    """
    if len(run_ids) > 2:
        raise UsageError(f"two runs are compared, not {len(run_ids)}; name the older and the newer")
    newer = store.find_run(run_ids[-1] if run_ids else "")
    older = store.find_run(run_ids[0]) if len(run_ids) == 2 else find_run_before(store.runs(), newer)
    if older.run_id == newer.run_id:
        raise UsageError(f"{newer.run_id} is the older and the newer run: name another (all: kernel-nightly list runs)")
    return store.night(older.run_id), store.night(newer.run_id)


def print_changes(console: Console, older: Night, newer: Night) -> None:
    """Print both runs, a line per change, which series only one has, how all times moved, and which moved most."""
    for label, night in (("older", older), ("newer", newer)):
        run = night.run
        commit = f"{run.git_commit[:DIGITS_SHOWN] or 'no commit'}{'+' * run.git_dirty}"
        print_line(console, f"{label}: run {run.run_id}, suite {run.suite}, {commit}, {run.status}")
    changes = find_changes(older, newer)
    for line in change_lines(changes):
        print_line(console, line)
    if not changes:
        print_line(console, "nothing that both runs noted differs")
    for night in (older, newer):
        if not has_sources(night):
            print_line(console, f"not compared: run {night.run.run_id} did not note sources and machine code")
    pairs = pair_series(older, newer)
    for number, age in zip(count_alone(pairs), ("older", "newer"), strict=True):
        if number:
            print_line(console, f"{number} series only in the {age} run")
    print_line(console, f"all series: {tell_times(summarize_times(pairs)) or 'none was timed in both runs'}")
    for line in moved_lines(pairs):
        print_line(console, line)


def moved_lines(pairs: Sequence[Pair]) -> list[str]:
    """The series whose times moved most: "  +4.6% fused_moe Mixtral-8x7B TP2 fp8 M=16, triton, graph: 20 -> 21 us"."""
    several = len({pair.series.device_name for pair in pairs}) > 1
    lines = []
    for pair in find_most_moved(pairs, NUM_MOVED):
        change = tell_change(pair.ratio - 1 if pair.ratio else None)
        if pair.older and pair.newer and change != tell_change(0.0):
            series, case = pair.series, pair.newer.check.case
            what = f"{case.layer.kernel} {case.label}, {series.provider}, {series.timer}"
            where = f" on {series.device_name}" if several else ""
            times = f"{tell_figure(pair.older.median_us)} -> {tell_figure(pair.newer.median_us)} us"
            lines.append(f"  {change} {what}{where}: {times}")
    return lines


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
    """What changed, digests shortened; a count has its unit after it, and of several cards it is enough to say so."""
    if change.what == ANOTHER_CARD and not (change.before or change.after):
        return change.what
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
