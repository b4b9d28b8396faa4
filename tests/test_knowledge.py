"""What was answered, ranked and shown to the model."""

import math

import pytest

from tasks.records import Status
from tasks.tuning.knowledge import WORST, Knowledge
from tasks.tuning.space import config_key
from tasks.tuning.surrogate import Encoding
from tasks.tuning.trials import Answer, Trial

FAST, SLOW, BAD = {"a": 1}, {"a": 2}, {"a": 4}


def learn(*trials: Trial) -> Knowledge:
    knowledge = Knowledge(Encoding({"a": (1, 2, 4)}))
    knowledge.learn(Answer(trials, 1.5))
    return knowledge


def test_the_fastest_comes_first_and_failures_not_at_all() -> None:
    crash = Trial(64, BAD, (), Status.CRASHED, "out of resource")
    knowledge = learn(Trial(64, SLOW, (20.0,)), Trial(64, FAST, (10.0, 30.0, 10.0)), crash, Trial(8, SLOW, (1.0,)))
    assert knowledge.rank(64) == [FAST, SLOW]
    assert knowledge.rank(1) == []
    assert knowledge.measured(64) == {config_key(config) for config in (FAST, SLOW, BAD)}
    assert knowledge.failed() == {config_key(BAD)}
    assert knowledge.seconds == 1.5


def test_what_was_fast_and_turns_out_wrong_is_neither_ranked_nor_tried_again() -> None:
    knowledge = learn(Trial(64, FAST, (10.0, 10.0)), Trial(64, SLOW, (20.0,)))
    knowledge.learn(Answer((Trial(64, FAST, (), Status.WRONG, "off by 3"),), 1.0))
    assert knowledge.rank(64) == [SLOW]
    assert knowledge.measured(64) == {config_key(FAST), config_key(SLOW)}
    assert knowledge.failed() == {config_key(FAST)}


def test_the_model_is_shown_times_over_the_best_of_each_batch_size() -> None:
    crash = Trial(64, BAD, (), Status.CRASHED, "out of resource")
    seen = learn(
        Trial(64, SLOW, (20.0,)), Trial(64, FAST, (10.0,)), crash, Trial(8, SLOW, (5.0,)), Trial(8, FAST, (500.0,))
    ).observe(64)
    assert seen.octaves.tolist() == [6.0, 6.0, 3.0, 3.0]
    assert seen.points.tolist() == [[1], [0], [1], [0]]
    assert seen.logs.tolist() == pytest.approx([math.log(2), 0.0, 0.0, WORST])


def test_the_nearest_batch_sizes_count() -> None:
    knowledge = learn(*(Trial(size, FAST, (1.0,)) for size in (1, 2, 4, 8, 16, 32, 64, 128)))
    assert knowledge.list_nearby(16)[:4] == [8, 32, 4, 64]
    assert sorted(2 ** knowledge.observe(16).octaves) == [4, 8, 16, 32, 64]
