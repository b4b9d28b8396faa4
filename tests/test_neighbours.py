"""Entries of a file held against those of other batch sizes."""

from collections.abc import Mapping, Sequence

import pytest
from tuners import DEFAULT, H200, LAYER

from kernels.moe.vllm_config_files import Config, ConfigFile
from kernels.spec import Case
from tasks.records import Status
from tasks.tuning.files import find_entry
from tasks.tuning.neighbours import list_neighbours, time_neighbours
from tasks.tuning.sets import SetState
from tasks.tuning.staleness import TUNED, TunedSet, add_losses, key_of
from tasks.tuning.trials import Answer, Question, Trial

KEY = key_of(LAYER, TUNED, H200.name)


def config_of(warps: int) -> Config:
    return {**DEFAULT, "num_warps": warps}


def file_of(warps: Mapping[int, int]) -> ConfigFile:
    return ConfigFile(KEY.config_key, "3.6.0", {size: config_of(each) for size, each in warps.items()})


class Bench:
    """Takes so many microseconds by the number of warps, within 0.1 %; what it has no time for fails."""

    def __init__(self, us: Mapping[int, float]) -> None:
        self.us = us
        self.asked: list[Question] = []

    def measure(self, questions: Sequence[Question]) -> list[Answer]:
        self.asked += questions
        return [
            Answer(tuple(self.time(question, config) for config in question.configs), 1.0) for question in questions
        ]

    def time(self, question: Question, config: Config) -> Trial:
        us = self.us.get(config["num_warps"])
        if us is None:
            return Trial(question.batch_size, config, (), Status.WRONG, "off")
        samples = tuple(us * (1 + 0.001 * (number % 2)) for number in range(question.num_trials))
        return Trial(question.batch_size, config, samples)


def test_neighbours_are_two_on_each_side_that_differ_each_once() -> None:
    file = file_of({1: 1, 2: 2, 4: 4, 8: 8, 16: 4, 32: 1, 64: 16})
    assert list_neighbours(file, 8) == {2: config_of(2), 4: config_of(4), 32: config_of(1)}
    assert list_neighbours(file, 9) == list_neighbours(file, 8), "of the entry that vLLM takes"
    assert list_neighbours(file, 1) == {2: config_of(2), 4: config_of(4)}
    assert list_neighbours(file, 4096) == {16: config_of(4), 32: config_of(1)}
    assert list_neighbours(file_of({1: 4, 2: 4}), 1) == {}
    upside_down = file_of({64: 64, 32: 32})
    assert find_entry(upside_down, 48) == config_of(64)
    assert list_neighbours(upside_down, 48) == {32: config_of(32)}, "of two that are as near the file's first is taken"


def test_the_best_neighbour_beyond_noise_is_a_loss_and_what_is_wrong_or_within_it_is_none() -> None:
    file, cases = file_of({1: 1, 16: 2, 64: 4, 256: 8}), [Case(LAYER, 16), Case(LAYER, 64)]
    bench = Bench({1: 95.0, 2: 100.0, 4: 80.0, 8: 79.9})
    [loss] = time_neighbours(file, cases, bench)
    assert (loss.case.num_tokens, loss.rival, loss.is_beyond_noise) == (16, "its entry for M=256", True)
    assert loss.relative_loss == pytest.approx(100.0 / 79.9 - 1)
    assert [(question.batch_size, question.is_checked, len(question.configs)) for question in bench.asked] == [
        (16, True, 4),
        (64, True, 4),
    ]
    assert time_neighbours(file, cases, Bench({2: 100.0, 4: 99.5})) == []
    assert time_neighbours(file, cases, Bench({1: 50.0})) == [], "the entry itself fails"
    assert time_neighbours(file_of({1: 4}), cases, Bench({})) == []


def test_what_loses_to_a_neighbour_is_stale_and_says_so() -> None:
    unknown = TunedSet(KEY, SetState.UNKNOWN, ("it does not say which Triton it was tuned with",))
    losses = time_neighbours(file_of({1: 1, 64: 2}), [Case(LAYER, 64)], Bench({1: 80.0, 2: 100.0}))
    found = add_losses(unknown, losses)
    assert (found.state, found.reasons) == (SetState.STALE, ("its entry for M=1 beats it by 25.0% at M=64",))
    assert round(found.lost_us, 3) == 20.01
    assert add_losses(unknown, []) is unknown
