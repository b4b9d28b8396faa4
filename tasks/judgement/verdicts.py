"""What a night says about each series: measured against its past by tasks/statistics/, and told in one sentence.

Nobody is told of a change that one night alone shows: who looks changed is measured again in the same night
(tasks/retrial.py), and what then is neither confirmed nor withdrawn is AMBIGUOUS.
"""

from collections.abc import Iterable
from dataclasses import astuple, replace
from math import isfinite

from tasks.judgement.findings import DISCOVERY_RATE, MIN_CHANGE_YOUNG, Finding, Past, is_back, screen_night
from tasks.judgement.history import NOTHING_SAID, Standing, is_time
from tasks.judgement.suspects import MIN_NIGHTS
from tasks.records import Measurement, Series, State, Status, Verdict

STATES_BY_STATUS = {
    Status.WRONG: State.WRONG,
    Status.UNSUPPORTED: State.UNSUPPORTED,
    Status.CRASHED: State.FAILED,
    Status.HUNG: State.FAILED,
    Status.OUT_OF_MEMORY: State.FAILED,
}
UNHEALTHY = (State.WRONG, State.FAILED, State.MISSING)
"""States that need no comparison of times."""


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
    state, reason = decide(finding)
    is_machine = is_blamed_on_machine(finding, state)
    if state in (State.SLOW, State.FAST):
        since_run = finding.standing.since_run if finding.standing.has_moved else finding.since_run
    else:
        since_run = find_machine_since(finding, past) if is_machine else ""
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
        is_machine=is_machine,
    )


def decide(finding: Finding) -> tuple[State, str]:
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
    if not finding.looks_changed and not finding.is_proved:
        return State.SAME, ""
    if finding.adjusted_p > DISCOVERY_RATE and not finding.is_proved:
        return State.AMBIGUOUS, "not yet told from noise"
    if finding.is_machines:
        return State.AMBIGUOUS, f"the machine moved too: {finding.machine.told}"
    if is_back(float(finding.relative_nights[-1]), finding.change):
        return State.AMBIGUOUS, "not seen tonight"
    if finding.mistaken > DISCOVERY_RATE:
        return State.AMBIGUOUS, "not yet known which of its two times it took, and so which way it moved"
    if finding.is_proved:
        return moved, "the version of before, in turn with it, does without the change"
    if finding.retried.again_us is None and finding.num_nights < 2:
        return State.AMBIGUOUS, "not measured again"
    return moved, ""


def is_blamed_on_machine(finding: Finding, state: State) -> bool:
    """Whether what is AMBIGUOUS is no noise, and the machine moved with it."""
    is_no_noise = finding.num_known >= MIN_NIGHTS and finding.adjusted_p <= DISCOVERY_RATE
    return state is State.AMBIGUOUS and is_no_noise and finding.is_machines


def find_machine_since(finding: Finding, past: Past) -> str:
    """The run since which the machine is as it is, by the reference kernel that moved furthest.

    By its clock alone it is that of the last verdict, if that said so too, or else tonight.
    """
    told, since = finding.standing, finding.machine.find_since(finding.sure_change)
    if since is not None:
        return list(past.runs)[since]
    was_so = told.state is State.AMBIGUOUS and (told.relative_change or 0.0) * finding.change > 0
    return (was_so and told.since_run) or past.run_id


def tell_times(finding: Finding, reason: str) -> str:
    """What was measured, against what, how sure that is; one sentence."""
    nights = "one earlier night" if finding.num_baseline == 1 else f"{finding.num_baseline} earlier nights"
    told = [f"{finding.measurement.median_us:.1f} us"]
    if finding.retried.again_us is not None:
        told.append(f"{finding.retried.again_us:.1f} us when measured again")
    if finding.is_drift:
        told.append("a drift over weeks")
    elif finding.num_nights > 1:
        told.append(f"over {finding.num_nights} nights")
    against = f"against {finding.baseline_us:.1f} us of {nights} with a noise of {finding.noise:.1%}"
    if finding.other:
        against += f", or {finding.other:+z.1%}, process by process"
    change = f"{finding.change:+z.1%}, 95 % interval {finding.low:+z.1%} to {finding.high:+z.1%}"
    sentence = f"{', '.join(told)}, {against}: {change}"
    return f"{sentence}; {reason}" if reason else sentence
