"""An incumbent stays unless it is beaten by more than chance, on trials that nobody was chosen by."""

import math
import random
from collections.abc import Sequence

import pytest

from kernels.moe.vllm_config_files import Config
from tasks.intervals import Interval
from tasks.records import Status
from tasks.tuning.contest import (
    FIRST_LOOK,
    LAST_LOOK,
    LEAST_GAIN,
    Verdict,
    find_ratio,
    hold_contest,
    is_settled,
    is_won,
)
from tasks.tuning.trials import Answer, Question, Trial

OLD, NEW, DEFAULT = {"num_warps": 4}, {"num_warps": 8}, {"num_warps": 2}


def hold(
    challengers: Sequence[Config], times: dict[int, float | str], noise: float = 0.005, seed: int = 0
) -> tuple[Verdict, list[Question]]:
    """A contest on a machine that drifts; times by num_warps, or why there is none."""
    rng, asked = random.Random(seed), list[Question]()
    contest = hold_contest(64, OLD, challengers)
    answer = None
    while True:
        try:
            question = next(contest) if answer is None else contest.send(answer)
        except StopIteration as ended:
            return ended.value, asked
        asked.append(question)
        drift = [1 + rng.gauss(0, 0.02) for _ in range(question.num_trials)]
        trials = []
        for config in question.configs:
            us = times[config["num_warps"]]
            if isinstance(us, str):
                trials.append(Trial(64, config, (), Status.WRONG, us))
            else:
                trials.append(Trial(64, config, tuple(us * each * math.exp(rng.gauss(0, noise)) for each in drift)))
        answer = Answer(tuple(trials), 0.1)


def test_a_faster_challenger_takes_the_place_at_the_first_look() -> None:
    verdict, asked = hold([NEW], {4: 100.0, 8: 90.0})
    assert verdict.winner == NEW
    assert verdict.ratio
    assert verdict.ratio.low < 0.9 < verdict.ratio.high < 0.92
    assert verdict.incumbent_us == pytest.approx(100, rel=0.03)
    assert verdict.winner_us == pytest.approx(90, rel=0.03)
    assert verdict.reason.startswith("replaced: 10.0% less time")
    assert [(question.num_trials, question.is_checked) for question in asked] == [(FIRST_LOOK, True)]


def test_a_slower_challenger_is_sent_home_at_the_first_look() -> None:
    verdict, asked = hold([NEW], {4: 100.0, 8: 104.0})
    assert (verdict.winner, len(asked)) == (OLD, 1)
    assert verdict.reason.startswith("kept: the best other takes 4.0% more time")
    assert verdict.winner_us == verdict.incumbent_us


def test_what_is_close_is_looked_at_again_and_again() -> None:
    _, asked = hold([NEW], {4: 100.0, 8: 99.8}, noise=0.02)
    assert sum(question.num_trials for question in asked) == LAST_LOOK


def test_chance_alone_hardly_ever_takes_the_place() -> None:
    lucky = sum(
        hold([NEW, DEFAULT], {4: 100.0, 8: 100.0, 2: 100.0}, noise=0.01, seed=seed)[0].winner != OLD
        for seed in range(400)
    )
    assert lucky <= 4


def test_a_gain_of_two_hundredths_is_seen_through_the_most_noise_there_is() -> None:
    seen = sum(hold([NEW], {4: 100.0, 8: 98.0}, noise=0.012, seed=seed)[0].winner == NEW for seed in range(100))
    assert seen >= 90


def test_the_default_may_win_too_and_the_best_of_two_does() -> None:
    verdict, _ = hold([NEW, DEFAULT], {4: 100.0, 8: 95.0, 2: 90.0})
    assert verdict.winner == DEFAULT
    verdict, _ = hold([NEW, DEFAULT], {4: 100.0, 8: 101.0, 2: 90.0})
    assert verdict.winner == DEFAULT


def test_a_challenger_that_is_wrong_never_wins() -> None:
    verdict, asked = hold([NEW], {4: 100.0, 8: "relative error 0.4"})
    assert verdict.winner == OLD
    assert verdict.reason == "kept: the challenger is wrong: relative error 0.4"
    assert len(asked) == 1
    verdict, _ = hold([NEW, DEFAULT], {4: 100.0, 8: "relative error 0.4", 2: 90.0})
    assert verdict.winner == DEFAULT


def test_an_incumbent_that_does_not_run_is_replaced_by_the_default_or_what_beats_it() -> None:
    for new_us, winner in ((90.0, NEW), (110.0, DEFAULT)):
        verdict, _ = hold([NEW, DEFAULT], {4: "out of resource", 8: new_us, 2: 100.0})
        assert verdict.winner == winner
        assert verdict.reason == "replaced: the incumbent is wrong: out of resource"
        assert verdict.incumbent_us is None
        assert verdict.winner_us == pytest.approx(min(new_us, 100), rel=0.03)


def test_a_lone_survivor_is_chosen() -> None:
    verdict, _ = hold([NEW], {4: "out of resource", 8: 90.0})
    assert verdict.winner == NEW
    verdict, _ = hold([NEW], {4: "out of resource", 8: "out of resource"})
    assert (verdict.winner, verdict.reason) == (
        OLD,
        "kept, though the incumbent is wrong: out of resource; nothing else runs",
    )


def test_without_a_challenger_the_incumbent_is_timed_and_checked_once() -> None:
    verdict, asked = hold([], {4: 100.0})
    assert (verdict.winner, verdict.reason, len(asked)) == (OLD, "kept: nothing better was found", 1)
    assert verdict.winner_us == pytest.approx(100, rel=0.03)
    verdict, _ = hold([], {4: "out of resource"})
    assert verdict.reason == "kept, though the incumbent is wrong: out of resource; nothing else runs"


def test_an_interval_needs_trials_and_decides_by_its_ends() -> None:
    assert find_ratio([1.0] * 4, [2.0] * 4) == Interval(0.5, 0.0, math.inf)
    assert find_ratio([1.0] * 12, [2.0] * 12) == Interval(0.5, 0.5, 0.5)
    assert is_won(Interval(0.9, 0.8, 0.99))
    assert not is_won(Interval(0.9, 0.8, 1 - LEAST_GAIN))
    assert is_settled(Interval(1.1, 1.0, 1.2))
    assert not is_settled(Interval(0.99, 0.9, 1.1))
