"""Stand-ins for a worker's Bench that misbehave on purpose; in a file of their own, so that workers can import them.

Many a process is started for a TestBench: it holds nothing that would have Ray's worker wait for torch.
"""

import ctypes
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kernels.rates import Rate
from kernels.spec import Case, Device, Layer
from tasks.bench import Contender
from tasks.records import Check, Host, Status, Trial, WeightsReceipt
from tasks.sampling import Reading, Readings

CPU = Device("cpu", "cpu: made up")
HOST = Host("feedfeedfeedfeed", CPU, "", "", "", "3.11.2", "2.11.0", "3.6.0", "", 2)


class MisbehavedError(RuntimeError):
    """What a provider may raise."""


class AcceleratorError(RuntimeError):
    """Named as torch names what leaves a CUDA context unusable."""


class OutOfMemoryError(RuntimeError):
    """Named as torch names it, whose own a process would import for seconds, within the limit of the call."""


class UnsendableError(Exception):
    """Cannot be unpickled: its arguments are not those of its constructor, as in many a library."""

    def __init__(self, value: int, limit: int) -> None:
        super().__init__(f"{value} is over {limit}")


def hold_the_gil() -> None:
    """Wait for ever inside one C call that never lets go of the GIL; it leaves the core to the other tests."""
    mutex = ctypes.create_string_buffer(64)  # a pthread_mutex_t that is not locked
    for _ in range(2):  # the second time waits for the first
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)


class TestBench:
    """Answers, raises, dies or hangs, as its caller asks."""

    __test__ = False

    def __init__(self, device_type: str) -> None:
        self._device_type = device_type
        self._calls = 0

    def host(self) -> Host:
        return HOST

    def process_id(self) -> int:
        return os.getpid()

    def niceness(self) -> int:
        return os.nice(0)

    def count_call(self) -> int:
        self._calls += 1
        return self._calls

    def device_type(self) -> str:
        return self._device_type

    def add(self, one: int, other: int) -> int:
        return one + other

    def raise_error(self, message: str) -> None:
        raise MisbehavedError(message)

    def raise_out_of_memory(self) -> None:
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 42.00 GiB.\nGPU 0 has a total capacity")

    def raise_accelerator_error(self) -> None:
        raise AcceleratorError("CUDA error: an illegal memory access was encountered")

    def raise_unsendable_error(self) -> None:
        raise UnsendableError(5, 4)

    def exit(self) -> None:
        os._exit(7)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def hold_the_gil(self) -> None:
        hold_the_gil()


class ManyCoresBench(TestBench):
    """On a machine with sixteen cores."""

    __test__ = False

    def host(self) -> Host:
        return replace(HOST, num_cpus=16)


class NeverStartingBench(TestBench):
    """Finds no device."""

    __test__ = False

    def __init__(self, device_type: str) -> None:
        raise MisbehavedError("CUDA error: no device is detected")


class SlowlyStartingBench(TestBench):
    """Takes longer to start than any test."""

    __test__ = False

    def __init__(self, device_type: str) -> None:
        time.sleep(600)


TWINS = ("twin", "other twin")
"""Timers of a UnitTestBench that do the same."""


class UnitTestBench:
    """Does to each provider what its name says: when it is checked, or timed if the name begins with "late-".

    It writes every layer it loads into the file that the layer's model names, and every try of a provider into that
    file's neighbour ".tries", the timers into ".timers"; a scheme of "broken" makes the layer fail to load, and who is
    "lonely" cannot be timed with others.
    """

    __test__ = False

    def __init__(self, _device_type: str) -> None:
        self._layer: Layer | None = None

    def host(self) -> Host:
        return HOST

    def ceilings(self) -> tuple[Rate, ...]:
        return (Rate("copy", 12.5, "GB/s"),)

    def load_layer(self, layer: Layer, seed: int) -> WeightsReceipt:
        with Path(layer.model).open("a") as log:
            log.write(f"{os.getpid()} {seed}\n")
        if layer.scheme == "broken":
            raise MisbehavedError("no such weights")
        self._layer = layer
        return WeightsReceipt(layer.key, seed, "ab" * 32, 1, 0.1, HOST.host_id)

    def check(self, case: Case, contender: Contender) -> Check:
        if self._layer is None or self._layer.key != case.layer.key:
            raise MisbehavedError("the layer was not loaded")
        self._try(contender.provider, case.layer)
        return Check(case, contender.provider, Status.OK, HOST.host_id, relative_error=0.01, share_close=1.0, flops=8)

    def time(
        self, case: Case, contenders: Sequence[Contender], timer: str, _precision: float, first_round: int = 0
    ) -> Readings:
        with Path(f"{case.layer.model}.timers").open("a") as log:
            log.write(f"{timer}\n")
        providers = [contender.provider for contender in contenders]
        if "lonely" in providers and len(providers) > 1:
            raise MisbehavedError("not in company")
        for provider in providers:
            if provider.startswith("late-"):
                self._try(provider.removeprefix("late-"), case.layer)
        reading = Reading((1.0, 2.0, 3.0), (Trial(first_round, 3),))
        holds_for = tuple(twin for twin in TWINS if timer in TWINS and twin != timer)
        return Readings({contender.name: reading for contender in contenders}, {"copy": (5.0,)}, 1, holds_for)

    def take_seconds(self) -> dict[str, float]:
        return {"sampling": 0.5}

    def has_torch(self) -> bool:
        return "torch" in sys.modules

    def _try(self, provider: str, layer: Layer) -> None:
        tries = Path(f"{layer.model}.tries")
        before = tries.read_text().splitlines() if tries.exists() else []
        tries.write_text("\n".join([*before, provider]))
        self._behave("crash" if provider == "crash-once" and provider not in before else provider)

    def _behave(self, provider: str) -> None:
        match provider:
            case "crash":
                os._exit(7)
            case "hang":
                hold_the_gil()
            case "raise":
                raise MisbehavedError("two\nlines")
            case "out-of-memory":
                raise OutOfMemoryError("CUDA out of memory")
            case "lose-device":
                raise AcceleratorError("CUDA error: an illegal memory access was encountered")


class BrokenCeilingsBench(UnitTestBench):
    """Does to the ceilings what the scheme of the loaded layer says."""

    def ceilings(self) -> tuple[Rate, ...]:
        self._behave(self._layer.scheme if self._layer else "")
        return ()
