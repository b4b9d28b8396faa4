"""Who is measured again, in what order, and who of them beside the code of before."""

from dataclasses import replace

import pytest
from pasts import NOISY, QUIET, SERIES, find_one, make_references, number_nights
from records import make_case, make_measurement, make_points

from tasks.judgement.findings import Past
from tasks.judgement.history import Standing
from tasks.judgement.suspects import MOST_BESIDE_EARLIER_CODE, MOST_SUSPECTS, find_suspects, spare_earlier_code
from tasks.records import Measurement, State


@pytest.mark.parametrize("tonight_us", [120.0, 80.0])
def test_what_looks_changed_is_measured_again_beside_the_run_before_the_change(tonight_us: float) -> None:
    [suspect] = find_one((*QUIET, tonight_us))
    assert (suspect.series, suspect.case, suspect.good_run) == (SERIES, make_case(), "night-11")
    assert suspect.good_commit == "commit-11"


def test_the_code_of_a_run_with_uncommitted_edits_is_not_at_hand() -> None:
    [suspect] = find_one((*QUIET, 100.1, 120.0))
    assert (suspect.good_run, suspect.good_commit) == ("night-12", "")


def test_the_run_before_a_step_found_days_later_is_the_one_before_the_step() -> None:
    [suspect] = find_one((*QUIET, 120.0, 120.1, 119.9))
    assert suspect.good_run == "night-11"


@pytest.mark.parametrize(
    "medians_us", [(100.0,), (100.0, 200.0), (*QUIET, 100.1), (*NOISY, 104.0)], ids=["new", "young", "quiet", "noisy"]
)
def test_what_measuring_again_cannot_decide_is_no_suspect(medians_us: tuple[float, ...]) -> None:
    assert find_one(medians_us) == []


def test_a_change_that_stands_is_measured_again_only_when_it_seems_to_be_over() -> None:
    standing = Standing(State.SLOW, "night-12", 0.2)
    assert find_one((*QUIET, 120.0, 120.0), standing) == []
    [suspect] = find_one((*QUIET, 120.0, 100.0), standing)
    assert suspect.good_run == "night-11"


def test_the_likeliest_suspects_come_first() -> None:
    measured, trends = [], {}
    for tokens, tonight in ((1, 104.0), (2, 100.0), (4, 130.0), (8, 90.0)):
        points = make_points((*QUIET, *(NOISY if tokens == 2 else QUIET)[-2:], tonight))
        measured.append(make_measurement(points[-1].run_id, make_case(tokens), samples_us=(tonight,)))
        trends[measured[-1].series] = points
    past = Past("night-14", number_nights(15), trends)
    found = [suspect.case.num_tokens for suspect in find_suspects(measured, past)]
    assert 2 not in found
    assert set(found[:2]) == {4, 8}
    assert found == [s.case.num_tokens for s in find_suspects(measured[::-1], past)]


def make_night(tonight_us: dict[tuple[int, str], float]) -> tuple[list[Measurement], Past]:
    """Quiet series by number of tokens and provider, and what they take tonight."""
    measured, trends = [], {}
    for (tokens, provider), us in tonight_us.items():
        points = make_points((*QUIET, us))
        measured.append(make_measurement(points[-1].run_id, make_case(tokens), provider, samples_us=(us,)))
        trends[measured[-1].series] = points
    return measured, Past("night-12", number_nights(13), trends)


def test_what_moved_together_leaves_room_for_others() -> None:
    many = {(tokens, "triton"): 150.0 for tokens in range(1, MOST_SUSPECTS + 50)}
    found = find_suspects(*make_night({**many, (1, "torch"): 110.0}))
    assert len(found) == MOST_SUSPECTS
    assert [suspect.series.provider for suspect in found[:3]].count("torch") == 1


def test_what_the_machine_did_too_comes_last_and_of_that_first_whatever_it_did_least() -> None:
    measured, past = make_night({(1, "triton"): 110.0, (2, "triton"): 122.0, (4, "triton"): 118.0})
    slow = [m.series for m in measured[1:]]
    past = replace(past, references=make_references(slow, 13, {"copy": 0.1}))
    assert [suspect.case.num_tokens for suspect in find_suspects(measured, past)] == [1, 2, 4]


def test_a_few_of_each_kernel_and_provider_are_measured_beside_the_code_of_before() -> None:
    night = {(tokens, provider): 150.0 for tokens in range(1, 9) for provider in ("triton", "torch")}
    spared = spare_earlier_code(find_suspects(*make_night(night)))
    beside = [suspect.series.provider for suspect in spared if suspect.good_commit]
    assert sorted(beside) == ["torch"] * MOST_BESIDE_EARLIER_CODE + ["triton"] * MOST_BESIDE_EARLIER_CODE
    assert len(spared) == len(night)
