"""Processes that compile configurations in parallel, without a GPU, before it is to time them."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

from kernels.moe.vllm_config_files import Config
from kernels.spec import Case, Device
from tasks.workers import Companion

COMPILE_LIMIT_SECONDS = 120.0
"""Longest that one configuration may take; the first of a process waits for what it imports too."""


class Compilers:
    """Companions of a GPU's worker (tasks/ahead.py). They are help and no more: what fails in them the GPU's worker
    compiles itself."""

    def __init__(self, companions: Sequence[Companion], device: Device) -> None:
        self._companions = list(companions)
        self._device = device
        self._idle: SimpleQueue[Companion] = SimpleQueue()
        for companion in companions:
            self._idle.put(companion)
        self._threads = ThreadPoolExecutor(max_workers=max(len(companions), 1))

    def begin(self, case: Case, provider: str, config: Config) -> "Future[str]":
        """Begin to compile a configuration; the result is a digest of its machine code, "" where that is not known."""
        if self._companions:
            return self._threads.submit(self._compile, case, provider, config)
        unknown: Future[str] = Future()
        unknown.set_result("")
        return unknown

    def _compile(self, case: Case, provider: str, config: Config) -> str:
        companion = self._idle.get()
        try:
            arguments = (case, provider, config, self._device)
            return companion.call("compile_config", *arguments, limit_seconds=COMPILE_LIMIT_SECONDS) or ""
        finally:
            self._idle.put(companion)

    def warm(self, case: Case, provider: str, configs: Sequence[Config]) -> None:
        """Begin to compile a configuration in each process, which imports what it needs before its first."""
        for config in configs[: len(self._companions)]:
            self.begin(case, provider, config)

    def close(self) -> None:
        """Kill the processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for companion in self._companions:
            companion.end()
        self._threads.shutdown()
