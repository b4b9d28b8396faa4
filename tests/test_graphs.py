"""A captured graph calls its launches in turn, keeps what they need alive, and input sets of `cold` really are cold."""

import gc
import statistics
import weakref

import pytest
import torch

from kernels.errors import KernelError
from kernels.timing.devices import l2_bytes
from kernels.timing.graphs import (
    CALLS_PER_GRAPH,
    WARMUP_CALLS,
    GraphStopwatch,
    Run,
    count_input_sets,
    require_cold,
)

MEBIBYTE = 1 << 20
gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.parametrize("bytes_moved", [1, 7, 99, 100, 101, 200, 201, 1000])
def test_input_sets_are_as_few_as_exceed_twice_the_l2(bytes_moved: int):
    count = count_input_sets(bytes_moved, 100)
    assert count * bytes_moved > 200 >= (count - 1) * bytes_moved
    require_cold(count * bytes_moved, 100)


def test_input_sets_that_could_still_be_in_the_l2_are_refused_with_both_sizes():
    with pytest.raises(KernelError, match=r"200 bytes are no more than twice the L2 \(100 bytes\)"):
        require_cold(200, 100)


def look_away() -> None:
    """Do nothing meanwhile."""


@gpu
@needs_gpu
def test_a_graph_of_one_launch_is_timed_replay_by_replay():
    x = torch.ones(MEBIBYTE, device="cuda")
    stopwatch = GraphStopwatch([lambda: x * 2])
    before = stopwatch.num_calls
    samples_us = stopwatch.take(30, look_away)
    stopwatch.close()
    assert len(samples_us) == 30
    assert all(0 < sample_us < 1000 for sample_us in samples_us)
    assert stopwatch.calls_per_sample == CALLS_PER_GRAPH
    assert stopwatch.num_calls - before >= 30 * CALLS_PER_GRAPH


@gpu
@needs_gpu
def test_each_of_several_launches_is_called_as_often_as_any_other():
    counters = torch.zeros(3, dtype=torch.int64, device="cuda")
    stopwatch = GraphStopwatch([lambda one=one: one.add_(1) for one in counters])
    assert stopwatch.calls_per_sample == 12  # the least multiple of three that is no less than ten
    stopwatch.take(5, look_away)
    replayed = stopwatch.num_calls // 3
    assert counters.tolist() == [replayed + WARMUP_CALLS, replayed + 1, replayed + 1]
    stopwatch.close()


def prepare_sum(size: int) -> tuple[Run, weakref.ref[torch.Tensor], torch.Tensor]:
    """A launch that holds a tensor nobody else does, as a provider holds its repacked weights; and where it writes."""
    repacked, out = torch.ones(size, device="cuda"), torch.zeros((), device="cuda")
    return lambda: torch.sum(repacked, dim=0, out=out), weakref.ref(repacked), out


@gpu
@needs_gpu
def test_a_graph_keeps_alive_what_its_launches_read_until_it_is_dropped():
    """Freed, a prepared tensor's memory was unmapped or another's by the time of the replay: an illegal access."""
    run, repacked, out = prepare_sum(16 * MEBIBYTE)
    stopwatch = GraphStopwatch([run])
    del run
    gc.collect()
    torch.cuda.empty_cache()
    others = torch.full((16 * MEBIBYTE,), torch.nan, device="cuda")
    out.fill_(torch.nan)
    assert repacked() is not None
    stopwatch.take(3, look_away)
    assert out.item() == 16 * MEBIBYTE
    assert others.isnan().all()
    stopwatch.close()
    del stopwatch
    gc.collect()
    assert repacked() is None


@gpu
@needs_gpu
def test_outputs_of_one_round_lie_apart_so_that_they_are_cold_too():
    x, seen = torch.ones(MEBIBYTE, device="cuda"), []

    def run() -> torch.Tensor:
        out = x * 2
        seen.append(out.data_ptr())
        return out

    stopwatch = GraphStopwatch([run] * 4)
    first, second, third = (set(seen[-last : len(seen) - last + 4]) for last in (12, 8, 4))
    assert stopwatch.calls_per_sample == 12
    stopwatch.close()
    assert len(first) == 4
    assert first == second == third


@gpu
@needs_gpu
def test_reading_half_the_l2_takes_clearly_longer_cold_than_warm():
    l2 = l2_bytes(torch.device("cuda", 0))
    rows, columns = l2 // 2 // 4096, 1024  # of float32
    num_sets = count_input_sets(rows * 4096, l2)
    buffers = [torch.ones(rows, columns, device="cuda") for _ in range(num_sets)]
    out = torch.empty(rows, device="cuda")
    runs: list[Run] = [lambda buffer=buffer: torch.sum(buffer, dim=1, out=out) for buffer in buffers]
    warm, cold = GraphStopwatch(runs[:1]), GraphStopwatch(runs)
    warm_us, cold_us = (statistics.median(stopwatch.take(30, look_away)) for stopwatch in (warm, cold))
    for stopwatch in (warm, cold):
        stopwatch.close()
    assert cold_us > 1.15 * warm_us, f"cold {cold_us:.2f} us, warm {warm_us:.2f} us"


@gpu
@needs_gpu
def test_a_launch_that_fails_while_it_warms_up_is_told_as_it_is():
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        GraphStopwatch([fail])
