"""What the times of a night are beside those of earlier nights, series by series, in relative terms.

Over all series of a night together, one in twenty of the changes that are told may be noise (DISCOVERY_RATE): what is
too small to be told, the machine's, or was not seen again lends no other change its credit.
Source: Benjamini and Hochberg, Controlling the false discovery rate (doi:10.1111/j.2517-6161.1995.tb02031.x).
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, copysign, exp, isfinite, log1p, nextafter

import numpy as np

from tasks.intervals import find_interval
from tasks.judgement.history import (
    NOT_RETRIED,
    NOTHING_SAID,
    Retried,
    Standing,
    adopt_gain,
    arrange_recent,
    find_retried,
    is_time,
)
from tasks.judgement.machines import Clock, MachineChange
from tasks.judgement.reference_histories import Compared, ReferenceHistories
from tasks.records import Measurement, Point, Retrial, Run, Series
from tasks.statistics.screening import BASELINE_NIGHTS, DRIFT_GAP, DRIFT_NIGHTS, MIN_CHANGE, find_least_change, screen
from tasks.statistics.spreads import Flags, Floats

MIN_CHANGE_YOUNG = 0.05
"""Least relative change that counts until then."""
LEAST_CHANGE = nextafter(-1.0, 0.0)
"""Nothing takes no time at all, whatever is rounded."""
LEAST_SURE = 1e-9
"""Of a change that may be none, which still has a direction."""
CHANGED_P = 0.01
"""A series looks changed where noise alone looks like it in fewer than one of so many."""
SUSPECT_P = 0.05
"""A series is measured again where noise alone looks like it in fewer than one of so many."""
FAR_NOISES = 6.0
"""So many times the noise, and MIN_CHANGE_YOUNG, is measured again however few nights tell what is likely."""
DISCOVERY_RATE = 0.05
"""Share of the changes told in one night that may be noise."""
OVER_NOISES, MOST_OVER = 4.0, 7
"""A change is over after (so many times the noise / the change) ** 2 nights, two of them at least, so many at most."""


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
    references: ReferenceHistories = field(default_factory=ReferenceHistories)
    """What the reference kernels took in the runs up to tonight; runs are numbered as in `order`."""
    clocks: Mapping[Series, Clock] = field(default_factory=dict)
    """Tonight's, where they are known."""
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
    machine: MachineChange
    """Over the same nights."""
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
    """By Benjamini and Hochberg, over the night: among what could be told, or else among all."""
    num_nights: int
    """Nights that show the change, tonight included."""
    is_drift: bool
    relative_nights: Floats
    """[num_nights] logarithm of each night over the baseline, tonight last."""
    again: float | None
    """The same of what was measured again tonight."""
    other: float
    """By how much the other of two times that it takes, process by process, is longer; 0 if it takes one."""
    mistaken: float
    """How many times as likely as the change it is that it took the other time, and moved the other way."""
    retried: Retried
    """What that took."""
    adjusted_beside: float
    """How likely it is that noise alone sets one of those apart from the version of before that were tried so, or lets
    one of all series look like this now and then: that is no fresh evidence, since they were picked for it."""

    @property
    def is_large(self) -> bool:
        """Whether it is a change that counts."""
        return abs(self.change) >= find_least_change(self.num_nights, self.is_drift)

    @property
    def may_be_told(self) -> bool:
        """Whether nothing but noise could explain it."""
        is_seen = not is_back(float(self.relative_nights[-1]), self.change)
        is_one_way = self.mistaken <= DISCOVERY_RATE
        return self.is_large and is_seen and is_one_way and self.is_confirmed is not False and not self.is_machines

    @property
    def looks_changed(self) -> bool:
        """Whether it is a change that counts, and unlikely to be noise or too far from it to be passed over."""
        return self.is_likelier_than(CHANGED_P)

    @property
    def is_odd(self) -> bool:
        """Whether it may be one: enough of it to measure again."""
        return self.is_likelier_than(SUSPECT_P)

    def is_likelier_than(self, p_value: float) -> bool:
        """Whether it is a change that counts, and noise looks like it in fewer than one of so many."""
        is_far = abs(self.change) >= max(MIN_CHANGE_YOUNG, FAR_NOISES * self.noise)
        return self.is_large and not self.is_blurred and (self.p_value < p_value or is_far)

    @property
    def sure_change(self) -> float:
        """What it has moved by at least: the end of its interval that is nearer to none."""
        return max(self.low, LEAST_SURE) if self.change > 0 else min(self.high, -LEAST_SURE)

    @property
    def is_machines(self) -> bool:
        """Whether the machine explains what is sure of it, or what of that is not the other of two times."""
        sure = self.sure_change
        rests = (sure, (1 + sure) / (1 + self.other) - 1, (1 + sure) * (1 + self.other) - 1)
        return any(self.machine.explains(rest) for rest in (rests if self.other else rests[:1]))

    @property
    def is_blurred(self) -> bool:
        """Whether tonight alone shows it, and within what tonight's own median is unsure of."""
        half_width = find_interval(self.measurement).relative_half_width
        return self.num_nights == 1 and isfinite(half_width) and abs(self.change) <= half_width

    @property
    def is_proved(self) -> bool:
        """Whether the version of before, in turn with tonight's, does without most of it, and that counts.

        Of a series with few nights nobody knows whether it takes one of two times, process by process.
        """
        towards = copysign(1.0, self.change) * (self.retried.beside or 0.0)
        is_sure = self.adjusted_beside <= DISCOVERY_RATE and self.num_known >= BASELINE_NIGHTS
        least = max(log1p(MIN_CHANGE), 0.5 * abs(log1p(self.change)))
        return self.is_odd and is_sure and towards >= least and self.retried.of_run == self.last_run_before

    @property
    def last_run_before(self) -> str:
        """The last run that measured the series before the change; "" if none did."""
        runs = ["", *(night.run_id for night in self.nights)]
        return runs[runs.index(self.since_run) - 1]

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


def screen_night(measurements: Sequence[Measurement], past: Past) -> dict[Series, Finding]:
    """What the times of tonight are, beside those of earlier nights."""
    by_series = {m.series: m for m in measurements if is_time(m.median_us)}
    known = {one: [point for point in past.trends.get(one, ()) if is_time(point.median_us)] for one in by_series}
    series, trends = [one for one in by_series if known[one]], [nights for nights in known.values() if nights]
    if not series:
        return {}
    timed, order, retried = [by_series[one] for one in series], past.order, find_retried(past.retrials)
    standings = [
        adopt_gain(past.standings.get(one, NOTHING_SAID).when_timed, nights, order)
        for one, nights in zip(series, trends, strict=True)
    ]
    recent = arrange_recent(trends, series, standings, retried, order, past.references.moves)
    screened = screen(recent)
    kinds = [(m.check.case.layer.kernel, m.check.provider) for m in timed]
    searched = recent.changed == recent.values.shape[1]
    adjusted = adjust_for_many(screened.p_value, searched, searched, kinds)
    num_beside = np.isfinite(recent.beside).sum()
    runs = np.where(np.isfinite(recent.values), recent.runs, -1)
    compared = Compared(runs, screened.before, screened.since, np.isfinite(screened.again))
    moves = past.references.find_moves(series, compared)
    findings = {}
    for row, measurement in enumerate(timed):
        if not screened.num_baseline[row]:
            continue
        findings[row] = Finding(
            measurement=measurement,
            nights=trends[row],
            machine=MachineChange(measurement.device.type, moves[row], past.clocks.get(series[row])),
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
            again=float(screened.again[row]) if np.isfinite(screened.again[row]) else None,
            other=float(np.expm1(screened.other[row])),
            mistaken=float(screened.mistaken[row]),
            retried=retried.get(series[row], NOT_RETRIED),
            adjusted_beside=float(screened.p_beside[row] * num_beside + screened.chance[row] * len(timed)),
        )
    return {series[row]: one for row, one in credit_told(findings, screened.p_value, searched, kinds).items()}


def credit_told(
    findings: Mapping[int, Finding], p_values: Floats, searched: Flags, kinds: Sequence[Hashable]
) -> dict[int, Finding]:
    """The findings, by row, with the p-values of those that could be told adjusted among them alone."""
    told = np.zeros(len(p_values), dtype=bool)
    likely = np.flatnonzero(searched & (p_values <= DISCOVERY_RATE)).tolist()
    told[[row for row in likely if row in findings and findings[row].may_be_told]] = True
    adjusted = adjust_for_many(p_values, searched, told, kinds)
    return {
        row: replace(finding, adjusted_p=float(adjusted[row])) if told[row] else finding
        for row, finding in findings.items()
    }


def adjust_for_many(p_values: Floats, searched: Flags, counted: Flags, groups: Sequence[Hashable]) -> Floats:
    """Each p-value that is counted as it counts among all that are searched tonight; the others stay as they are.

    Benjamini and Hochberg's, where what moved in one group counts as one discovery: a library that slows down a hundred
    series does not let five by that moved by chance.
    """
    adjusted, chosen = p_values.copy(), np.flatnonzero(counted)
    ordered = chosen[np.argsort(p_values[chosen], kind="stable")]
    ranks = np.zeros(len(ordered))
    seen: set[Hashable] = set()
    for place, row in enumerate(ordered):
        seen.add(groups[row])
        ranks[place] = len(seen)
    scaled = p_values[ordered] * searched.sum() / ranks
    adjusted[ordered] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted
