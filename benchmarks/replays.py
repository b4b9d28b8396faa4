"""Judges every night of a made-up history (histories.py) as the nightly run does, and holds what was told against the
truth."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
from histories import REFERENCES, Event, Floats, History

from kernels.spec import Device
from tasks.judgement.findings import Past
from tasks.judgement.groups import Group
from tasks.judgement.history import Mark, find_standings
from tasks.judgement.incidents import FollowUp, Incident, Kind, follow_up
from tasks.judgement.reference_histories import ReferenceHistories, ReferenceKey, arrange_references
from tasks.judgement.suspects import find_suspects, spare_earlier_code
from tasks.judgement.verdicts import judge_night
from tasks.records import (
    Check,
    Host,
    Measurement,
    Point,
    Retrial,
    Run,
    Series,
    State,
    Status,
    Suspect,
    Verdict,
    Version,
)
from tasks.statistics.screening import NUM_NIGHTS

H200 = Device("cuda", "NVIDIA H200", (9, 0))
STARTED = datetime(2026, 1, 1, 2, 0, tzinfo=UTC)
KEPT_NIGHTS = 2 * NUM_NIGHTS
"""Nights of a series that are kept, for speed: more than are looked at."""
TRUTH_NIGHTS = ((3, 0), (10, 3), (20, 6), (45, 0), (60, 28))
"""A change is true if the state differs from its median over some nights before it: a few, many, or those that a drift
is told against."""
OTHER_CHANGE = 0.005
"""From one night to the next, of the kernel itself: what is less is no step."""
ENDED_BY_WORD = (State.SLOW, State.FAST, State.MISSING)
"""Incidents that are over once a person expects them, as in flows/answers.py."""
DIRECTIONS = {State.SLOW: 1, State.FAST: -1}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one night said."""

    number: int
    """Of the night in the history."""
    verdicts: tuple[Verdict, ...]
    follow_up: FollowUp
    standing: tuple[Incident, ...]
    """Incidents that are not over after it."""


def replay(history: History, acknowledge_after: int | None = 7, first: int = 0) -> Iterator[Outcome]:
    """Every night that was run, one after the other.

    Args:
        acknowledge_after: nights after which a person expects an incident that still stands; None for never.
        first: number of the first night that is judged; nothing is told of those before, for speed.
    """
    names = name_series(history)
    hosts = [make_host(number) for number in range(int(history.cards.max()) + 1)]
    trends: dict[Series, list[Point]] = {}
    runs: dict[str, Run] = {}
    latest: dict[Series, Verdict] = {}
    marks: list[Mark] = []
    standing: dict[str, Incident] = {}
    opened: dict[str, int] = {}
    expected: list[Series] = []
    for number in np.flatnonzero(history.is_run).tolist():
        run = make_run(number)
        measurements = measure_night(history, number, history.values[number], names, hosts)
        order = {run_id: place for place, run_id in enumerate([*runs, run.run_id])}
        runs[run.run_id] = run
        for one, measurement in measurements.items():
            median, uuid = measurement.samples_us[0], hosts[history.cards[number, names[one]]].device_uuid
            point = Point(run.run_id, run.started_at, median, median, median, device_uuid=uuid)
            trends[one] = [*trends.get(one, [])[-KEPT_NIGHTS:], point]
        if number < first:
            continue
        past = Past(
            run_id=run.run_id,
            runs=dict(runs),
            trends=trends,
            standings=find_standings(latest.values(), marks, order),
            expected=expected,
            references=time_references(history, number),
        )
        suspects = spare_earlier_code(find_suspects(measurements.values(), past))
        retrials = measure_again(history, number, suspects, names, hosts)
        verdicts = judge_night(measurements.values(), replace(past, retrials=retrials))
        followed = follow_up(list(standing.values()), verdicts, run, order, run.started_at, find_no_causes)
        for incident in followed.incidents:
            standing[incident.incident_id] = incident
            opened.setdefault(incident.incident_id, len(runs))
            if incident.resolved_run:
                del standing[incident.incident_id]
        latest |= {verdict.series: verdict for verdict in verdicts}
        yield Outcome(number, tuple(verdicts), followed, tuple(standing.values()))
        for incident in list(standing.values()):
            nights_open = len(runs) - opened[incident.incident_id]
            if acknowledge_after is not None and incident.is_open and nights_open >= acknowledge_after:
                standing[incident.incident_id] = replace(incident, acknowledgement="expected")
                if incident.state in ENDED_BY_WORD:
                    del standing[incident.incident_id]
                    since = incident.since_run
                    marks += [Mark(one, since, run.run_id, "expected", "me") for one in incident.series]
        expected = [verdict.series for verdict in verdicts]


def find_no_causes(_group: Group) -> tuple[str, ...]:
    """Nothing is known of what else changed."""
    return ()


def name_series(history: History) -> dict[Series, int]:
    """Every series and its number."""
    told = zip(history.cases, history.providers, history.timers, strict=True)
    return {Series(c.key, p, t, H200.name): number for number, (c, p, t) in enumerate(told)}


def make_host(card: int) -> Host:
    """The host with one card in it."""
    return Host(f"host-{card}", H200, f"GPU-{card}", "580.1", "13.0", "3.11.2", "2.11.0", "3.6.0", "0.26.0", 16)


def make_run(number: int) -> Run:
    """One night's run."""
    started_at = STARTED + timedelta(days=number)
    return Run(f"night-{number:03}", "nightly-h200", {"device": "cuda"}, 7, f"{number:040x}", False, started_at)


def measure_night(
    history: History, number: int, values: Floats, names: Mapping[Series, int], hosts: Sequence[Host]
) -> dict[Series, Measurement]:
    """What the series took on one night, by their names.

    Args:
        values: [num_series] logarithms.
    """
    run = make_run(number)
    found = {}
    for one, row in names.items():
        if np.isfinite(values[row]):
            host = hosts[history.cards[number, row]]
            check = Check(history.cases[row], one.provider, Status.OK, host.host_id)
            median_us = float(np.exp(values[row]))
            found[one] = Measurement(run.run_id, check, one.timer, host.device, run.started_at, (median_us,))
    return found


def measure_again(
    history: History, number: int, suspects: Sequence[Suspect], names: Mapping[Series, int], hosts: Sequence[Host]
) -> list[Retrial]:
    """Suspects in another process of the same night, some of them in turn with the code of the last good run."""
    again = measure_night(history, number, history.again[number], {s.series: names[s.series] for s in suspects}, hosts)
    retrials = [Retrial(measurement, Version.TONIGHT) for measurement in again.values()]
    for suspect in suspects:
        if suspect.good_commit:
            row, good = names[suspect.series], int(suspect.good_run.removeprefix("night-"))
            since = history.code[number] - history.code[good]
            previous = measure_night(history, number, history.beside[number] - since, {suspect.series: row}, hosts)
            retrials += [Retrial(one, Version.PREVIOUS_CODE, suspect.good_run) for one in previous.values()]
    return retrials


@cache
def list_beside(history: History) -> list[tuple[str, str, int]]:
    """What the reference kernels are timed beside: cases and timers, each with a series of it."""
    told = enumerate(zip(history.cases, history.timers, strict=True))
    found = {(case.key, timer): row for row, (case, timer) in told}
    return [(case_key, timer, row) for (case_key, timer), row in found.items()]


def time_references(history: History, number: int) -> ReferenceHistories:
    """The reference kernels beside each case, tonight and in the runs before."""
    run = np.flatnonzero(history.is_run[: number + 1])
    nights, first = run[-KEPT_NIGHTS:], max(0, len(run) - KEPT_NIGHTS)
    beside = list_beside(history)
    rows = [row for _, _, row in beside for _ in REFERENCES]
    keys = [ReferenceKey(H200.name, case_key, timer, name) for case_key, timer, _ in beside for name in REFERENCES]
    which = np.tile(np.arange(len(REFERENCES)), len(beside))
    values = history.references[nights[:, None], history.units[rows], which].T
    return arrange_references(keys, first + np.arange(len(nights)), values, history.cards[nights][:, rows].T)


@dataclass(slots=True)
class Score:
    """What was told over all nights, beside the truth."""

    history: History
    told: np.ndarray
    """[num_nights, num_series] 1 where an incident holds the series as slower, -1 as faster, else 0."""
    opened: list[tuple[int, Incident, bool]]
    """Night, incident and whether it is true of every incident of times."""
    repeated: list[str]
    """Series and nights of what was opened again within a week after it was opened."""
    num_alerts: dict[Kind, int]
    num_machine: int = 0
    """Incidents that blame the machine."""
    withdrawn: int = 0
    """Verdicts that took back a true change, on its first three nights."""
    confirmed: int = 0
    """Those that confirmed one."""
    num_runs: int = 0

    @property
    def false(self) -> list[tuple[int, Incident]]:
        """Incidents without a true change behind half of their series."""
        return [(number, incident) for number, incident, is_true in self.opened if not is_true]

    @property
    def false_a_week(self) -> float:
        """False incidents in seven nights, as there would be of 2,000 series: each is of few series, so that there are
        as many times more of them as there are series."""
        return len(self.false) / self.num_runs * 7 * 2000 / len(self.history.cases)


def score_replay(history: History, outcomes: Iterator[Outcome]) -> Score:
    """Hold every night against the truth."""
    names = name_series(history)
    score = Score(history, np.zeros(history.state.shape, dtype=np.int8), [], [], dict.fromkeys(Kind, 0))
    last_opened: dict[tuple[Series, State], int] = {}
    for outcome in outcomes:
        score.num_runs += 1
        night = outcome.number
        verdicts = {verdict.series: verdict for verdict in outcome.verdicts}
        for alert in outcome.follow_up.alerts:
            score.num_alerts[alert.kind] += 1
            incident = alert.incident
            if alert.kind is not Kind.OPENED:
                continue
            score.num_machine += incident.state is State.AMBIGUOUS
            if incident.state not in DIRECTIONS:
                continue
            true = [is_true(history, night, names[one], verdicts[one]) for one in incident.series]
            score.opened.append((night, incident, 2 * sum(true) >= len(true)))
            for one in incident.series:
                if night - last_opened.get((one, incident.state), -99) <= 7:
                    score.repeated.append(f"{one.case_key} {one.provider} {one.timer} {night}")
                last_opened[one, incident.state] = night
        for incident in outcome.standing:
            if incident.state in DIRECTIONS:
                score.told[night, [names[one] for one in incident.series]] = DIRECTIONS[incident.state]
        count_confirmations(score, night, outcome.verdicts, names)
    return score


def is_true(history: History, night: int, row: int, verdict: Verdict) -> bool:
    """Whether the kernel itself has moved in that direction since the nights before, by a quarter of what is said."""
    since = int((verdict.since_run or verdict.run_id).removeprefix("night-"))
    least = max(0.005, 0.25 * abs(verdict.relative_change or 0.0))
    for first, last in TRUTH_NIGHTS:
        before = history.state[max(0, since - first) : max(0, since - last), row]
        if len(before) and (history.state[night, row] - np.median(before)) * DIRECTIONS[verdict.state] >= least:
            return True
    return False


def count_confirmations(score: Score, night: int, verdicts: Sequence[Verdict], names: Mapping[Series, int]) -> None:
    """Add what was measured again on the first nights of a step."""
    begun = {
        int(row)
        for event in score.history.events
        if is_step(event) and 0 <= night - event.first < 3
        for row in event.rows
    }
    for verdict in verdicts:
        if verdict.is_confirmed is not None and names[verdict.series] in begun:
            score.confirmed += verdict.is_confirmed
            score.withdrawn += not verdict.is_confirmed


def is_step(event: Event) -> bool:
    return event.kind == "step"


def find_delays(score: Score, events: Sequence[Event], wait: int = 60) -> list[int | None]:
    """Nights until each event of one series is told, itself included: 1 for the first; None if it never is.

    What was told of the series before it began is left out, and a step that is not the only change of those nights.
    """
    delays = []
    for event in events:
        row, direction = event.rows[0], 1 if event.size > 0 else -1
        if is_step(event) and not is_alone(score.history, event):
            continue
        nights = np.flatnonzero(np.isfinite(score.history.values[:, row]))
        if score.told[nights[nights < event.first][-1], row] == direction:
            continue
        during = nights[(nights >= event.first) & (nights < min(event.last, event.first + wait))]
        seen = np.flatnonzero(score.told[during, row] == direction)
        delays.append(int(seen[0]) + 1 if len(seen) else None)
    return delays


def is_alone(history: History, event: Event) -> bool:
    """Whether nothing else befell the series in the ten nights before a step and the three that it has to be told."""
    nights = slice(max(0, event.first - 10), event.first + 3)
    state = (history.state + history.drivers)[nights, event.rows[0]]
    state[event.first - nights.start :] -= np.log1p(event.size)
    return bool((np.abs(np.diff(state)) < OTHER_CHANGE).all())


def share_within(delays: Sequence[int | None], nights: int) -> float:
    """Of events, those that are told within so many nights."""
    return sum(delay is not None and delay <= nights for delay in delays) / max(1, len(delays))
