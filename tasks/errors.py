"""Every exception this project raises on purpose, in one tree; the console command prints its one line and exits.

BenchmarkError                 exit code 2
+-- KernelError                (kernels/errors.py)
|   +-- ShapeError             a size breaks a constraint of the kernel
|   +-- ConfigError            a launch configuration is not one of the kernel's
|   +-- RegistryError          a kernel file does not import, or declare its KERNEL
|   +-- OutOfMemoryError       tensors would not fit into the free memory
+-- UsageError                 an argument is wrong
|   +-- UnknownNameError       no such model, kernel, provider, scheme or suite; lists the nearest
|   +-- ModelConfigError       a model's config cannot be read or has no MoE fields
|   +-- ParallelismError       TP or EP does not divide
+-- StoreError                 the DuckDB file cannot be used
|   +-- NewerSchemaError       written by a newer version of this project
|   +-- StoreLockedError       held by another process
|   +-- RunMismatchError       a run cannot be resumed with other arguments
+-- WorkerError                no worker can be started     exit code 3
|   +-- WorkerRaised           a provider raised in its worker; becomes the status of its measurement
|   +-- WorkerCrashed          a worker's process died; likewise
|   +-- WorkerHung             a worker did not answer in time; likewise
|   +-- WorkerLost             a worker's device or machine is gone; its unit goes to another
+-- TuningError                tuning cannot go on as it was asked to
|   +-- TunedFileError         a file of tuned configurations cannot be listed or written
|   +-- EmptySpaceError        no configuration is left to try
+-- ChannelError               an alert did not arrive; it stays in the outbox and the run goes on
    +-- LetterRefusedError     the channel works, and refuses this one alert
"""

import difflib
from collections.abc import Iterable

from kernels.errors import BenchmarkError


class UsageError(BenchmarkError):
    """An argument is wrong."""


class UnknownNameError(UsageError):
    """A name is not one of those that exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=3, cutoff=0.4)
        shown = [n for n in names if n.lower() in near] or names
        label = "nearest" if near else "known"
        super().__init__(f"unknown {kind} {name!r}; {label}: {', '.join(shown)} (all: kernel-nightly list {kind}s)")


class ModelConfigError(UsageError):
    """A model's config cannot be found or read, or has no MoE fields."""


class ParallelismError(UsageError):
    """A tensor- or expert-parallel size does not divide what it splits."""


class StoreError(BenchmarkError):
    """The DuckDB file cannot be used."""


class NewerSchemaError(StoreError):
    """The file was written by a newer version of this project."""


class StoreLockedError(StoreError):
    """Another process holds the file."""


class RunMismatchError(StoreError):
    """A run id exists with other arguments."""


class WorkerError(BenchmarkError):
    """No worker can be started, or none is left."""

    exit_code = 3


class WorkerRaised(WorkerError):  # noqa: N818 - what happened to the worker, not an error of the run
    """A method of a worker raised; the worker answers the next call."""

    def __init__(self, message: str, *, out_of_memory: bool, device_lost: bool) -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory
        self.device_lost = device_lost
        """Whether the process can no longer use its device (CUDA errors are sticky)."""


class WorkerCrashed(WorkerError):  # noqa: N818
    """A worker's process died; the next call starts a fresh one."""


class WorkerHung(WorkerError):  # noqa: N818
    """A worker did not answer in time and was killed; the next call starts a fresh one."""


class WorkerLost(WorkerError):  # noqa: N818
    """A worker has no process and can get none: its GPU failed or its machine is gone."""

    def __init__(self, message: str, *, with_machine: bool = False) -> None:
        super().__init__(message)
        self.with_machine = with_machine
        """Whether all other workers of that machine are lost too."""


class ChannelError(BenchmarkError):
    """An alert did not arrive; one line without secrets. It stays in the outbox, and the run goes on."""

    def __init__(self, message: str, *, wait_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds
        """How long the channel asks to be left alone."""


class LetterRefusedError(ChannelError):
    """The channel works and refuses this one alert: others may pass."""


class TuningError(BenchmarkError):
    """Tuning cannot go on as it was asked to."""


class TunedFileError(TuningError):
    """A file of tuned configurations cannot be listed or written."""


class EmptySpaceError(TuningError):
    """No configuration is left to try."""
