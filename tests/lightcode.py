"""Commits whose code is light: the real records, and a Bench that times a loop of Python in a process without torch."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from test_archive import commit
from test_checkout import git

from tasks.checkout import CHECKOUT

REAL = ("kernels/__init__.py", "tasks/__init__.py", "kernels/errors.py", "kernels/spec.py", "tasks/records.py")
SAMPLING = """
from dataclasses import dataclass, field

@dataclass(frozen=True, slots=True)
class Reading:
    samples_us: tuple
    trials: tuple

@dataclass(frozen=True, slots=True)
class Readings:
    providers: dict = field(default_factory=dict)
    references: dict = field(default_factory=dict)
    rounds: int = 0
    unsupported: str = ""
"""
BENCH = """
import time
from dataclasses import dataclass
from pathlib import Path

from kernels.spec import Device
from tasks.records import Check, Host, Status, Trial, WeightsReceipt
from tasks.sampling import Reading, Readings

@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    provider: str
    config: object = None

class Bench:
    def __init__(self, device_type):
        model = [line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
        self._host = Host("light", Device(device_type, f"cpu: {model[0]}"), "", "", "", "", "", "", "", 1)

    def host(self):
        return self._host

    def load_layer(self, layer, seed):
        return WeightsReceipt(layer.key, seed, "", 0, 0.0, "light")

    def check(self, case, contender):
        return Check(case, contender.provider, Status("STATUS"), "light", "REASON")

    def time(self, case, contenders, timer, precision, first_round=0):
        readings = {}
        for contender in contenders:
            samples = []
            for _ in range(12):
                start = time.perf_counter()
                for _ in range(LOOPS * 10_000):
                    pass
                samples.append((time.perf_counter() - start) * 1e6)
            trials = tuple(Trial(first_round + number, 2) for number in range(6))
            readings[contender.name] = Reading(tuple(samples), trials)
        return Readings(readings, {}, 6)

    def drop_case(self):
        pass
"""


def make_bench(loops: int = 1, status: str = "ok", reason: str = "") -> str:
    """The source of a Bench that takes so long, or whose output is not right."""
    return BENCH.replace("LOOPS", str(loops)).replace("STATUS", status).replace("REASON", reason)


def write_light_code(folder: Path) -> None:
    """Packages of a commit, but for the Bench."""
    for path in REAL:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / path, folder / path)
    (folder / "tasks" / "sampling.py").write_text(SAMPLING)


def commit_benches(folder: Path, benches: Mapping[str, str]) -> dict[str, str]:
    """Commit Benches one after the other, each under a tag of its name; returns the commits."""
    commits = {}
    for name, source in benches.items():
        (folder / "tasks" / "bench.py").write_text(source)
        commits[name] = commit(folder)
        git(folder, "tag", name, commits[name])
    return commits
