"""A worker beside another on the same device, whose process runs the code of another commit."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.commits.committed import CommitBench, flatten, rebuild
from tasks.errors import WorkerCrashed, WorkerLost, WorkerRaised
from tasks.records import Host
from tasks.workers import START_SECONDS, Worker, send_folder


class CommitWorker(Worker):
    """Takes turns with the other, so it takes no GPU and no CPU from Ray.

    Whatever happens to it costs the other nothing. So it is never lost: that its process cannot be started is a crash.
    """

    def __init__(self, beside: Worker, folder: Path, commit: str) -> None:
        """
        Args:
            beside: whose device it shares, and with which it ends.
            folder: holds the packages `kernels` and `tasks` of the commit; Ray sends it to the device's machine.
        """
        host = beside.host()
        super().__init__(host.device.type, CommitBench, beside.node)
        self._host = host
        self._folder = folder
        self._commit = commit
        self._beside = beside
        beside.beside.append(self)

    def __str__(self) -> str:
        return f"the code of commit {self._commit[:12]}"

    def _choose_options(self) -> dict[str, Any]:
        environment: dict[str, Any] = {**send_folder(self._folder)}
        if self._host.device.type == "cuda":
            environment["env_vars"] = {"CUDA_VISIBLE_DEVICES": self._host.device_uuid}
        return {"num_gpus": 0, "num_cpus": 0, "runtime_env": environment}

    def end(self) -> None:
        """Kill the process for good, and be forgotten by the worker that it was beside."""
        super().end()
        with suppress(ValueError):  # that one may be ending it a second time
            self._beside.beside.remove(self)

    def host(self) -> Host:
        """The environment of the worker that it is beside, once its own process has found itself on that device.

        Raises:
            WorkerCrashed: no process can be started.
        """
        try:
            return super().host()
        except WorkerLost as lost:
            raise WorkerCrashed(str(lost)) from lost

    def _greet(self) -> Host:
        here = (self._host.device.name, self._host.device_uuid)
        found = super()._ask("find_device", (), START_SECONDS)
        if tuple(found) != here:
            raise WorkerCrashed(f"{self} runs on {' '.join(found)} instead of {' '.join(here)}")
        return self._host

    def _ask(self, method: str, arguments: tuple[object, ...], limit_seconds: float) -> Any:
        try:
            return rebuild(super()._ask("answer", (method, flatten(arguments)), limit_seconds))
        except WorkerLost as lost:
            raise WorkerCrashed(str(lost)) from lost
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            told = f"{self} answers what is not known here: {str(error).partition(chr(10))[0]}"
            raise WorkerRaised(told, out_of_memory=False, device_lost=False) from error
