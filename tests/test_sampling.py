"""When which provider is sampled, when it is enough, and what becomes of trials at a slow clock."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import pytest

from kernels.timing.timers import Sampling
from tasks.intervals import find_median_interval
from tasks.records import DeviceState
from tasks.sampling import (
    MOST_REPEATS,
    REFERENCE_SAMPLES,
    SLOW_CLOCK,
    ClockWatch,
    Reading,
    Readings,
    list_turns,
    take_in_turn,
)

SAMPLING = Sampling(per_trial=5, trial_seconds=0.05, least_trials=6, most_trials=40, budget_seconds=60.0)
LEAST, MOST = 30, 200
"""Samples that follow from it where a sample is quick."""
ALIKE = (100.0,)
FAR_APART = (95.0,) * 5 + (105.0,) * 5
"""One trial reads the one, the next the other: the interval of their median is +- 5 % however many there are."""


class Scripted:
    """A stopwatch that reads what it is told, over and over, and notes in `turns` when it was asked."""

    def __init__(self, name: str, samples_us: Sequence[float], turns: list[str], seconds: float = 0.0) -> None:
        self.num_calls = 0
        self.sample_seconds = seconds
        self._name, self._turns, self._seconds = name, turns, seconds
        self._samples_us: Iterator[float] = itertools.cycle(samples_us)

    def take(self, count: int, meanwhile: Callable[[], object]) -> tuple[float, ...]:
        self._turns.append(self._name)
        meanwhile()
        time.sleep(count * self._seconds)
        self.num_calls += count
        return tuple(itertools.islice(self._samples_us, count))

    def close(self) -> None:
        """Nothing to free."""


def see_clocks(clocks_mhz: Iterable[int], reason: str = "sw_thermal_slowdown") -> ClockWatch:
    """A device whose clock reads one figure after the other, and the last one from then on."""
    left, last = iter(clocks_mhz), [0]

    def read_state() -> DeviceState:
        last[0] = next(left, last[0])
        return DeviceState(last[0], 3201, 700.0, 60, (reason,) if last[0] < 1900 else ())

    return ClockWatch(read_state)


def sample(
    scripts: dict[str, Sequence[float]],
    references: Sequence[str] = (),
    sampling: Sampling = SAMPLING,
    watch: ClockWatch | None = None,
    **how: float,
) -> tuple[Readings, list[str]]:
    """The readings of providers that read what their scripts say, and the turns they were taken in."""
    turns: list[str] = []
    stopwatches = {name: Scripted(name, samples_us, turns) for name, samples_us in scripts.items()}
    beside = {name: Scripted(name, ALIKE, turns) for name in references}
    seen = watch or ClockWatch(lambda: None)
    return take_in_turn(stopwatches, beside, sampling, seen, **how), turns  # type: ignore[arg-type]


def rounds_of(reading: Reading) -> list[int]:
    return [trial.round for trial in reading.trials]


# Turns


def test_rounds_have_another_order_each_references_too() -> None:
    readings, turns = sample({"a": ALIKE, "b": ALIKE}, ("copy",))
    assert turns[:12] == ["a", "copy", "b", "b", "copy", "a", "b", "a", "copy", "copy", "a", "b"]
    assert readings.rounds == len(turns) / 3 == 6


@pytest.mark.parametrize("num_names", [1, 2, 3, 4, 5, 8, 15, 16])
def test_everybody_comes_after_everybody_else_and_has_every_place_equally_often(num_names: int) -> None:
    names = [str(index) for index in range(num_names)]
    rounds = [list_turns(names, number) for number in range(2 * num_names)]
    neighbours = Counter(pair for turns in rounds for pair in itertools.pairwise(turns))
    assert neighbours == dict.fromkeys(itertools.permutations(names, 2), 2)
    places = Counter(place for turns in rounds for place in enumerate(turns))
    assert places == dict.fromkeys(itertools.product(range(num_names), names), 2)


def test_over_many_rounds_every_provider_is_in_every_place_equally_often() -> None:
    _, turns = sample({"a": FAR_APART, "b": FAR_APART}, ("copy", "gemm"))
    places = [(index % 4, name) for index, name in enumerate(turns)]
    assert {place: places.count(place) for place in places} == {
        (place, name): 10 for place in range(4) for name in ("a", "b", "copy", "gemm")
    }


def test_references_are_sampled_once_a_round() -> None:
    readings, _ = sample({"a": ALIKE}, ("copy", "gemm"))
    assert {name: len(samples) for name, samples in readings.references.items()} == {
        "copy": readings.rounds * REFERENCE_SAMPLES,
        "gemm": readings.rounds * REFERENCE_SAMPLES,
    }


def test_trials_of_a_round_stand_side_by_side_whoever_is_known_first() -> None:
    readings, _ = sample({"quiet": ALIKE, "noisy": FAR_APART})
    quiet, noisy = readings.providers["quiet"], readings.providers["noisy"]
    assert rounds_of(quiet) == rounds_of(noisy) == list(range(40))
    assert [trial.num_samples for trial in quiet.trials] == [SAMPLING.per_trial] * 40


def test_rounds_may_begin_at_a_later_number() -> None:
    readings, _ = sample({"a": ALIKE}, first_round=7)
    assert rounds_of(readings.providers["a"]) == [7, 8, 9, 10, 11, 12]
    assert readings.rounds == 6


def test_samples_are_kept_in_the_order_they_were_taken() -> None:
    script = tuple(float(number) for number in range(100, 130))
    readings, _ = sample({"a": script}, sampling=replace(SAMPLING, most_trials=6))
    reading = readings.providers["a"]
    assert reading.samples_us == script
    assert sum(trial.num_samples for trial in reading.trials) == len(script)


def test_without_providers_nothing_is_sampled() -> None:
    readings, turns = sample({}, ("copy",))
    assert (readings.rounds, turns, readings.references) == (0, [], {"copy": ()})


# When it is enough


def test_samples_that_are_alike_end_at_the_least() -> None:
    assert len(sample({"a": ALIKE})[0].providers["a"].samples_us) == LEAST


def test_samples_that_stay_far_apart_end_at_the_most() -> None:
    readings, _ = sample({"a": FAR_APART})
    assert len(readings.providers["a"].samples_us) == MOST


def test_sampling_ends_with_the_first_trial_after_which_the_interval_is_narrow_enough() -> None:
    script = (98.0,) * 5 + (102.0,) * 5 + (98.0,) * 5 + (100.0,) * 185
    samples_us = sample({"a": script})[0].providers["a"].samples_us
    assert LEAST < len(samples_us) < MOST
    medians = samples_us[:: SAMPLING.per_trial]
    assert find_median_interval(medians).relative_half_width <= 0.005
    assert find_median_interval(medians[:-1]).relative_half_width > 0.005


def test_samples_of_one_trial_count_once_however_alike_they_are() -> None:
    script = [level for level in (98.0, 102.0) * 20 for _ in range(5)]
    assert len(sample({"a": script})[0].providers["a"].samples_us) == MOST


def test_a_coarser_precision_is_reached_sooner() -> None:
    assert len(sample({"a": FAR_APART}, precision=0.051)[0].providers["a"].samples_us) == LEAST


def test_over_its_budget_a_provider_ends_with_the_fewest_trials_alike_or_not() -> None:
    none_left = replace(SAMPLING, budget_seconds=0.0)
    readings, _ = sample({"a": FAR_APART, "b": ALIKE}, sampling=none_left)
    assert {name: len(r.samples_us) for name, r in readings.providers.items()} == {"a": LEAST, "b": LEAST}


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 5), (1e-5, 5), (0.012, 4), (0.04, 1), (3.0, 1)])
def test_a_trial_has_fewer_samples_where_they_take_long(seconds: float, count: int) -> None:
    assert SAMPLING.count_samples(seconds) == count


def test_a_budget_is_of_each_provider_so_a_slow_one_does_not_end_the_others() -> None:
    turns: list[str] = []
    slow = Scripted("slow", ALIKE + FAR_APART, turns, seconds=0.03)
    stopwatches = {"slow": slow, "noisy": Scripted("noisy", FAR_APART, turns)}
    in_short = replace(SAMPLING, budget_seconds=0.1)
    readings = take_in_turn(stopwatches, {}, in_short, ClockWatch(lambda: None))
    assert len(readings.providers["slow"].samples_us) == SAMPLING.least_trials
    assert len(readings.providers["noisy"].samples_us) > LEAST


@pytest.mark.parametrize(
    ("reason", "is_ended_too"), [("sw_power_cap", True), ("sw_thermal_slowdown", False)], ids=["power", "heat"]
)
def test_at_the_power_limit_all_end_with_the_first_so_that_nobody_finds_other_clocks(
    reason: str, is_ended_too: bool
) -> None:
    turns: list[str] = []
    slow = Scripted("slow", ALIKE, turns, seconds=0.03)
    stopwatches = {"slow": slow, "noisy": Scripted("noisy", FAR_APART, turns)}
    in_short = replace(SAMPLING, budget_seconds=0.1)
    readings = take_in_turn(stopwatches, {}, in_short, see_clocks((1500,), reason))
    rounds = {name: len(set(rounds_of(reading))) for name, reading in readings.providers.items()}
    assert rounds["slow"] == SAMPLING.least_trials
    assert (rounds["noisy"] == SAMPLING.least_trials) is is_ended_too


# Clocks


def test_without_a_device_state_no_trial_is_slow() -> None:
    trials = sample({"a": ALIKE})[0].providers["a"].trials
    assert {(trial.state, trial.is_slow_clock) for trial in trials} == {(None, False)}


def test_a_trial_carries_the_state_that_was_read_while_it_ran() -> None:
    readings, _ = sample({"a": ALIKE}, watch=see_clocks((1980, 1975, 1970, 1965, 1960, 1955)))
    states = [trial.state for trial in readings.providers["a"].trials]
    assert [state.sm_clock_mhz for state in states if state] == [1980, 1975, 1970, 1965, 1960, 1955]


@pytest.mark.parametrize(("clock_mhz", "is_slow"), [(950, False), (949, True)])
def test_a_clock_is_slow_below_95_percent_of_the_fastest_seen(clock_mhz: int, is_slow: bool) -> None:
    assert SLOW_CLOCK == 0.95
    watch = see_clocks((500, 1000, clock_mhz))
    watch.read()
    assert not watch.is_slow
    watch.read()
    watch.read()
    assert watch.is_slow is is_slow


def test_a_trial_at_a_slow_clock_is_set_aside_kept_and_repeated() -> None:
    script = [100.0] * 5 + [140.0] * 5 + [100.0] * 40
    readings, _ = sample({"a": script}, watch=see_clocks((1980, 1500, 1980)))
    reading = readings.providers["a"]
    assert reading.samples_us == (100.0,) * 30
    aside = reading.trials[1]
    assert (aside.round, aside.num_samples, aside.is_slow_clock) == (1, 0, True)
    assert aside.set_aside_us == (140.0,) * 5
    assert aside.state is not None
    assert (aside.state.sm_clock_mhz, aside.state.throttle_reasons) == (1500, ("sw_thermal_slowdown",))
    assert rounds_of(reading) == [0, 1, 1, 2, 3, 4, 5]
    assert sum(trial.num_samples for trial in reading.trials) == 30


def test_a_clock_that_stays_slow_is_repeated_up_to_the_limit_then_kept_and_marked() -> None:
    readings, turns = sample({"a": ALIKE}, watch=see_clocks((1980, 1500)))
    trials = readings.providers["a"].trials
    assert MOST_REPEATS == 2
    assert [bool(trial.set_aside_us) for trial in trials] == [False, True, True, False, False, False, False, False]
    assert [trial.is_slow_clock for trial in trials] == [False] + [True] * 7
    assert len(readings.providers["a"].samples_us) == LEAST
    assert len(turns) == SAMPLING.least_trials + MOST_REPEATS


def test_a_clock_that_only_the_kernels_own_power_holds_down_is_marked_and_not_repeated() -> None:
    watch = see_clocks((1980, 1500), "sw_power_cap")
    trials = sample({"a": ALIKE}, watch=watch)[0].providers["a"].trials
    assert [trial.is_slow_clock for trial in trials] == [False] + [True] * 5
    assert not any(trial.set_aside_us for trial in trials)


def test_every_provider_has_repeats_of_its_own_and_rounds_stay_side_by_side() -> None:
    readings, _ = sample({"a": ALIKE, "b": ALIKE}, watch=see_clocks((1980, 1500)))
    first, second = readings.providers["a"], readings.providers["b"]
    assert [sum(bool(trial.set_aside_us) for trial in r.trials) for r in (first, second)] == [2, 2]
    assert set(rounds_of(first)) == set(rounds_of(second)) == set(range(6))


def test_the_fastest_clock_is_remembered_from_one_case_to_the_next() -> None:
    watch = see_clocks((1980,) * 6 + (1500,))
    sample({"a": ALIKE}, watch=watch)
    trials = sample({"a": ALIKE}, watch=watch)[0].providers["a"].trials
    assert all(trial.is_slow_clock for trial in trials)
