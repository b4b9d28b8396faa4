"""Draws, p-values and verdicts by hand, and how often equal code is told as changed."""

import json
import math
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from records import make_case, make_measurement
from scipy import stats

from tasks.commits.comparisons import Contrast, Sitting
from tasks.commits.paired import LOOKS, Estimate, adjust, choose_state, estimate, judge_sittings
from tasks.records import Measurement, State, Status, Trial
from tasks.turns import ROUNDS_OF_A_TURN

GPU_CHANGE = 0.01
EQUAL_CODE = Path(__file__).parents[1] / "examples/h200/branch/equal_by_the_new_rule.jsonl"


def take_turns(us: Sequence[float], turns: Sequence[int], provider: str = "triton", **fields: object) -> Measurement:
    """A measurement with one time in each of some turns."""
    made = make_measurement(case=make_case(), provider=provider, samples_us=tuple(us), **fields)
    return replace(made, trials=tuple(Trial(turn * ROUNDS_OF_A_TURN, 1) for turn in turns))


def fail(status: Status, reason: str, provider: str = "triton") -> Measurement:
    made = make_measurement(case=make_case(), provider=provider, status=status, samples_us=())
    return replace(made, check=replace(made.check, reason=reason), samples_us=(), trials=())


def seat(number: int, head: Measurement, base: Measurement) -> Sitting:
    layer = head.check.case.layer.key
    return Sitting("one", layer, head.device.name, number, 10.0, (head,), (base,))


def sit(number: int, ratio: float) -> Sitting:
    """A sitting of so many times as long, beside a drift of 1 % a turn."""
    us = [100 * 1.01**turn for turn in range(4)]
    return seat(number, take_turns([ratio * us[0], ratio * us[3]], (0, 3)), take_turns([us[1], us[2]], (1, 2)))


def judge_one(sittings: Sequence[Sitting], least_change: float = GPU_CHANGE) -> Contrast:
    [contrast] = judge_sittings(sittings, least_change)
    return contrast


@pytest.mark.parametrize("num_base_first", [2, 3])
def test_an_estimate_is_students_test_of_one_kind_against_the_other_turned_round(num_base_first: int) -> None:
    head_first, base_first = [0.031, 0.028, 0.032], [-0.011, -0.007, -0.012][:num_base_first]
    found = estimate(head_first, base_first)
    slow = stats.ttest_ind(head_first, [-draw for draw in base_first])
    interval = slow.confidence_interval(0.99)
    assert found.mean == pytest.approx((statistics.fmean(head_first) + statistics.fmean(base_first)) / 2)
    assert (found.low, found.high) == pytest.approx((interval.low / 2, interval.high / 2))
    assert found.p_value == pytest.approx(slow.pvalue)


def test_what_comes_of_being_first_is_not_taken_for_a_change_and_widens_nothing() -> None:
    head_first, base_first = [0.001, -0.001, 0.002], [0.000, 0.001, -0.002]
    plain = estimate(head_first, base_first)
    seated = estimate([draw - 0.02 for draw in head_first], [draw + 0.02 for draw in base_first])
    assert astuple(seated) == pytest.approx(astuple(plain))


def test_too_few_draws_tell_nothing_and_equal_draws_tell_all() -> None:
    nothing = Estimate(0.5, -math.inf, math.inf, 1.0)
    assert estimate([0.5], []) == estimate([0.5], [0.5]) == estimate([0.5] * 9, []) == nothing
    assert estimate([0.0, 0.0], [0.0]) == Estimate(0.0, 0.0, 0.0, 1.0)
    assert estimate([0.5], [0.5, 0.5]).p_value == 0.0


def test_p_values_pay_for_all_series_as_holm_says() -> None:
    assert adjust([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust([0.9, 0.8]) == [1.0, 1.0]
    assert adjust([]) == []


def test_a_sitting_is_one_draw_in_which_a_drift_cancels() -> None:
    contrast = judge_one([sit(number, 1.02 + 0.001 * (-1) ** (number // 2)) for number in range(8)])
    assert (contrast.state, contrast.is_regression, contrast.num_sittings) == (State.SLOW, True, 8)
    assert contrast.change == pytest.approx(0.02, abs=1e-4)
    assert contrast.low is not None
    assert contrast.high is not None
    assert 0.018 < contrast.low < 0.02 < contrast.high < 0.022


@pytest.mark.parametrize(
    ("ratios", "state"),
    [
        ([1.0, 1.001, 0.999, 1.002, 0.998, 1.0], State.SAME),
        ([0.98, 1.02, 0.979, 1.021, 0.981, 1.019], State.SAME),  # the first is faster, whose ever it is
        ([0.97, 0.971, 0.969, 0.972, 0.968, 0.97], State.FAST),
        ([1.03, 1.0301, 1.0299, 1.03], State.AMBIGUOUS),  # four processes may be placed badly by chance
        ([2.5, 2.51, 2.49, 2.5], State.SLOW),  # but not as badly as that
        ([1.0, 1.03, 0.97, 1.02, 1.03, 0.98], State.AMBIGUOUS),
        ([1.003, 1.0031, 1.0029, 1.003, 1.0031, 1.003], State.SAME),  # a change, and too small to count
    ],
)
def test_a_series_is_changed_equal_or_in_doubt(ratios: Sequence[float], state: State) -> None:
    contrast = judge_one([sit(number, ratio) for number, ratio in enumerate(ratios)])
    assert contrast.state is state
    assert contrast.is_regression is (state is State.SLOW)


def test_many_series_make_the_same_change_harder_to_believe() -> None:
    ratios = [1.01, 1.013, 1.007, 1.012, 1.009, 1.009]

    def sit_many(number: int, quiet: int) -> Sitting:
        one = sit(number, ratios[number])
        us = [100.0, 100 * (1 + 1e-4 * (-1) ** (number // 2))]
        heads = tuple(take_turns([us[1], us[1]], (0, 3), f"quiet-{index}") for index in range(quiet))
        bases = tuple(take_turns([us[0], us[0]], (1, 2), f"quiet-{index}") for index in range(quiet))
        return replace(one, head=one.head + heads, base=one.base + bases)

    alone, *_ = judge_sittings([sit_many(number, 0) for number in range(6)], 0.01)
    among, *others = judge_sittings([sit_many(number, 60) for number in range(6)], 0.01)
    assert (alone.state, among.state) == (State.SLOW, State.AMBIGUOUS)
    assert alone.p_value is not None
    assert among.p_value == pytest.approx(min(1.0, 61 * alone.p_value))
    assert {other.state for other in others} == {State.SAME}


OK = take_turns([1.0, 1.0], (0, 3))
BASE_OK = take_turns([1.0, 1.0], (1, 2))


@pytest.mark.parametrize(
    ("head", "base", "state", "reason", "is_regression"),
    [
        (fail(Status.WRONG, "off"), BASE_OK, State.WRONG, "wrong: off", True),
        (fail(Status.CRASHED, "gone"), BASE_OK, State.FAILED, "crashed: gone", True),
        (fail(Status.UNSUPPORTED, "no"), BASE_OK, State.MISSING, "unsupported: no", True),
        (
            fail(Status.WRONG, "off"),
            fail(Status.WRONG, "far"),
            State.WRONG,
            "wrong: off; on the base wrong: far",
            False,
        ),
        (fail(Status.UNSUPPORTED, "no"), fail(Status.UNSUPPORTED, "no"), State.UNSUPPORTED, "", False),
        (OK, fail(Status.HUNG, "slept"), State.NEW, "no time on the base: hung: slept", False),
    ],
)
def test_a_side_without_times_is_told_by_its_status(
    head: Measurement, base: Measurement, state: State, reason: str, is_regression: bool
) -> None:
    contrast = judge_one([seat(0, head, base)])
    assert (contrast.state, contrast.is_regression, contrast.num_sittings) == (state, is_regression, 0)
    assert contrast.reason == (reason or "unsupported: no; on the base unsupported: no")


def test_a_head_that_fails_once_in_five_sittings_has_failed() -> None:
    sittings = [sit(number, 1.0) for number in range(4)] + [seat(4, fail(Status.WRONG, "off"), BASE_OK)]
    contrast = judge_one(sittings)
    assert (contrast.state, contrast.is_regression, contrast.num_sittings) == (State.WRONG, True, 4)


def play(rng: random.Random, shift: float) -> State:
    """The verdict after as many looks as it takes, of noise that is no normal distribution."""
    draws: list[float] = []
    for look in LOOKS:
        while len(draws) < look:
            draws.append(rng.gauss(shift, 0.003) + 0.01 * ((rng.random() < 0.1) - (rng.random() < 0.1)))
        found = estimate(draws[::2], draws[1::2])
        state = choose_state(replace(found, p_value=found.p_value * len(LOOKS)), look, GPU_CHANGE)
        if state is not State.AMBIGUOUS:
            return state
    return state


def test_equal_code_is_same_99_times_of_100_and_one_percent_is_told() -> None:
    rng = random.Random(0)
    equal = Counter(play(rng, 0.0) for _ in range(1000))
    slower = Counter(play(rng, math.log1p(0.01)) for _ in range(500))
    assert equal[State.SAME] >= 990, equal
    assert slower[State.SLOW] >= 475, slower


@pytest.mark.parametrize(
    ("added", "told"),
    [
        (0.0, {State.SAME: 102}),
        (0.01, {State.SLOW: 101, State.AMBIGUOUS: 1}),
        (-0.01, {State.FAST: 101, State.AMBIGUOUS: 1}),
    ],
)
def test_one_percent_added_to_sittings_measured_on_a_gpu_is_told_from_none(added: float, told: dict[State, int]):
    lines = EQUAL_CODE.read_text().splitlines()
    ended = [
        judge_alone([math.log(ratio) + math.log1p(added) for ratio in json.loads(line)["ratios"]]) for line in lines
    ]
    assert Counter(state for state, _ in ended) == told
    assert Counter(sittings for _, sittings in ended)[6] >= 99


def judge_alone(draws: list[float]) -> tuple[State, int]:
    """The verdict on the only series of a comparison of 1 %, and after how many of its sittings."""
    for look in LOOKS:
        seen = draws[:look]
        found = estimate(seen[::2], seen[1::2])
        state = choose_state(replace(found, p_value=min(1.0, found.p_value * len(LOOKS))), len(seen), GPU_CHANGE)
        if state is not State.AMBIGUOUS or look >= len(draws):
            break
    return state, len(seen)
