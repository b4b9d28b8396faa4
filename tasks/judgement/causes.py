"""Why a group of series moved: what else changed in the night since which it did, the likeliest first."""

import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from math import log

from tasks.intervals import Interval
from tasks.judgement.changes import MACHINE_CODE, Change, find_changes, pair_series
from tasks.nights import Night
from tasks.records import Measurement, Retrial, Series, Status, Verdict, Version
from tasks.turns import find_retrial_ratio

MOST_CAUSES = 8
"""Causes that are told of one group."""
NO_CAUSE = ("status", "argument device", "suite", "seed", "devices")
"""What differs between two runs and moves no kernel."""
LIKELIEST = ("driver", "CUDA", "torch", "triton", "vLLM", "config", "source", MACHINE_CODE, "commit")
"""Whatever is not among these comes last."""
NOUNS = {Version.PREVIOUS_CODE: "code", Version.LAST_GOOD_CONFIG: "config"}
"""What would be to blame where a version is as fast as before."""


def find_causes(older: Night, newer: Night, series: Collection[Series]) -> list[str]:
    """What differs between the last run before a change and the first with it, of the series that it concerns.

    Returns:
        A line each; that nothing differs is one too.
    """
    before, after = narrow(older, series), narrow(newer, series)
    changes = [c for c in find_changes(before, after) if not c.what.startswith(NO_CAUSE)]
    changes.sort(key=lambda change: (rank(change), -change.num_series))
    lines = [tell_change(change, series) for change in changes]
    if not any(change.what == MACHINE_CODE for change in changes) and has_machine_code(before, after):
        lines.append("the same machine code as before")
    if not lines:
        return [f"nothing that was noted differs from run {older.run.run_id}"]
    left_out = len(lines) - MOST_CAUSES
    return lines[:MOST_CAUSES] + ([f"and {left_out} more: kernel-nightly changes"] if left_out > 0 else [])


def narrow(night: Night, series: Collection[Series]) -> Night:
    """A night with only some of its series, and the hosts that they ran on."""
    wanted = set(series)
    measurements = tuple(m for m in night.measurements if m.series in wanted)
    host_ids = {m.check.host_id for m in measurements}
    hosts = tuple(host for host in night.hosts if host.host_id in host_ids)
    receipts = tuple(receipt for receipt in night.receipts if receipt.host_id in host_ids)
    return replace(night, measurements=measurements, hosts=hosts, receipts=receipts)


def rank(change: Change) -> int:
    """The likeliest causes first."""
    kinds = [place for place, what in enumerate(LIKELIEST) if change.what.startswith(what)]
    return kinds[0] if kinds else len(LIKELIEST)


def tell_change(change: Change, series: Collection[Series]) -> str:
    """E.g. "triton 3.6.0 -> 3.7.1", or "fused_moe triton: config num_warps 4 -> 8 (3 of 12 series)"."""
    is_of_all = change.subject in ("run", *(one.device_name for one in series))
    told = change.what if is_of_all else f"{change.subject}: {change.what}"
    if change.before or change.after:  # of several cards there is neither
        told += f" {shorten(change.before)} -> {shorten(change.after)}"
    return told if change.num_series >= len(series) else f"{told} ({change.num_series} of {len(series)} series)"


def shorten(value: str) -> str:
    """Digests by their first digits; what there was not, by a word."""
    is_digest = len(value) in (40, 64) and all(digit in "0123456789abcdef" for digit in value)
    return value[:12] if is_digest else value or "none"


def has_machine_code(older: Night, newer: Night) -> bool:
    """Whether both runs noted the compiled kernels of a series that both timed."""

    def noted(measurement: Measurement | None) -> bool:
        return measurement is not None and measurement.status is Status.OK and bool(measurement.check.compiled)

    return any(noted(pair.older) and noted(pair.newer) for pair in pair_series(older, newer))


def tell_retrials(retrials: Iterable[Retrial], verdicts: Iterable[Verdict]) -> list[str]:
    """What another version says that was measured beside tonight's: whether it is as slow too.

    Args:
        retrials: of the night.
        verdicts: of the series that moved.
    """
    of_series: dict[Series, list[Retrial]] = {}
    for retrial in retrials:
        of_series.setdefault(retrial.measurement.series, []).append(retrial)
    moved = [v for v in verdicts if v.series in of_series and v.relative_change]
    lines = []
    for version in (Version.PREVIOUS_CODE, Version.LAST_GOOD_CONFIG):
        ratios = [
            (ratio, v.relative_change or 0.0)
            for v in moved
            if (ratio := find_retrial_ratio(of_series[v.series], version)) is not None
        ]
        if ratios:
            lines.append(tell_version(version, ratios))
    return lines


def tell_version(version: Version, ratios: Sequence[tuple[Interval, float]]) -> str:
    """One line about a version, from the ratio tonight / version of each series and how far the series has moved.

    It is to blame where more than half of the move is not there in that version, with all of the interval on its side.
    """
    differs = [log(r.median) / log(1 + moved) >= 0.5 and (r.low > 1 or r.high < 1) for r, moved in ratios]
    is_same = [log(r.median) / log(1 + moved) < 0.5 for r, moved in ratios]
    middle = statistics.median(ratio.median for ratio, _ in ratios)
    beside = f"tonight's takes {middle:.3f} times as long as the {version}, measured beside it"
    if sum(differs) * 2 > len(ratios):
        return f"{beside} ({sum(differs)} of {len(ratios)} series): the {NOUNS[version]} is to blame"
    if sum(is_same) * 2 > len(ratios):
        return f"{beside} ({sum(is_same)} of {len(ratios)} series): not the {NOUNS[version]}"
    return f"{beside} ({len(ratios)} series): no answer"
