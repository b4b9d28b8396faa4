"""Timers say what they are, a sample is the time of one call, and what a call raises is not hidden."""

import statistics
import time
from collections.abc import Callable

import pytest
import torch

from kernels.errors import KernelError
from kernels.timing.graphs import WARMUP_CALLS
from kernels.timing.timers import TIMERS, WallStopwatch, list_twins, time_alone, timers_for

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_timers_are_keyed_by_their_names():
    assert all(timer.name == name for name, timer in TIMERS.items())


def test_each_device_type_has_its_timers():
    assert [timer.name for timer in timers_for("cuda")] == ["graph", "cold", "eager"]
    assert [timer.name for timer in timers_for("cpu")] == ["wall"]


def test_only_the_cold_timer_rotates_input_sets():
    assert [timer.name for timer in TIMERS.values() if timer.rotates_inputs] == ["cold"]


def test_a_graph_with_and_without_rotated_inputs_are_twins_and_no_others():
    assert {name: list_twins(timer) for name, timer in TIMERS.items() if list_twins(timer)} == {
        "graph": ("cold",),
        "cold": ("graph",),
    }


def test_a_device_type_without_a_timer_is_an_error_that_lists_those_with():
    with pytest.raises(KernelError, match=r"'xpu'.*cpu, cuda"):
        timers_for("xpu")


@pytest.mark.parametrize("timer", TIMERS.values(), ids=TIMERS)
def test_the_fewest_trials_bound_a_median_and_limits_do_not_contradict_each_other(timer):
    sampling = timer.sampling
    assert 6 <= sampling.least_trials <= sampling.most_trials
    assert sampling.per_trial >= 1


def test_a_wall_stopwatch_takes_as_many_samples_as_asked_and_says_how_often_it_called():
    calls: list[None] = []
    stopwatch = WallStopwatch([lambda: calls.append(None)])
    assert len(calls) == stopwatch.num_calls == WARMUP_CALLS + 1
    assert stopwatch.sample_seconds < 0.05
    looks: list[int] = []
    assert len(stopwatch.take(5, lambda: looks.append(len(calls)))) == 5
    assert len(calls) == stopwatch.num_calls == WARMUP_CALLS + 6
    assert len(looks) == 1


def test_what_happens_meanwhile_is_not_in_a_wall_sample():
    samples_us = WallStopwatch([lambda: None]).take(3, lambda: time.sleep(0.05))
    assert max(samples_us) < 50_000


def test_a_slow_call_reads_as_microseconds():
    samples_us = time_alone(TIMERS["wall"], lambda: time.sleep(0.005), 3)
    assert len(samples_us) == 3
    assert 5_000 <= min(samples_us) < 500_000


def test_a_call_that_fails_is_not_hidden_by_the_timer():
    with pytest.raises(ZeroDivisionError):
        time_alone(TIMERS["wall"], lambda: 1 // 0, 3)


def test_a_stopwatch_that_is_timed_alone_is_closed_even_if_the_call_fails_late():
    calls: list[None] = []

    def fail_late() -> None:
        calls.append(None)
        if len(calls) > WARMUP_CALLS + 1:
            raise ZeroDivisionError

    closed: list[None] = []

    class Closing(WallStopwatch):
        def close(self) -> None:
            closed.append(None)

    timer = TIMERS["wall"]
    made = type(timer)("closing", "cpu", "for this test", Closing, timer.sampling)
    with pytest.raises(ZeroDivisionError):
        time_alone(made, fail_late, 3)
    assert len(closed) == 1


def double_on_gpu(size: int) -> Callable[[], object]:
    x = torch.ones(size, device="cuda")
    return lambda: x * 2


@pytest.mark.gpu
@needs_gpu
def test_a_single_call_costs_more_than_one_of_a_graph_by_its_launch():
    run = double_on_gpu(1 << 10)
    eager_us, graph_us = (time_alone(TIMERS[name], run, 30) for name in ("eager", "graph"))
    assert len(eager_us) == len(graph_us) == 30
    assert statistics.median(eager_us) > statistics.median(graph_us)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", ["graph", "eager"])
def test_a_gpu_sample_reads_as_microseconds(name: str):
    cycles = 2_000_000  # a millisecond at 2 GHz
    samples_us = time_alone(TIMERS[name], lambda: torch.cuda._sleep(cycles), 5)
    assert all(500 < sample_us < 5_000 for sample_us in samples_us)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", ["graph", "eager"])
def test_a_gpu_is_looked_at_once_while_it_is_at_work(name: str):
    looks: list[bool] = []
    stopwatch = TIMERS[name].prepare([lambda: torch.cuda._sleep(20_000_000)])
    stopwatch.take(2, lambda: looks.append(torch.cuda.current_stream().query()))
    stopwatch.close()
    assert looks == [False]  # not idle
