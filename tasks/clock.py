"""Seconds by name: where a run's, or a worker's, time went."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Clock:
    """Seconds spent in each activity, summed over threads; safe to use from any thread."""

    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Add the wall time of the block to an activity."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(activity, time.perf_counter() - start)

    def add(self, activity: str, seconds: float) -> None:
        """Add seconds to an activity."""
        with self._lock:
            self.seconds[activity] = self.seconds.get(activity, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """The seconds so far; counting begins anew."""
        with self._lock:
            taken, self.seconds = self.seconds, {}
        return taken


def find_process_seconds(stat: Path = Path("/proc/self/stat")) -> float:
    """How long ago this process was started, by the system's clock since it was booted."""
    after_name = stat.read_text().rpartition(")")[2].split()  # the name may hold anything
    started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
