"""CUDA graphs: launches captured once and replayed between two events, without launch overhead."""

import math
from collections.abc import Callable, Sequence

import torch

from kernels.errors import KernelError

CALLS_PER_GRAPH = 10
WARMUP_CALLS = 3
MOST_WARMUP_REPLAYS = 5
LONG_REPLAY_US = 20_000.0
"""A replay that long gains nothing from one before it: what the caches hold, or a late launch, is lost in it."""
WARMUP_US = 300.0
"""Of replays before each trial: while they run the host gets ahead, so that no sample waits for its launch."""

Run = Callable[[], object]


class GraphStopwatch:
    """Replays one captured graph; each sample is a replay divided by its number of calls.

    The warm-up runs on the stream that captures: compiling, or a library's first use, inside a capture is an error.
    """

    def __init__(self, runs: Sequence[Run], least_calls: int = CALLS_PER_GRAPH) -> None:
        """Capture the runs in turn, each as often as any other, so often that there are `least_calls` in all.

        Args:
            runs: each launches on the current stream and never synchronizes.
        """
        rounds = math.ceil(least_calls / len(runs))
        self._runs = tuple(runs)  # what they hold in memory is what the graph reads and writes
        self.calls_per_sample = rounds * len(runs)
        self.num_calls = 0
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_CALLS):
                runs[0]()
            for run in runs[1:]:
                run()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self._graph, stream=stream):
                for _ in range(rounds):
                    outputs = [run() for run in runs]  # kept for the round, so that they too lie apart
                    del outputs
            [replay_us] = self._time_replays(1)
        except BaseException:
            self.close()
            raise
        self.sample_seconds = replay_us / 1e6
        is_long = replay_us > LONG_REPLAY_US
        self._num_warmups = 0 if is_long else min(MOST_WARMUP_REPLAYS, math.ceil(WARMUP_US / replay_us))

    def take(self, count: int, meanwhile: Callable[[], object]) -> tuple[float, ...]:
        """Microseconds per call of `count` replays, after some that bring back the caches as this graph leaves them.

        Args:
            meanwhile: called while the device is at work.
        """
        replays_us = self._time_replays(self._num_warmups + count, meanwhile)[self._num_warmups :]
        return tuple(replay_us / self.calls_per_sample for replay_us in replays_us)

    def _time_replays(self, count: int, meanwhile: Callable[[], object] = lambda: None) -> list[float]:
        """Microseconds of each replay.

        All are queued before the first is waited for: a host that waited in between would add its launch latency.
        """
        starts, stops = ([torch.cuda.Event(enable_timing=True) for _ in range(count)] for _ in range(2))
        for start, stop in zip(starts, stops, strict=True):
            start.record()
            self._graph.replay()
            stop.record()
        meanwhile()
        torch.cuda.synchronize()
        self.num_calls += count * self.calls_per_sample
        return [start.elapsed_time(stop) * 1e3 for start, stop in zip(starts, stops, strict=True)]

    def close(self) -> None:
        """Free the graph's memory."""
        self._graph.reset()


def count_input_sets(bytes_moved: int, l2_bytes: int) -> int:
    """The fewest input sets of that many bytes each that exceed twice the L2 together."""
    return 2 * l2_bytes // bytes_moved + 1


def require_cold(distinct_bytes: int, l2_bytes: int) -> None:
    """Refuse input sets of which one could still be in the L2 when its turn comes again.

    Raises:
        KernelError: together they are no more than twice the L2.
    """
    if distinct_bytes <= 2 * l2_bytes:
        raise KernelError(f"input sets of {distinct_bytes} bytes are no more than twice the L2 ({l2_bytes} bytes)")
