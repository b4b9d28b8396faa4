"""What happened to a series: the regimes of its times, and what changed around it on the way."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tasks.judgement.changes import ANOTHER_CARD, COUNTED, MACHINE_CODE, differences, flatten, host_facts
from tasks.judgement.histories import Histories, History, Integers, Setting
from tasks.judgement.history import Mark
from tasks.records import Run
from tasks.statistics import changepoint

LETTERS = {"version": "V", "config": "C", "source": "S", "machine": "M", "acknowledged": "A"}
"""How each kind of event is marked in the charts."""
NOT_AN_EVENT = (ANOTHER_CARD, "CPUs", "commit", "uncommitted edits")
"""What differs between nights all the time, and alone is no event; a commit is one where it changed the source."""
MOST_EVENTS = 40
"""Of the newest, on one page."""


@dataclass(frozen=True, slots=True)
class Regime:
    """Nights of one level."""

    first: int
    """Row of the history, as the next."""
    last: int
    median_us: float
    relative_change: float | None
    """Against the regime before; None of the first."""
    p_value: float | None
    kind: str
    """"step", or "recent" where only the last few nights are of it; "" of the first."""


@dataclass(frozen=True, slots=True)
class Event:
    """What changed around a series between two of its nights."""

    row: int
    """Of the history: the first night with it."""
    kind: str
    """One of LETTERS."""
    what: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """The two sides of a change point."""

    before: str
    """Run, as the next."""
    after: str
    differing: tuple[tuple[str, str, str], ...]
    """What, before, after."""
    same: tuple[str, ...]
    """What is known of both sides and is the same."""


def find_regimes(history: History) -> tuple[Regime, ...]:
    """The regimes of a history, at least one."""
    changes = changepoint.find_changes(history.median_us.tolist())
    bounds = [0, *(change.index for change in changes), len(history)]
    regimes = []
    for number, (first, end) in enumerate(pairwise(bounds)):
        change = changes[number - 1] if number else None
        regimes.append(
            Regime(
                first=first,
                last=end - 1,
                median_us=float(np.median(history.median_us[first:end])),
                relative_change=change.relative_change if change else None,
                p_value=change.p_value if change else None,
                kind=str(change.kind) if change else "",
            )
        )
    return tuple(regimes)


def number_kinds(histories: Histories) -> Integers:
    """A number for each setting, the same where only the card or the machine's CPUs differ."""
    kinds: dict[object, int] = {}
    numbers = []
    for setting in histories.settings:
        host = histories.hosts.get(setting.host_id)
        facts = host_facts(host) if host else {}
        kept = tuple(value for name, value in facts.items() if name not in NOT_AN_EVENT)
        numbers.append(kinds.setdefault((kept, setting.config, setting.source_sha256, setting.compiled), len(kinds)))
    return np.array(numbers, dtype=np.int64)


def tell_setting(setting: Setting, run: Run, histories: Histories) -> dict[str, str]:
    """Everything that is known of where a night's time came from; what nobody noted is left out."""
    host = histories.hosts.get(setting.host_id)
    facts = {"commit": run.git_commit, "uncommitted edits": "yes" if run.git_dirty else "no"}
    facts |= host_facts(host) if host else {}
    facts |= {"source": setting.source_sha256}
    facts |= {name.replace(".", " ", 1): value for name, value in flatten("config", json.loads(setting.config))}
    compiled = json.loads(setting.compiled)
    facts |= {MACHINE_CODE: ", ".join(kernel["sha256"][:12] for kernel in compiled)}
    for kernel in compiled:
        facts |= {f"{kernel['name']} {told}": str(kernel[field]) for field, told in COUNTED.items()}
    return {name: value for name, value in facts.items() if value}


def find_events(history: History, histories: Histories, kinds: Integers, marks: Sequence[Mark]) -> tuple[Event, ...]:
    """What changed between each night and the one before, and what people said, the newest MOST_EVENTS."""
    of_nights = kinds[history.settings]
    events = []
    for row in np.flatnonzero(of_nights[1:] != of_nights[:-1])[-MOST_EVENTS:] + 1:
        before, after = (_tell_night(history, int(night), histories) for night in (row - 1, row))
        events += [Event(int(row), *told) for told in tell_differences(before, after)]
    places = {histories.runs[night].run_id: row for row, night in enumerate(history.nights)}
    for mark in marks:
        if mark.first_run in places:
            events.append(Event(places[mark.first_run], "acknowledged", f"{mark.reason} ({mark.made_by})"))
    return tuple(sorted(events, key=lambda event: event.row)[-MOST_EVENTS:])


def tell_differences(before: Mapping[str, str], after: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Kind and words of each difference; many options of one configuration are one."""
    found: dict[str, list[str]] = {}
    for what, was, now in differences(before, after):
        if what in NOT_AN_EVENT:
            continue
        is_machine = what == MACHINE_CODE or what.endswith(tuple(COUNTED.values()))
        first = what.partition(" ")[0]
        kind = first if first in ("config", "source") else "machine" if is_machine else "version"
        change = f"{what} {shorten(was) or 'none'} \N{RIGHTWARDS ARROW} {shorten(now) or 'none'}"
        if kind == "source" and before.get("commit") != after.get("commit"):
            commits = (shorten(side.get("commit", "")) for side in (before, after))
            change += ", commit " + " \N{RIGHTWARDS ARROW} ".join(commits)
        found.setdefault(kind, []).append(change)
    return [(kind, "; ".join(changes)) for kind, changes in found.items()]


def find_provenance(regimes: Sequence[Regime], history: History, histories: Histories) -> tuple[Provenance, ...]:
    """What differs between the last night before each change point and the first after it."""
    found = []
    for regime in regimes[1:]:
        rows = regime.first - 1, regime.first
        before, after = (_tell_night(history, row, histories) for row in rows)
        runs = [histories.runs[history.nights[row]].run_id for row in rows]
        told = tuple((what, shorten(was), shorten(now)) for what, was, now in differences(before, after))
        same = tuple(name for name in before if before[name] == after.get(name))
        found.append(Provenance(runs[0], runs[1], told, same))
    return tuple(found)


def _tell_night(history: History, row: int, histories: Histories) -> dict[str, str]:
    return tell_setting(histories.settings[history.settings[row]], histories.runs[history.nights[row]], histories)


def shorten(value: str) -> str:
    """A digest or a UUID by its start."""
    digits = value.removeprefix("GPU-").replace("-", "")
    is_digest = len(digits) >= 32 and all(digit in "0123456789abcdef" for digit in digits)
    return value[:12] if is_digest else value
