"""What a night says about series, on nights clear enough to know the answer, one night or many in a row."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from math import inf, isfinite, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pasts import NOISY, QUIET, SERIES, find_one, make_past, make_references, number_nights
from records import make_case, make_measurement, make_points, make_retrial, make_run, make_series

from tasks.judgement.findings import Past
from tasks.judgement.history import Mark, Standing, find_standings
from tasks.judgement.machines import Clock
from tasks.judgement.suspects import find_suspects
from tasks.judgement.verdicts import STATES_BY_STATUS, judge_night
from tasks.records import Measurement, Retrial, Series, State, Status, Verdict, Version


def judge_one(
    medians_us: Sequence[float],
    again_us: float | None = None,
    standing: Standing | None = None,
    moved: Mapping[str, float] | None = None,
    clock: Clock | None = None,
) -> Verdict:
    tonight, past = make_past(medians_us, again_us, standing, moved, clock)
    [verdict] = judge_night([tonight], past)
    return verdict


def live_through(
    medians_us: Sequence[float | None], again_us: Mapping[int, float] | None = None, marks: Sequence[Mark] = ()
) -> list[Verdict]:
    """The verdict of every night of one series, each made with those before it.

    Args:
        medians_us: None for a night without the series.
        again_us: by night, what measuring again gave; a mark counts from the night after its run on.
    """
    runs = number_nights(len(medians_us))
    order = {run_id: number for number, run_id in enumerate(runs)}
    points = [
        None if us is None else point
        for us, point in zip(medians_us, make_points([us or 1.0 for us in medians_us]), strict=True)
    ]
    told: list[Verdict] = []
    for night, us in enumerate(medians_us):
        run_id = f"night-{night}"
        measured = [] if us is None else [make_measurement(run_id, samples_us=(us,))]
        past = Past(
            run_id=run_id,
            runs=runs,
            trends={SERIES: [point for point in points[: night + 1] if point]},
            standings=find_standings(told, [mark for mark in marks if order[mark.first_run] < night], order),
            expected=(SERIES,) if told and told[-1].run_id == f"night-{night - 1}" else (),
            retrials=[make_retrial(measured[0], again_us[night])] if again_us and night in again_us else [],
        )
        told += judge_night(measured, past)
    return told


def states_of(verdicts: Sequence[Verdict]) -> list[str]:
    return [str(verdict.state) for verdict in verdicts]


# One night


def test_the_first_night_is_new() -> None:
    verdict = judge_one([38.04])
    assert (verdict.state, verdict.evidence, verdict.median_us) == (State.NEW, "first night: 38.0 us", 38.04)
    assert (verdict.baseline_us, verdict.relative_change, verdict.p_value) == (None, None, None)


@pytest.mark.parametrize(
    ("medians_us", "state"),
    [
        pytest.param((100.0, 100.0), State.SAME, id="the second night may already be the same"),
        pytest.param((100.0, 200.0), State.AMBIGUOUS, id="twice as slow after one night is not known to be slow"),
        pytest.param((100.0, 100.0, 50.0), State.AMBIGUOUS, id="nor is twice as fast after two nights fast"),
        pytest.param((*QUIET, 100.1), State.SAME, id="a night like those before"),
        pytest.param((*QUIET, 101.0), State.SAME, id="a change too small to count"),
        pytest.param((*NOISY, 104.0), State.SAME, id="a noisy history hides a change of its own size"),
        pytest.param((*QUIET, 130.0), State.AMBIGUOUS, id="one night alone is not known to be slow"),
        pytest.param((*QUIET, 70.0), State.AMBIGUOUS, id="one night alone is not known to be fast"),
        pytest.param((*QUIET, 500.0, *QUIET), State.SAME, id="one odd night of before does not move the baseline"),
        pytest.param((*QUIET, 130.0, 130.1, 129.9), State.SLOW, id="three slow nights are slow"),
        pytest.param((*QUIET, 70.0, 70.1, 69.9), State.FAST, id="three fast nights are fast"),
    ],
)
def test_times_are_judged_by_the_nights_before(medians_us: tuple[float, ...], state: State) -> None:
    assert judge_one(medians_us).state is state


@pytest.mark.parametrize(("tonight_us", "state"), [(120.0, State.SLOW), (80.0, State.FAST)])
def test_a_suspect_that_is_the_same_when_measured_again_is_confirmed(tonight_us: float, state: State) -> None:
    verdict = judge_one((*QUIET, tonight_us), again_us=tonight_us)
    assert (verdict.state, verdict.is_confirmed, verdict.since_run) == (state, True, "night-12")
    assert verdict.relative_change == pytest.approx(tonight_us / 100 - 1, abs=0.005)
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low < verdict.relative_change < verdict.high


@pytest.mark.parametrize("tonight_us", [120.0, 80.0])
def test_a_suspect_that_is_as_before_when_measured_again_is_withdrawn(tonight_us: float) -> None:
    verdict = judge_one((*QUIET, tonight_us), again_us=100.1)
    assert (verdict.state, verdict.is_confirmed, verdict.since_run) == (State.SAME, False, "")
    assert verdict.evidence.endswith("; not seen again when measured again")


def test_a_suspect_that_was_not_measured_again_is_ambiguous_and_says_why() -> None:
    verdict = judge_one((*QUIET, 120.0))
    assert (verdict.state, verdict.is_confirmed, verdict.since_run) == (State.AMBIGUOUS, None, "")
    assert verdict.evidence.endswith("; not measured again")


@pytest.mark.parametrize("other", [Version.PREVIOUS_CODE, Version.LAST_GOOD_CONFIG])
def test_what_the_version_of_before_does_without_is_told_before_the_nights_prove_it(other: Version) -> None:
    tonight, past = make_past((*NOISY, *NOISY, 111.0), again_us=110.5)
    likes = [make_measurement(past.run_id, make_case(tokens), samples_us=(100.0,)) for tokens in range(100, 400)]
    own = [(*NOISY[n % 15 :], *NOISY, *NOISY[: n % 15], 100.0) for n in range(300)]
    past = replace(
        past, trends={**past.trends, **{m.series: make_points(one) for m, one in zip(likes, own, strict=True)}}
    )
    assert judge_night([tonight, *likes], past)[0].state is State.AMBIGUOUS
    for before_us, of_run, state in (
        (98.0, "night-29", State.SLOW),
        (110.0, "night-29", State.AMBIGUOUS),
        (98.0, "night-20", State.AMBIGUOUS),  # older code: that is another change
    ):
        beside = replace(past, retrials=[*past.retrials, make_retrial(tonight, before_us, other, of_run)])
        verdict = judge_night([tonight, *likes], beside)[0]
        assert verdict.state is state
        is_told = verdict.evidence.endswith("; the version of before, in turn with it, does without the change")
        assert is_told is (state is State.SLOW)


@pytest.mark.parametrize(
    ("tonight_us", "before_us", "state"),
    [
        pytest.param(111.0, 100.0, State.SLOW, id="the code of before does without it"),
        pytest.param(111.0, 106.5, State.AMBIGUOUS, id="but for a third of it"),
        pytest.param(103.0, 100.0, State.AMBIGUOUS, id="tonight does, too"),
    ],
)
def test_the_version_of_before_proves_what_it_does_without_and_tonight_does_not(
    tonight_us: float, before_us: float, state: State
) -> None:
    slow = (111.0,) if tonight_us < 105.0 else ()
    tonight, past = make_past((*NOISY, *NOISY, *slow, tonight_us), again_us=110.5)
    likes = [make_measurement(past.run_id, make_case(tokens), samples_us=(100.0,)) for tokens in range(100, 400)]
    nights = len(NOISY) * 2 + len(slow)
    own = [(*NOISY[n % 15 :], *NOISY, *NOISY, *NOISY[: n % 15])[-nights:] for n in range(300)]
    trends = {m.series: make_points((*one, 100.0)) for m, one in zip(likes, own, strict=True)}
    beside = make_retrial(tonight, before_us, Version.PREVIOUS_CODE, f"night-{len(NOISY) * 2 - 1}")
    past = replace(past, trends={**past.trends, **trends}, retrials=[*past.retrials, beside])
    assert judge_night([tonight, *likes], past)[0].state is state


def test_only_tonights_version_confirms() -> None:
    tonight, past = make_past((*QUIET, 120.0))
    others = [make_retrial(tonight, 120.0, v) for v in (Version.LAST_GOOD_CONFIG, Version.PREVIOUS_CODE)]
    [verdict] = judge_night([tonight], replace(past, retrials=others))
    assert (verdict.state, verdict.is_confirmed) == (State.AMBIGUOUS, None)


def test_the_evidence_holds_the_numbers_of_the_verdict_in_one_sentence() -> None:
    verdict = judge_one((*QUIET, 120.0), again_us=120.4)
    assert verdict.baseline_us == pytest.approx(100.0, abs=0.05)
    assert verdict.evidence.startswith("120.0 us, 120.4 us when measured again, against 100.0 us of 12 earlier nights")
    assert (
        f"{verdict.relative_change:+.1%}, 95 % interval {verdict.low:+.1%} to {verdict.high:+.1%}" in verdict.evidence
    )
    assert "\n" not in verdict.evidence
    assert "-0.0%" not in judge_one((*QUIET, 99.999)).evidence


@pytest.mark.parametrize(
    ("tonight_us", "again_us", "state"),
    [
        pytest.param(108.0, 100.0, State.SAME, id="either time is as ever"),
        pytest.param(105.0, 113.4, State.SLOW, id="either time is slower"),
        pytest.param(102.6, 95.0, State.FAST, id="either time is faster"),
        pytest.param(105.0, 108.0, State.SAME, id="not seen again by the process that took the other time"),
    ],
)
def test_a_kernel_that_takes_one_of_two_times_is_judged_by_either(
    tonight_us: float, again_us: float, state: State
) -> None:
    nights = [us * factor for us, factor in zip(QUIET * 3, [1.0, 1.0, 1.08] * len(QUIET), strict=True)]
    verdict = judge_one((*nights, tonight_us), again_us=again_us)
    assert verdict.state is state
    assert ", or +7.7%, process by process: " in verdict.evidence


def test_which_way_a_kernel_moved_is_not_told_while_it_may_have_taken_the_other_time() -> None:
    nights = [us * factor for us, factor in zip(QUIET * 3, [1.0, 1.0, 1.08] * len(QUIET), strict=True)]
    either = judge_one((*nights, 104.2), again_us=104.0)  # 4 % slower than the one, 3.6 % faster than the other
    assert either.state is State.AMBIGUOUS
    assert either.evidence.endswith("; not yet known which of its two times it took, and so which way it moved")
    assert judge_one((*nights, 104.2, 104.1), again_us=112.4).state is State.SLOW  # 4 % slower than either
    assert judge_one((*nights, 104.2, 104.1, 104.0, 104.2), again_us=104.1).state is State.SLOW  # hardly the rarer


@pytest.mark.parametrize(
    ("moved", "clock", "state"),
    [
        pytest.param({"copy": 0.2}, None, State.AMBIGUOUS, id="a reference kernel was as slow"),
        pytest.param({"copy": 0.0, "gemm": 0.2}, None, State.AMBIGUOUS, id="one of two was"),
        pytest.param({}, Clock(1600.0, 1980.0), State.AMBIGUOUS, id="the clock was low"),
        pytest.param({}, Clock(1600.0, 1980.0, True), State.SLOW, id="the kernel itself drew the power"),
        pytest.param({"copy": -0.2}, None, State.SLOW, id="the machine was faster"),
        pytest.param({"copy": 0.001}, Clock(1980.0, 1980.0), State.SLOW, id="the machine was as ever"),
    ],
)
def test_a_kernel_is_not_blamed_for_its_machine(moved: dict[str, float], clock: Clock | None, state: State) -> None:
    verdict = judge_one((*QUIET, 120.0), again_us=120.0, moved=moved, clock=clock)
    is_machine = state is State.AMBIGUOUS
    assert (verdict.state, verdict.is_machine) == (state, is_machine)
    assert verdict.since_run == "night-12"
    assert ("; the machine moved too: " in verdict.evidence) is is_machine


@pytest.mark.parametrize(("nights", "is_machine"), [(QUIET * 2, False), (NOISY * 2, True)])
def test_a_machine_explains_a_noisy_kernel_by_what_is_sure_of_its_change(
    nights: tuple[float, ...], is_machine: bool
) -> None:
    verdict = judge_one((*nights, 112.0), again_us=112.0, moved={"copy": 0.043})  # 36 % as much, or more
    assert verdict.is_machine is is_machine
    assert verdict.state is (State.AMBIGUOUS if is_machine else State.SLOW)
    assert verdict.since_run == f"night-{len(nights)}"


def test_a_machine_that_moved_beside_a_quiet_kernel_is_nothing_to_tell() -> None:
    verdict = judge_one((*QUIET, 100.1), moved={"copy": 0.3})
    assert (verdict.state, verdict.is_machine) == (State.SAME, False)


def test_a_machine_is_not_blamed_for_a_series_whose_noise_is_not_known_yet() -> None:
    verdict = judge_one((100.0, 120.0), moved={"copy": 0.3})
    assert (verdict.state, verdict.is_machine) == (State.AMBIGUOUS, False)


def test_a_slow_machine_is_told_since_the_night_that_its_references_show_it() -> None:
    nights = (*QUIET, 120.0, 120.2, 119.8)
    tonight, past = make_past(nights, again_us=120.0)
    past = replace(past, references=make_references([SERIES], len(nights), {"copy": 0.2}, since=12))
    [verdict] = judge_night([tonight], past)
    assert (verdict.state, verdict.is_machine, verdict.since_run) == (State.AMBIGUOUS, True, "night-12")


def test_a_low_clock_is_told_since_the_night_that_was_told_of_it_first() -> None:
    told = Standing(State.AMBIGUOUS, since_run="night-7", relative_change=0.1)
    clock = Clock(1600.0, 1980.0)
    assert judge_one((*QUIET, 120.0), again_us=120.0, standing=told, clock=clock).since_run == "night-7"
    other_way = replace(told, relative_change=-0.1)
    assert judge_one((*QUIET, 120.0), again_us=120.0, standing=other_way, clock=clock).since_run == "night-12"


def test_the_other_of_two_times_on_a_slow_machine_is_the_machines() -> None:
    nights = [us * factor for us, factor in zip(QUIET * 3, [1.0, 1.0, 1.08] * len(QUIET), strict=True)]
    slow_us = 108.0 * 1.07
    assert judge_one((*nights, slow_us), again_us=slow_us).state is State.SLOW
    beside_slow = judge_one((*nights, slow_us), again_us=slow_us, moved={"copy": 0.04})
    assert (beside_slow.state, beside_slow.is_machine) == (State.AMBIGUOUS, True)


@pytest.mark.parametrize("offset", [0.03, -0.03])
def test_a_swapped_card_is_no_regression(offset: float) -> None:
    """Twenty series on one card for weeks, tonight all on a card that is 3 % slower or faster, and one much slower."""
    measured, trends = [], {}
    for number in range(20):
        level, case = 10.0 * (number + 1), make_case(number + 1)
        nights = [level * us / 100 for us in (*QUIET[number % 12 :], *QUIET[: number % 12])]
        tonight = level * (1 + offset) * (1 + 0.0005 * (number % 5 - 2)) * (1.4 if number == 7 else 1.0)
        points = make_points([*nights, tonight], ["GPU-old"] * 12 + ["GPU-new"])
        measured.append(make_measurement(points[-1].run_id, case, samples_us=(tonight,)))
        trends[measured[-1].series] = points
    again = [make_retrial(measured[7], measured[7].samples_us[0])]
    verdicts = judge_night(measured, Past("night-12", number_nights(13), trends, retrials=again))
    assert states_of(verdicts) == ["SLOW" if number == 7 else "SAME" for number in range(20)]
    assert verdicts[7].relative_change == pytest.approx(0.4, abs=0.02)


def test_series_are_judged_by_their_own_history_alone() -> None:
    here = make_measurement("night-12", samples_us=(100.0,))
    others = (
        replace(here.series, timer="other"),
        replace(here.series, provider="other"),
        replace(here.series, device_name="another GPU"),
        make_series(case=make_case(64)),
    )
    trends = {series: make_points(QUIET) for series in others} | {here.series: make_points((*QUIET, 100.0))[-1:]}
    [verdict] = judge_night([here], Past("night-12", number_nights(13), trends))
    assert verdict.state is State.NEW


# What was not timed


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (Status.WRONG, State.WRONG),
        (Status.UNSUPPORTED, State.UNSUPPORTED),
        (Status.CRASHED, State.FAILED),
        (Status.HUNG, State.FAILED),
        (Status.OUT_OF_MEMORY, State.FAILED),
    ],
)
def test_what_was_not_timed_is_judged_by_its_status_and_says_why(status: Status, state: State) -> None:
    measurement = make_measurement("run-1", status=status, reason="the reason")
    [verdict] = judge_night([measurement], Past("run-1", {"run-1": make_run()}))
    assert (verdict.state, verdict.evidence) == (state, f"{status}: the reason")
    assert (verdict.median_us, verdict.baseline_us, verdict.relative_change) == (None, None, None)
    assert verdict.since_run == ("" if state is State.UNSUPPORTED else "run-1")


def test_every_status_without_times_has_a_state() -> None:
    assert set(STATES_BY_STATUS) == set(Status) - {Status.OK}


@pytest.mark.parametrize("state", [State.WRONG, State.FAILED])
def test_what_is_still_broken_is_so_since_its_first_night(state: State) -> None:
    status = {State.WRONG: Status.WRONG, State.FAILED: Status.HUNG}[state]
    measurement = make_measurement("run-9", status=status, reason="the reason")
    past = Past("run-9", {"run-9": make_run("run-9")}, standings={SERIES: Standing(state, "run-3")})
    assert judge_night([measurement], past)[0].since_run == "run-3"
    otherwise = replace(past, standings={SERIES: Standing(State.MISSING, "run-3")})
    assert judge_night([measurement], otherwise)[0].since_run == "run-9"
    not_noted = replace(past, standings={SERIES: Standing(state)})
    assert judge_night([measurement], not_noted)[0].since_run == "run-9"


def test_what_is_expected_and_absent_is_missing() -> None:
    here, gone = make_measurement("run-2"), make_series("gone")
    verdicts = judge_night([here], Past("run-2", {"run-2": make_run("run-2")}, expected=[here.series, gone]))
    assert [(verdict.series.provider, verdict.state) for verdict in verdicts] == [
        ("triton", State.NEW),
        ("gone", State.MISSING),
    ]
    assert {verdict.run_id for verdict in verdicts} == {"run-2"}
    assert verdicts[1].evidence == "measured in the last comparable run, absent now"


def test_a_failed_series_is_not_missing_too() -> None:
    failed = make_measurement("run-2", status=Status.HUNG, reason="no answer")
    verdicts = judge_night([failed], Past("run-2", {"run-2": make_run("run-2")}, expected=[failed.series]))
    assert states_of(verdicts) == ["FAILED"]


def test_a_series_that_was_timed_before_and_is_unsupported_now_is_missing_until_that_is_accepted() -> None:
    reason = "needs the vllm package, which is not installed"
    measurement = make_measurement("night-2", status=Status.UNSUPPORTED, reason=reason)
    past = Past("night-2", number_nights(3), {SERIES: make_points((100.0, 101.0))})
    [verdict] = judge_night([measurement], past)
    assert (verdict.state, verdict.since_run) == (State.MISSING, "night-2")
    assert verdict.evidence == f"timed on 2 earlier nights, now unsupported: {reason}"
    next_night = replace(past, standings={SERIES: Standing(State.MISSING, "night-2")})
    assert judge_night([measurement], next_night)[0].since_run == "night-2"
    accepted = replace(past, standings={SERIES: Standing(State.MISSING, "night-2", is_accepted=True)})
    assert judge_night([measurement], accepted)[0].state is State.UNSUPPORTED
    from_then_on = replace(past, standings={SERIES: Standing(State.UNSUPPORTED)})
    assert judge_night([measurement], from_then_on)[0].state is State.UNSUPPORTED


def test_missing_is_missing_every_night_until_it_returns() -> None:
    verdicts = live_through((*QUIET, None, None, None, 100.1))
    assert states_of(verdicts[12:]) == ["MISSING", "MISSING", "MISSING", "SAME"]
    assert [verdict.since_run for verdict in verdicts[12:]] == ["night-12", "night-12", "night-12", ""]
    assert verdicts[13].evidence == "absent since run night-12"


def test_missing_that_is_accepted_is_no_longer_told_and_may_return() -> None:
    mark = Mark(SERIES, "night-12", "night-12", "dropped from the suite", "ada")
    verdicts = live_through((*QUIET, None, None, None, 100.1, None), marks=[mark])
    assert [(verdict.run_id, str(verdict.state)) for verdict in verdicts[12:]] == [
        ("night-12", "MISSING"),
        ("night-15", "SAME"),
        ("night-16", "MISSING"),
    ]
    assert verdicts[14].since_run == "night-16"


@pytest.mark.parametrize("num_earlier", [3, 5, 8, 14])
@pytest.mark.parametrize("factor", [1.06, 1.2, 4.0])
def test_a_large_change_is_not_passed_over_because_history_is_short(num_earlier: int, factor: float) -> None:
    earlier = QUIET[:num_earlier] if num_earlier <= len(QUIET) else (*QUIET, *QUIET)[:num_earlier]
    [*_, alone] = live_through((*earlier, 100.0 * factor))
    assert alone.state is State.AMBIGUOUS
    [*_, confirmed] = live_through((*earlier, 100.0 * factor), again_us={num_earlier: 100.0 * factor})
    assert confirmed.state is State.SLOW


def test_a_change_within_what_tonight_is_unsure_of_is_none() -> None:
    tonight, past = make_past([*QUIET, 112.0])
    unsure = replace(tonight, samples_us=(80.0, 90.0, 100.0, 112.0, 112.0, 112.0, 120.0, 130.0, 140.0))
    assert [str(v.state) for m in (tonight, unsure) for v in judge_night([m], past)] == ["AMBIGUOUS", "SAME"]


# Night after night


@pytest.mark.parametrize("factor", [1.12, 1 / 1.12])
def test_a_step_that_noise_hides_at_first_is_found_days_later(factor: float) -> None:
    """Nobody measured again: one night never tells, a few together do, and they name the first of them."""
    state = State.SLOW if factor > 1 else State.FAST
    verdicts = live_through((*NOISY, *(us * factor for us in NOISY[:6])))
    found = next(number for number, verdict in enumerate(verdicts) if verdict.state is state)
    assert not {State.SLOW, State.FAST} & {verdict.state for verdict in verdicts[:16]}
    assert 16 <= found <= 20
    assert verdicts[found].since_run == "night-15"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_slow_drift_over_weeks_is_found(sign: int) -> None:
    drift = [us * (1 + sign * 0.004 * day) for day, us in enumerate(QUIET * 3)]
    told = {verdict.state for verdict in live_through((*QUIET, *QUIET, *drift))}
    assert (State.SLOW if sign > 0 else State.FAST) in told
    assert (State.FAST if sign > 0 else State.SLOW) not in told


def test_a_change_that_stands_stays_slow_since_its_first_night_against_the_nights_before_it() -> None:
    verdicts = live_through((*QUIET, *(us * 1.2 for us in QUIET * 6)), again_us={12: 120.0})
    stands = verdicts[12:]
    assert {str(verdict.state) for verdict in stands} == {"SLOW"}
    assert {verdict.since_run for verdict in stands} == {"night-12"}
    assert [verdict.relative_change for verdict in stands] == pytest.approx([0.2] * len(stands), abs=0.01)
    assert stands[-1].evidence.endswith("; as it has been since run night-12")


@pytest.mark.parametrize("median_us", [None, 0.0], ids=["absent", "no time"])
def test_a_night_without_a_time_does_not_make_a_change_forgotten(median_us: float | None) -> None:
    slow = [us * 1.2 for us in QUIET]
    verdicts = live_through((*QUIET, *slow * 4, median_us, *slow), again_us={12: 120.0})
    assert states_of(verdicts[60:62]) == ["FAILED" if median_us == 0.0 else "MISSING", "SLOW"]
    assert {(str(verdict.state), verdict.since_run) for verdict in verdicts[61:]} == {("SLOW", "night-12")}


def test_a_change_is_over_after_two_nights_without_it() -> None:
    verdicts = live_through((*QUIET, 120.0, 120.3, 119.8, 100.1, 99.9, 100.0), again_us={12: 120.0})
    assert states_of(verdicts[12:]) == ["SLOW", "SLOW", "SLOW", "SLOW", "SAME", "SAME"]
    assert verdicts[16].evidence.endswith("; SLOW no longer")
    assert [verdict.since_run for verdict in verdicts[15:]] == ["night-12", "", ""]


def test_a_change_is_over_after_one_night_without_it_and_measuring_again() -> None:
    verdicts = live_through((*QUIET, 120.0, 100.1, 100.0), again_us={12: 120.0, 13: 99.9})
    assert states_of(verdicts[12:]) == ["SLOW", "SAME", "SAME"]
    assert verdicts[13].is_confirmed is True


@pytest.mark.parametrize("state", [State.SLOW, State.FAST])
@pytest.mark.parametrize("relative_change", [None, 0.0, 0.2, -0.2])
def test_a_change_ends_however_far_it_was_last_told_to_be(state: State, relative_change: float | None) -> None:
    standing = Standing(state, "night-12", relative_change)
    verdict = judge_one((*QUIET, *QUIET, *QUIET), standing=standing)
    assert (verdict.state, verdict.since_run) == (State.SAME, "")


def test_a_change_that_is_there_again_when_measured_again_is_not_over() -> None:
    verdicts = live_through((*QUIET, 120.0, 100.1, 120.0), again_us={12: 120.0, 13: 120.1})
    assert states_of(verdicts[12:]) == ["SLOW", "SLOW", "SLOW"]
    assert verdicts[13].is_confirmed is False


def test_a_constant_series_that_is_back_to_the_last_digit_is_over() -> None:
    verdicts = live_through((*(100.0,) * 12, 120.0, 100.0, 100.0), again_us={12: 120.0, 13: 100.0})
    assert states_of(verdicts[12:]) == ["SLOW", "SAME", "SAME"]


def test_a_slow_series_that_becomes_faster_than_before_is_not_slow() -> None:
    verdicts = live_through((*QUIET, 110.0, *(us * 0.88 for us in QUIET)), again_us={12: 110.0})
    assert states_of(verdicts[12:15]) == ["SLOW", "SLOW", "SAME"]
    assert "FAST" in states_of(verdicts[15:19])


def test_a_gain_becomes_the_baseline_once_it_has_stood() -> None:
    verdicts = live_through((*QUIET, *(us * 0.8 for us in QUIET), 96.0), again_us={12: 80.0, 24: 96.0})
    assert states_of(verdicts[12:14]) == ["FAST", "FAST"]
    assert set(states_of(verdicts[15:24])) == {"SAME"}
    assert {verdict.baseline_run for verdict in verdicts[15:]} == {"night-12"}
    assert verdicts[23].baseline_us == pytest.approx(80.0, rel=0.01)
    assert (verdicts[24].state, verdicts[24].baseline_run) == (State.SLOW, "night-12")
    assert verdicts[24].relative_change == pytest.approx(0.2, abs=0.01)


def test_a_regression_is_never_adopted_unasked() -> None:
    assert states_of(live_through((*QUIET, *(us * 1.2 for us in QUIET * 2))))[-1] == "SLOW"


def test_an_accepted_change_is_the_new_baseline_from_the_next_night_on() -> None:
    mark = Mark(SERIES, "night-14", "night-14", "more exact rounding", "ada")
    medians = (*QUIET, *(us * 1.2 for us in QUIET), 144.0)
    verdicts = live_through(medians, again_us={12: 120.0, 24: 144.0}, marks=[mark])
    assert states_of(verdicts[12:15]) == ["SLOW"] * 3
    assert set(states_of(verdicts[15:24])) == {"SAME"}
    assert verdicts[23].baseline_us == pytest.approx(120.0, rel=0.01)
    assert (verdicts[24].state, verdicts[24].baseline_run) == (State.SLOW, "night-14")


def test_a_baseline_that_was_marked_hides_the_nights_before_it() -> None:
    mark = Mark(SERIES, "night-12", "night-12", "another compiler from here on", "ada")
    verdicts = live_through((*QUIET, *(us * 1.2 for us in QUIET)), marks=[mark])
    assert set(states_of(verdicts[13:])) == {"SAME"}
    assert verdicts[-1].baseline_us == pytest.approx(120.0, rel=0.01)


# Suspects


# Whatever the store holds


@pytest.mark.parametrize("median_us", [0.0, -1.0, inf, nan])
def test_a_median_that_is_no_time_is_a_failure(median_us: float) -> None:
    verdict = judge_one((*QUIET, median_us))
    assert (verdict.state, verdict.median_us, verdict.since_run) == (State.FAILED, None, "night-12")
    assert verdict.evidence == f"ok: its median of {median_us} us is no time"
    assert find_one((*QUIET, median_us)) == []


@pytest.mark.parametrize("median_us", [0.0, -1.0, inf, nan])
def test_an_earlier_night_without_a_time_is_left_out(median_us: float) -> None:
    with_it, without = judge_one((*QUIET, median_us, 100.0)), judge_one((*QUIET, 100.0))
    assert (with_it.state, with_it.baseline_us) == (State.SAME, without.baseline_us)
    assert judge_one((median_us, 100.0)).state is State.NEW
    retrial = judge_one((*QUIET, 120.0), again_us=median_us)
    assert (retrial.state, retrial.is_confirmed) == (State.AMBIGUOUS, None)


@pytest.mark.parametrize(
    "medians_us", [(7.0,) * 40, (7.0, 7.0), (0.01,) * 9, (1e9,) * 9], ids=["long", "two", "tiny", "huge"]
)
def test_a_constant_series_is_the_same(medians_us: tuple[float, ...]) -> None:
    verdict = judge_one(medians_us)
    assert (verdict.state, verdict.relative_change) == (State.SAME, 0.0)


def test_a_series_of_a_million_nights_gets_an_answer() -> None:
    first, last = make_points((100.0, 130.0))
    tonight = make_measurement(last.run_id, samples_us=(130.0,))
    past = Past(
        last.run_id, number_nights(2), {SERIES: [first] * 999_999 + [last]}, retrials=[make_retrial(tonight, 130.0)]
    )
    [verdict] = judge_night([tonight], past)
    assert (verdict.state, verdict.since_run) == (State.SLOW, "night-1")


def test_a_night_of_nothing_has_no_verdicts() -> None:
    past = Past("run-1", {"run-1": make_run()})
    assert judge_night([], past) == []
    assert find_suspects([], past) == []


ANY_TIME = st.one_of(st.floats(), st.floats(min_value=0.1, max_value=1e4), st.sampled_from([0.0, 100.0, 110.0]))
ANY_STANDING = st.builds(
    Standing,
    state=st.sampled_from([None, *State]),
    since_run=st.sampled_from(["", "night-0", "night-3", "of another suite"]),
    relative_change=st.sampled_from([None, 0.0, 0.1, -0.1]),
    baseline_run=st.sampled_from(["", "night-2", "of another suite"]),
    is_accepted=st.booleans(),
)


@settings(max_examples=100)
@given(st.lists(ANY_TIME, min_size=1, max_size=12), st.none() | ANY_TIME, st.none() | ANY_STANDING)
def test_whatever_was_measured_gets_one_verdict_of_finite_numbers(
    medians_us: list[float], again_us: float | None, standing: Standing | None
) -> None:
    verdict = judge_one(medians_us, again_us, standing)
    numbers = (verdict.median_us, verdict.baseline_us, verdict.relative_change, verdict.low, verdict.high)
    assert all(number is None or isfinite(number) for number in numbers)
    assert verdict.p_value is None or 0 <= verdict.p_value <= 1
    assert verdict.evidence
    find_one(medians_us, standing)


CLEAR = st.tuples(
    st.sampled_from([QUIET, NOISY, (100.0,) * 12]),
    st.sampled_from([0.6, 0.9, 1.0, 1.0, 1.1, 1.7]),
    st.integers(min_value=0, max_value=6),
    st.booleans(),
)
"""A history, a step, how many nights ago it was, and whether tonight was measured again."""


def make_night(
    histories: Sequence[tuple[tuple[float, ...], float, int, bool]], unit: float = 1.0
) -> tuple[list[Measurement], Past]:
    measured: list[Measurement] = []
    trends, retrials = {}, list[Retrial]()
    for number, (history, factor, num_nights, has_retrial) in enumerate(histories):
        split = len(history) - num_nights
        points = make_points([us * unit * (factor if n >= split else 1.0) for n, us in enumerate(history[-12:])])
        measured.append(make_measurement("night-11", make_case(number + 1), samples_us=(points[-1].median_us,)))
        trends[measured[-1].series] = points
        retrials += [make_retrial(measured[-1], points[-1].median_us)] * has_retrial
    gone = [make_series(f"gone-{number}") for number in range(3)]
    return measured, Past("night-11", number_nights(12), trends, expected=gone, retrials=retrials)


def by_series(verdicts: Sequence[Verdict]) -> dict[Series, Verdict]:
    return {verdict.series: verdict for verdict in verdicts}


@settings(max_examples=30)
@given(st.lists(CLEAR, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_the_series_does_not_matter(histories, random) -> None:
    measured, past = make_night(histories)
    shuffled = random.sample(measured, len(measured))
    mixed = replace(
        past,
        trends=dict(random.sample(list(past.trends.items()), len(past.trends))),
        expected=random.sample(list(past.expected), len(past.expected)),
        retrials=random.sample(list(past.retrials), len(past.retrials)),
    )
    assert by_series(judge_night(shuffled, mixed)) == by_series(judge_night(measured, past))
    assert find_suspects(shuffled, mixed) == find_suspects(measured, past)
    missing = [v.series for v in judge_night(shuffled, mixed) if v.state is State.MISSING]
    assert missing == sorted(missing, key=astuple)


@settings(max_examples=30)
@given(st.lists(CLEAR, min_size=1, max_size=6), st.sampled_from([2.0**-10, 1e-3, 0.7, 2.0, 1e3, 1e6]))
def test_the_unit_of_time_does_not_matter(histories, unit: float) -> None:
    told, scaled = (judge_night(*make_night(histories, factor)) for factor in (1.0, unit))
    assert states_of(scaled) == states_of(told)
    for one, other in zip(told, scaled, strict=True):
        assert (other.relative_change, other.p_value, other.since_run) == (
            pytest.approx(one.relative_change, abs=1e-9),
            pytest.approx(one.p_value, abs=1e-9),
            one.since_run,
        )
