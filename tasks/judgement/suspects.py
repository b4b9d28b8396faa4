"""Whose times seem to have changed tonight: they are measured again the same night, before anybody is told."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, replace
from typing import Any

from tasks.judgement.findings import Finding, Past, screen_night
from tasks.records import Measurement, Suspect

MIN_NIGHTS = 3
"""Earlier nights without which a change is AMBIGUOUS: the series' own noise is not known yet."""
MOST_SUSPECTS = 200
"""Series that are measured again in one night; where more have moved together, these tell for all."""
MOST_BESIDE_EARLIER_CODE = 3
"""Suspects of one kernel and provider that are measured beside the code of before, which takes twelve turns each."""


def find_suspects(measurements: Iterable[Measurement], past: Past) -> list[Suspect]:
    """The series that are to be measured again: whose times seem to have changed, or whose change seems to be over.

    The likeliest of every kernel and provider first, then the second of each: what moved together leaves room for
    others.
    """
    found = [f for f in screen_night(list(measurements), past).values() if is_suspect(f)]
    found.sort(key=rank_suspect)
    suspects = [make_suspect(finding, past) for finding in found]
    in_turn = sorted(zip(number_by_kind(suspects), suspects, strict=True), key=lambda one: one[0])
    return [suspect for _, suspect in in_turn][:MOST_SUSPECTS]


def rank_suspect(finding: Finding) -> tuple[Any, ...]:
    """The likeliest first; last of all, what the machine did too, by what is left of it."""
    name = astuple(finding.measurement.series)
    if finding.is_machines:
        return True, round(finding.machine.move_with(finding.change) - abs(finding.change), 6), *name
    return False, float(f"{finding.p_value:.6g}"), round(-abs(finding.change), 6), *name  # whatever the unit of time


def is_suspect(finding: Finding) -> bool:
    """Whether measuring again could decide anything."""
    if finding.standing.has_moved:
        return finding.looks_over
    return finding.is_odd and finding.num_known >= MIN_NIGHTS


def make_suspect(finding: Finding, past: Past) -> Suspect:
    """What to measure again, and the last run before the change."""
    check, order = finding.measurement.check, past.order
    first = order.get(finding.standing.since_run if finding.standing.has_moved else finding.since_run, -1)
    before = [point for point in finding.nights if order[point.run_id] < first]
    good = past.runs[before[-1].run_id] if before else None
    commit = good.git_commit if good and not good.git_dirty else ""
    return Suspect(finding.measurement.series, check.case, good.run_id if good else "", commit, {}, check.config)


def spare_earlier_code(suspects: Sequence[Suspect]) -> list[Suspect]:
    """The same, without the commit of before beyond the first few of one kernel and provider."""
    return [
        suspect if number < MOST_BESIDE_EARLIER_CODE else replace(suspect, good_commit="")
        for number, suspect in zip(number_by_kind(suspects), suspects, strict=True)
    ]


def number_by_kind(suspects: Sequence[Suspect]) -> list[int]:
    """The place of each among those of its kernel and provider, from 0."""
    seen: Counter[tuple[str, str]] = Counter()
    places = []
    for suspect in suspects:
        kind = suspect.case.layer.kernel, suspect.series.provider
        places.append(seen[kind])
        seen[kind] += 1
    return places
