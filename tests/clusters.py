"""A real Ray cluster on this machine: nodes with logical GPUs, and a stand-in for a worker's Bench that breaks them."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import benches
import ray
from ray.cluster_utils import Cluster
from sending import sending

import tasks.bench
from kernels.rates import Rate
from kernels.spec import Case, Device, Layer
from tasks.bench import Contender
from tasks.records import Check, Host, Status, Trial, WeightsReceipt, WorkUnit
from tasks.sampling import Reading, Readings

MEGABYTE = 2**20
SMALL = {
    "object_store_memory": 80 * MEGABYTE,
    "include_dashboard": False,
    "include_log_monitor": False,
    "no_monitor": True,
}
NOTICE_QUICKLY = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 2,
}
"""Ray's own settings take 15 s to notice that a node is gone."""


class ClusterBench:
    """Measures nothing and notes what it was asked in $CLUSTER_NOTES/loads, a line "node GPU model" for each layer.

    Files there say what happens to whoever loads a layer: "kill MODEL ..." takes its node down, "lose MODEL ..." its
    GPU, "crash MODEL ..." its process. Each file does so once.
    """

    def __init__(self, device_type: str) -> None:
        self._type = device_type
        self._notes = Path(os.environ["CLUSTER_NOTES"])
        self._name, self._gpu = os.environ["CLUSTER_GPU"], os.environ.get("CUDA_VISIBLE_DEVICES", "")
        self._node = os.environ["CLUSTER_NODE"]
        self._dead = self._notes / f"dead {self._node} {self._gpu}"
        if self._dead.exists():
            raise RuntimeError("first line\nCUDA error: no CUDA-capable device is detected")
        host_id = f"{hash((self._node, self._gpu)) % 16**16:016x}"
        device = Device(device_type, self._name, (9, 0))
        self._host = Host(host_id, device, f"GPU-{self._node}-{self._gpu}", "1", "13.0", "3.11", "2.13", "3.7", "", 2)

    def host(self) -> Host:
        return self._host

    def ceilings(self) -> tuple[Rate, ...]:
        return (Rate("copy", 12.5, "GB/s"),)

    def load_layer(self, layer: Layer, seed: int) -> WeightsReceipt:
        with (self._notes / "loads").open("a") as loads:
            loads.write(f"{self._node} {self._gpu} {layer.model}\n")
        time.sleep(0.1)
        self._misbehave(layer.model)
        return WeightsReceipt(layer.key, seed, "ab" * 32, 1, 0.1, self._host.host_id)

    def check(self, case: Case, contender: Contender) -> Check:
        return Check(
            case, contender.provider, Status.OK, self._host.host_id, relative_error=0.01, share_close=1.0, flops=8
        )

    def time(self, _case: Case, contenders: Sequence[Contender], *_how: object) -> Readings:
        reading = Reading((1.0, 2.0, 3.0), (Trial(0, 3),))
        return Readings({contender.name: reading for contender in contenders}, {}, 1)

    def take_seconds(self) -> dict[str, float]:
        return {"sampling": 0.1}

    def _misbehave(self, model: str) -> None:
        for order in sorted(self._notes.glob(f"* {model} *")):
            with suppress(FileNotFoundError):  # another worker was first
                order.unlink()
                what = order.name.partition(" ")[0]
                if what == "kill":
                    os.kill(os.getppid(), signal.SIGKILL)  # the node's raylet, which takes its workers along
                    time.sleep(60)
                if what == "lose":
                    self._dead.touch()
                os._exit(7)


class CodeBench(benches.TestBench):
    """Knows where its code is from."""

    __test__ = False

    def sources(self) -> list[str]:
        import kernels
        import tasks.bench

        return [str(kernels.__file__), tasks.bench.__file__]


class NotingCompanion:
    """Notes what it was asked to compile in $CLUSTER_NOTES/compiled, then fails."""

    def __init__(self, device_type: str) -> None:
        self._notes = Path(os.environ["CLUSTER_NOTES"])
        self._gpus = ray.get_gpu_ids()

    def compile_unit(self, unit: WorkUnit, device: Device) -> None:
        with (self._notes / "compiled").open("a") as compiled:
            compiled.write(f"{os.environ['CLUSTER_NODE']} {unit.layer.model} {device.name} {self._gpus}\n")
        raise RuntimeError("cannot compile this")


@dataclass
class TestCluster:
    """A cluster whose head has nothing to give, so that every other node may be killed."""

    __test__ = False

    cluster: Cluster
    notes: Path
    nodes: list[Any] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to find the cluster, and to be let in: Ray turns tokens on in a process that has started
        a cluster of its own, so that ours may ask for one or not."""
        return {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled")}

    def add_node(self, name: str, num_gpus: int = 0, num_cpus: int = 0, gpu: str = "NVIDIA H200") -> None:
        named = {"CLUSTER_NOTES": str(self.notes), "CLUSTER_GPU": gpu, "CLUSTER_NODE": name}
        self.nodes.append(self.cluster.add_node(num_gpus=num_gpus, num_cpus=num_cpus, env_vars=named, **SMALL))

    def remove_nodes(self) -> None:
        for node in self.nodes:
            self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.clear()

    def order(self, what: str, model: str, times: int = 1) -> None:
        """Have a ClusterBench misbehave when it loads a layer of the model."""
        for number in range(times):
            (self.notes / f"{what} {model} {number}").touch()

    def read(self, name: str) -> list[list[str]]:
        """Words of the lines of a note."""
        path = self.notes / name
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def open_cluster(notes: Path) -> Iterator[TestCluster]:
    """A cluster with no node but its head."""
    import clusters

    head = {"num_cpus": 0, "_system_config": NOTICE_QUICKLY, **SMALL}
    with sending(benches, clusters, tasks.bench):
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield TestCluster(cluster, notes)
        finally:
            ray.shutdown()
            cluster.shutdown()
