"""What a night says about each series: measured against its past by tasks/screening.py, and told in one sentence.

Nobody is told of a change that one night alone shows: who looks changed is measured again in the same night
(tasks/retrial.py), and what then is neither confirmed nor withdrawn is AMBIGUOUS. Over all series of a night together,
one in twenty of the changes that are told may be noise (DISCOVERY_RATE).
Source: Benjamini and Hochberg, Controlling the false discovery rate (doi:10.1111/j.2517-6161.1995.tb02031.x).
"""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from math import ceil, copysign, exp, isfinite, log1p, nextafter

import numpy as np

from tasks.history import NOTHING_SAID, Standing, adopt_gain, arrange_recent, is_time
from tasks.intervals import find_interval
from tasks.machines import MachineChange
from tasks.records import Measurement, Point, Retrial, Run, Series, State, Status, Suspect, Verdict, Version
from tasks.screening import DRIFT_GAP, DRIFT_NIGHTS, SLOW_SCALE, screen
from tasks.spreads import Flags, Floats

MIN_CHANGE = 0.02
"""Least relative change that counts; medians of separate processes on one H200 differ by up to 1.6 %."""
MIN_SLOW_CHANGE = 0.03
"""The same of what took a week or more to be told from noise: kernels wander by 2 % over weeks."""
MIN_NIGHTS = 3
"""Earlier nights without which a change is AMBIGUOUS: the series' own noise is not known yet."""
MIN_CHANGE_YOUNG = 0.05
"""Least relative change that counts until then."""
LEAST_CHANGE = nextafter(-1.0, 0.0)
"""Nothing takes no time at all, whatever is rounded."""
SUSPECT_P = 0.01
"""A series is measured again where noise alone looks like it in fewer than one of so many."""
FAR_NOISES = 6.0
"""So many times the noise, and MIN_CHANGE_YOUNG, is measured again however few nights tell what is likely."""
DISCOVERY_RATE = 0.05
"""Share of the changes told in one night that may be noise."""
OVER_NOISES, MOST_OVER = 4.0, 7
"""A change is over after (so many times the noise / the change) ** 2 nights, two of them at least, so many at most."""
MOST_SUSPECTS = 200
"""Series that are measured again in one night; where more have moved together, these tell for all."""

STATES_BY_STATUS = {
    Status.WRONG: State.WRONG,
    Status.UNSUPPORTED: State.UNSUPPORTED,
    Status.CRASHED: State.FAILED,
    Status.HUNG: State.FAILED,
    Status.OUT_OF_MEMORY: State.FAILED,
}
UNHEALTHY = (State.WRONG, State.FAILED, State.MISSING)
"""States that need no comparison of times."""


@dataclass(frozen=True, slots=True)
class Past:
    """Everything that tonight is judged by."""

    run_id: str
    """Tonight's."""
    runs: Mapping[str, Run]
    """By id, in the order in which they were started, tonight included."""
    trends: Mapping[Series, Sequence[Point]] = field(default_factory=dict)
    """Every series' nights, oldest first, tonight included."""
    standings: Mapping[Series, Standing] = field(default_factory=dict)
    expected: Collection[Series] = ()
    """Series that the last comparable run measured, or missed."""
    machines: Mapping[Series, MachineChange] = field(default_factory=dict)
    """How the machine of each series fared, where that is known."""
    retrials: Sequence[Retrial] = ()
    """What was measured again tonight."""

    @property
    def order(self) -> dict[str, int]:
        """The place of each run."""
        return {run_id: number for number, run_id in enumerate(self.runs)}


@dataclass(frozen=True, slots=True)
class Finding:
    """What the screening says of one series that was timed tonight, in relative terms."""

    measurement: Measurement
    nights: Sequence[Point]
    """Of the series, tonight last; those without a time left out."""
    standing: Standing
    num_baseline: int
    """Nights that tonight is compared with."""
    num_known: int
    """Nights that tell its noise."""
    baseline_us: float
    change: float
    low: float
    high: float
    noise: float
    """Night-to-night standard deviation."""
    p_value: float
    adjusted_p: float
    """By Benjamini and Hochberg, over the night."""
    num_nights: int
    """Nights that show the change, tonight included."""
    is_drift: bool
    relative_nights: Floats
    """[num_nights] logarithm of each night over the baseline, tonight last."""
    again: float | None
    """The same of what was measured again tonight."""
    again_us: float | None
    """Its median."""

    @property
    def is_large(self) -> bool:
        """Whether it is a change that counts."""
        is_slow = self.is_drift or self.num_nights >= SLOW_SCALE
        return abs(self.change) >= (MIN_SLOW_CHANGE if is_slow else MIN_CHANGE)

    @property
    def looks_changed(self) -> bool:
        """Whether it is a change that counts, and unlikely to be noise or too far from it to be passed over."""
        is_far = abs(self.change) >= max(MIN_CHANGE_YOUNG, FAR_NOISES * self.noise)
        return self.is_large and not self.is_blurred and (self.p_value < SUSPECT_P or is_far)

    @property
    def is_blurred(self) -> bool:
        """Whether tonight alone shows it, and within what tonight's own median is unsure of."""
        half_width = find_interval(self.measurement).relative_half_width
        return self.num_nights == 1 and isfinite(half_width) and abs(self.change) <= half_width

    @property
    def is_confirmed(self) -> bool | None:
        """Whether measuring again said the same as tonight; None if it was not measured again."""
        if self.again is None:
            return None
        if self.standing.has_moved:
            return is_back(self.again, self.standing.moved_by) is self.looks_over
        return not is_back(self.again, self.change)

    @property
    def looks_over(self) -> bool:
        """Whether a change that stood was not seen tonight."""
        return self.standing.has_moved and is_back(float(self.relative_nights[-1]), self.standing.moved_by)

    @property
    def is_over(self) -> bool:
        """Whether it was not seen twice in a row, the last two nights or tonight and tonight again; of a small change
        of a noisy series, over more nights together."""
        if not self.standing.has_moved:
            return False
        draws = self.relative_nights if self.again is None else np.append(self.relative_nights, self.again)
        stood = self.standing.moved_by
        needed = min(MOST_OVER, max(2, ceil((OVER_NOISES * self.noise / log1p(max(abs(stood), MIN_CHANGE))) ** 2)))
        return all(is_back(float(one), stood) for one in (*draws[-2:], np.median(draws[-needed:])))

    @property
    def since_run(self) -> str:
        """The run that shows the change first: where the last nights are best split into those before it and since; of
        a drift, the one after those that it is told against."""
        if self.is_drift:
            return self.nights[-min(len(self.nights), DRIFT_NIGHTS + DRIFT_GAP)].run_id
        values = self.relative_nights[-(self.num_nights + 2) :]
        without, with_it = np.abs(values), np.abs(values - log1p(self.change))
        costs = [without[:split].sum() + with_it[split:].sum() for split in range(len(values))]
        return self.nights[len(self.nights) - len(values) + int(np.argmin(costs))].run_id


def is_back(relative: float, change: float) -> bool:
    """Whether a night, as logarithm over the baseline, is nearer to it than to a change that counts."""
    least = max(abs(log1p(change)), log1p(MIN_CHANGE))
    return copysign(1.0, change) * relative < 0.5 * least


def judge_night(measurements: Iterable[Measurement], past: Past) -> list[Verdict]:
    """One verdict per series measured in this run, and MISSING for each series that is absent though it is expected."""
    measured = list(measurements)
    findings = screen_night(measured, past)
    verdicts = []
    for measurement in measured:
        finding = findings.get(measurement.series)
        verdicts.append(judge_times(finding, past) if finding else judge_status(measurement, past))
    accepted = {s for s, told in past.standings.items() if told.state is State.MISSING and told.is_accepted}
    missing = set(past.expected) - accepted - {verdict.series for verdict in verdicts}
    return verdicts + [judge_missing(series, past) for series in sorted(missing, key=astuple)]


def find_suspects(measurements: Iterable[Measurement], past: Past) -> list[Suspect]:
    """The series that are to be measured again, the likeliest first: those whose times seem to have changed, and those
    whose change seems to be over."""
    found = [f for f in screen_night(list(measurements), past).values() if is_suspect(f)]
    found.sort(key=lambda finding: (finding.p_value, -abs(finding.change), astuple(finding.measurement.series)))
    return [make_suspect(finding, past) for finding in found[:MOST_SUSPECTS]]


def is_suspect(finding: Finding) -> bool:
    """Whether measuring again could decide anything."""
    if finding.standing.has_moved:
        return finding.looks_over
    return finding.looks_changed and finding.num_known >= MIN_NIGHTS


def make_suspect(finding: Finding, past: Past) -> Suspect:
    """What to measure again, and the last run before the change."""
    check, order = finding.measurement.check, past.order
    first = order.get(finding.standing.since_run if finding.standing.has_moved else finding.since_run, -1)
    before = [point for point in finding.nights if order[point.run_id] < first]
    good = past.runs[before[-1].run_id] if before else None
    commit = good.git_commit if good and not good.git_dirty else ""
    return Suspect(finding.measurement.series, check.case, good.run_id if good else "", commit, {}, check.config)


def screen_night(measurements: Sequence[Measurement], past: Past) -> dict[Series, Finding]:
    """What the times of tonight are, beside those of earlier nights."""
    by_series = {m.series: m for m in measurements if is_time(m.median_us)}
    series = [one for one in by_series if past.trends.get(one)]
    if not series:
        return {}
    timed, order, again = [by_series[one] for one in series], past.order, find_again(past.retrials)
    trends = [[point for point in past.trends[one] if is_time(point.median_us)] for one in series]
    standings = [
        adopt_gain(past.standings.get(one, NOTHING_SAID).when_timed, nights, order)
        for one, nights in zip(series, trends, strict=True)
    ]
    again_us = [again.get(one) for one in series]
    recent = arrange_recent(trends, series, standings, again_us, order)
    screened = screen(recent)
    kinds = [(m.check.case.layer.kernel, m.check.provider) for m in timed]
    adjusted = adjust_for_many(screened.p_value, recent.changed == recent.values.shape[1], kinds)
    findings = {}
    for row, measurement in enumerate(timed):
        if not screened.num_baseline[row]:
            continue
        findings[series[row]] = Finding(
            measurement=measurement,
            nights=trends[row],
            standing=standings[row],
            num_baseline=int(screened.num_baseline[row]),
            num_known=int(screened.num_known[row]),
            baseline_us=exp(screened.level[row]),
            change=max(float(np.expm1(screened.change[row])), LEAST_CHANGE),
            low=float(np.expm1(screened.low[row])),
            high=float(np.expm1(screened.high[row])),
            noise=float(screened.noise[row]),
            p_value=float(screened.p_value[row]),
            adjusted_p=float(adjusted[row]),
            num_nights=int(screened.num_nights[row]),
            is_drift=bool(screened.is_drift[row]),
            relative_nights=screened.nights[row, -min(len(trends[row]), screened.nights.shape[1]) :],
            again=float(screened.again[row]) if again_us[row] else None,
            again_us=again_us[row],
        )
    return findings


def adjust_for_many(p_values: Floats, searched: Flags, groups: Sequence[Hashable]) -> Floats:
    """Each p-value as it counts among all that are searched tonight; those of changes that stand stay as they are.

    Benjamini and Hochberg's, where what moved in one group counts as one discovery: a library that slows down a hundred
    series does not let five by that moved by chance.
    """
    adjusted, chosen = p_values.copy(), np.flatnonzero(searched)
    ordered = chosen[np.argsort(p_values[chosen], kind="stable")]
    ranks = np.array([len(chosen)] * len(ordered), dtype=np.float64)
    seen: set[Hashable] = set()
    for place, row in enumerate(ordered):
        seen.add(groups[row])
        ranks[place] = len(seen)
    scaled = p_values[ordered] * len(ordered) / ranks
    adjusted[ordered] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted


def find_again(retrials: Iterable[Retrial]) -> dict[Series, float]:
    """The medians of tonight's version, measured again."""
    tonight = (r.measurement for r in retrials if r.version is Version.TONIGHT)
    return {m.series: m.median_us for m in tonight if is_time(m.median_us)}


def judge_status(measurement: Measurement, past: Past) -> Verdict:
    """The verdict of a series without a time, or without an earlier night to compare it with."""
    series, told = measurement.series, past.standings.get(measurement.series, NOTHING_SAID)
    median_us = measurement.median_us
    if is_time(median_us):
        since_when = f" since the baseline of run {told.baseline_run}" if told.baseline_run else ""
        evidence = f"first night{since_when}: {median_us:.1f} us"
        return Verdict(past.run_id, series, State.NEW, evidence, median_us, baseline_run=told.baseline_run)
    state = STATES_BY_STATUS.get(measurement.status, State.FAILED)
    reason = measurement.check.reason or f"its median of {median_us} us is no time"
    evidence = f"{measurement.status}: {reason}"
    timed = past.trends.get(series, ())
    was_dropped = told.state is State.UNSUPPORTED or (told.state is State.MISSING and told.is_accepted)
    if state is State.UNSUPPORTED and timed and not was_dropped:
        state = State.MISSING
        evidence = f"timed on {len(timed)} earlier nights, now unsupported: {measurement.check.reason}"
    return note_since(Verdict(past.run_id, series, state, evidence, baseline_run=told.baseline_run), told)


def judge_missing(series: Series, past: Past) -> Verdict:
    """The verdict of a series that should have been measured and was not."""
    told = past.standings.get(series, NOTHING_SAID)
    evidence = "measured in the last comparable run, absent now"
    if told.state is State.MISSING and told.since_run:
        evidence = f"absent since run {told.since_run}"
    return note_since(Verdict(past.run_id, series, State.MISSING, evidence, baseline_run=told.baseline_run), told)


def note_since(verdict: Verdict, told: Standing) -> Verdict:
    """With the first run that said the same, if it is something somebody should look at."""
    if verdict.state not in UNHEALTHY:
        return verdict
    return replace(verdict, since_run=(told.state is verdict.state and told.since_run) or verdict.run_id)


def judge_times(finding: Finding, past: Past) -> Verdict:
    """The verdict of a series that was timed tonight and before."""
    machine = past.machines.get(finding.measurement.series)
    state, reason = decide(finding, machine)
    if state in (State.SLOW, State.FAST):
        since_run = finding.standing.since_run if finding.standing.has_moved else finding.since_run
    else:
        since_run = ""
    return Verdict(
        run_id=past.run_id,
        series=finding.measurement.series,
        state=state,
        evidence=tell_times(finding, reason),
        median_us=finding.measurement.median_us,
        baseline_us=finding.baseline_us,
        relative_change=finding.change,
        low=finding.low if isfinite(finding.low) else None,
        high=finding.high if isfinite(finding.high) else None,
        p_value=finding.p_value,
        since_run=since_run,
        baseline_run=finding.standing.baseline_run,
        is_confirmed=finding.is_confirmed,
        is_machine=bool(machine and is_blamed_on_machine(finding, machine, state)),
    )


def decide(finding: Finding, machine: MachineChange | None) -> tuple[State, str]:
    """The state of a series, and what is to be said besides the figures."""
    moved = State.SLOW if finding.change > 0 else State.FAST
    if finding.standing.has_moved and finding.standing.state:
        if finding.is_over:
            return State.SAME, f"{finding.standing.state} no longer"
        return finding.standing.state, f"as it has been since run {finding.standing.since_run}"
    if finding.num_known < MIN_NIGHTS:
        if abs(finding.change) < MIN_CHANGE_YOUNG:
            return State.SAME, ""
        return State.AMBIGUOUS, f"fewer than {MIN_NIGHTS} earlier nights tell its noise"
    if finding.is_confirmed is False:
        return State.SAME, "not seen again when measured again"
    if not finding.looks_changed:
        return State.SAME, ""
    if finding.adjusted_p > DISCOVERY_RATE:
        return State.AMBIGUOUS, "not yet told from noise"
    if machine and machine.explains(finding.change):
        return State.AMBIGUOUS, f"the machine moved too: {machine.told}"
    if is_back(float(finding.relative_nights[-1]), finding.change):
        return State.AMBIGUOUS, "not seen tonight"
    if finding.again_us is None and finding.num_nights < 2:
        return State.AMBIGUOUS, "not measured again"
    return moved, ""


def is_blamed_on_machine(finding: Finding, machine: MachineChange, state: State) -> bool:
    """Whether what is AMBIGUOUS is no noise, and the machine moved with it."""
    is_no_noise = finding.num_known >= MIN_NIGHTS and finding.adjusted_p <= DISCOVERY_RATE
    return state is State.AMBIGUOUS and is_no_noise and machine.explains(finding.change)


def tell_times(finding: Finding, reason: str) -> str:
    """What was measured, against what, how sure that is; one sentence."""
    nights = "one earlier night" if finding.num_baseline == 1 else f"{finding.num_baseline} earlier nights"
    told = [f"{finding.measurement.median_us:.1f} us"]
    if finding.again_us is not None:
        told.append(f"{finding.again_us:.1f} us when measured again")
    if finding.is_drift:
        told.append("a drift over weeks")
    elif finding.num_nights > 1:
        told.append(f"over {finding.num_nights} nights")
    against = f"against {finding.baseline_us:.1f} us of {nights} with a noise of {finding.noise:.1%}"
    change = f"{finding.change:+z.1%}, 95 % interval {finding.low:+z.1%} to {finding.high:+z.1%}"
    sentence = f"{', '.join(told)}, {against}: {change}"
    return f"{sentence}; {reason}" if reason else sentence
