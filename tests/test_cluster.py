"""Runs on a real Ray cluster of several nodes: units spread, nodes and GPUs lost in the middle, nothing else lost."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from clusters import ClusterBench, NotingCompanion, TestCluster, open_cluster
from prefect.testing.utilities import prefect_test_harness

from flows.nightly import nightly
from tasks.cases import Selection
from tasks.errors import WorkerError
from tasks.pool import start_workers
from tasks.records import Night, Status
from tasks.store import Store

pytestmark = pytest.mark.timeout(120)

MODELS = ("DeepSeek-V3", "gpt-oss-120b", "GLM-4.5-Air", "Mixtral-8x7B", "Qwen3-30B-A3B")
"""From the most weights to the fewest."""
FEW = Selection(
    models=MODELS[::-1],
    tp_sizes=(1,),
    kernels=("fused_moe",),
    schemes=("fp8_w8a8",),
    batch_sizes=(1,),
    providers=("torch",),
)
"""A unit for each model."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with prefect_test_harness(server_startup_timeout=120), open_cluster(tmp_path_factory.mktemp("notes")) as cluster:
        yield cluster


@pytest.fixture
def cluster(opened: TestCluster) -> Iterator[TestCluster]:
    yield opened
    opened.remove_nodes()
    for note in opened.notes.iterdir():
        note.unlink()


def run(cluster: TestCluster, save_dir: Path, run_id: str = "") -> Path:
    """The nightly, with stand-ins where its workers would use a GPU."""
    start_workers("cuda", cluster.address, ClusterBench, NotingCompanion)
    return nightly("nightly", FEW, device="cuda", save_dir=save_dir, address=cluster.address, run_id=run_id)


def read_night(save_dir: Path, run_id: str = "") -> Night:
    with Store.read(save_dir) as store:
        return store.night(run_id)


def count_units(night: Night) -> Counter[tuple[str, str]]:
    """How often each (model, device) was measured."""
    found = {(m.check.case.layer.model, m.device.name, m.check.host_id) for m in night.measurements}
    return Counter((model, device) for model, device, _ in found)


def each_once(*devices: str) -> Counter[tuple[str, str]]:
    return Counter((model, device) for model in MODELS for device in devices or ("NVIDIA H200",))


def test_units_are_spread_over_all_nodes_the_longest_first(
    cluster: TestCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.add_node("a", num_gpus=1)
    cluster.add_node("b", num_gpus=1)
    page = run(cluster, tmp_path)
    night = read_night(tmp_path)
    assert night.run.status == "complete"
    assert count_units(night) == each_once()
    assert {m.status for m in night.measurements} == {Status.OK}
    assert page.is_file()
    loads = [(node, model) for node, _, model in cluster.read("loads")]
    assert {node for node, _ in loads} == {"a", "b"}
    assert {model for _, model in loads[:2]} == set(MODELS[:2])
    assert loads[4][1] in MODELS[3:]
    assert len(night.ceilings) == len(night.hosts) == 2
    compiled = cluster.read("compiled")
    assert {node for node, *_ in compiled} <= {"a", "b"}
    assert all(line[-1] == "[]" for line in compiled), "a companion holds no GPU"
    assert Counter(model for _, model, *_ in compiled).most_common(1)[0][1] <= 2, "once on each machine"
    assert {model for _, model, *_ in compiled} <= set(MODELS[2:]), "only what waits in the line"
    told = capfd.readouterr()
    assert "on 2 x NVIDIA H200" in told.out
    assert told.err == ""


def test_a_node_killed_in_the_middle_loses_nothing(
    cluster: TestCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.add_node("a", num_gpus=1)
    cluster.add_node("b", num_gpus=1)
    cluster.order("kill", MODELS[2])
    run(cluster, tmp_path)
    night = read_night(tmp_path)
    assert night.run.status == "complete"
    assert count_units(night) == each_once()
    assert {m.status for m in night.measurements} == {Status.OK}
    first, second = (node for node, _, model in cluster.read("loads") if model == MODELS[2])
    assert {first, second} == {"a", "b"}
    assert "is lost: its machine left the cluster" in capfd.readouterr().out


def test_with_all_nodes_gone_the_run_is_partial_and_resumed_on_others(cluster: TestCluster, tmp_path: Path) -> None:
    cluster.add_node("a", num_gpus=1)
    cluster.order("kill", MODELS[2])
    with pytest.raises(
        WorkerError, match=r"^no NVIDIA H200 is left, 3 units are not measured, all others are kept"
    ) as e:
        run(cluster, tmp_path, "night-1")
    assert e.value.exit_code == 3
    assert "\n" not in str(e.value)
    night = read_night(tmp_path, "night-1")
    assert night.run.status == "partial"
    assert set(count_units(night)) == {(model, "NVIDIA H200") for model in MODELS[:2]}
    assert "night-1" in (tmp_path / "site" / "index.html").read_text()
    cluster.add_node("b", num_gpus=1)
    run(cluster, tmp_path, "night-1")
    resumed = read_night(tmp_path, "night-1")
    assert resumed.run.status == "complete"
    assert count_units(resumed) == each_once()
    assert [model for node, _, model in cluster.read("loads") if node == "b"] == list(MODELS[2:])


def test_every_kind_of_gpu_measures_every_unit(cluster: TestCluster, tmp_path: Path) -> None:
    cluster.add_node("a", num_gpus=1, gpu="NVIDIA H200")
    cluster.add_node("b", num_gpus=1, gpu="NVIDIA A100")
    run(cluster, tmp_path)
    night = read_night(tmp_path)
    assert count_units(night) == each_once("NVIDIA H200", "NVIDIA A100")
    assert Counter(series.device_name for series in night.trends) == {"NVIDIA H200": 20, "NVIDIA A100": 20}
    for node in "ab":
        assert [model for name, _, model in cluster.read("loads") if name == node] == list(MODELS)


def test_a_kind_of_gpu_that_is_lost_leaves_its_units_for_a_resumed_run(cluster: TestCluster, tmp_path: Path) -> None:
    cluster.add_node("a", num_gpus=1, gpu="NVIDIA H200")
    cluster.add_node("b", num_gpus=1, gpu="NVIDIA A100")
    cluster.order("kill", MODELS[0])
    with pytest.raises(WorkerError, match=r"^no NVIDIA (H200|A100) is left, 5 units are not measured"):
        run(cluster, tmp_path)
    night = read_night(tmp_path)
    assert night.run.status == "partial"
    [left] = {m.device.name for m in night.measurements}
    assert count_units(night) == each_once(left)


def test_a_gpu_that_fails_is_given_to_nobody_else_and_its_unit_goes_to_another(
    cluster: TestCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.add_node("a", num_gpus=2)
    cluster.order("lose", MODELS[1])
    cluster.order("crash", MODELS[3])
    run(cluster, tmp_path)
    night = read_night(tmp_path)
    assert night.run.status == "complete"
    assert count_units(night) == each_once()
    failed = {m.check.case.layer.model for m in night.measurements if m.status is not Status.OK}
    assert failed <= {MODELS[3]}, "a crash is its own layer's; the lost GPU is nobody's"
    told = capfd.readouterr().out
    assert "its process does not start: RuntimeError: " not in told
    assert "is lost: its process does not start: CUDA error: no CUDA-capable device is detected" in told


def test_a_unit_that_lost_two_gpus_is_not_tried_on_a_third(cluster: TestCluster, tmp_path: Path) -> None:
    cluster.add_node("a", num_gpus=3)
    cluster.order("lose", MODELS[2], times=3)
    run(cluster, tmp_path)
    night = read_night(tmp_path)
    assert night.run.status == "complete"
    assert count_units(night) == each_once()
    failed = [m for m in night.measurements if m.status is not Status.OK]
    assert {m.check.case.layer.model for m in failed} == {MODELS[2]}
    assert {m.status for m in failed} == {Status.CRASHED}
    assert all("2 workers were lost on this unit, it is not tried on another" in m.check.reason for m in failed)
    assert len([model for _, _, model in cluster.read("loads") if model == MODELS[2]]) == 2


def test_gpus_of_which_none_starts_are_told_in_one_line(cluster: TestCluster, tmp_path: Path) -> None:
    cluster.add_node("a", num_gpus=1)
    (cluster.notes / "dead a 0").touch()
    with pytest.raises(WorkerError, match=r"^no worker can be started: the cuda worker on .* is lost: ") as refused:
        run(cluster, tmp_path)
    assert "CUDA error: no CUDA-capable device is detected" in str(refused.value)
    assert read_night(tmp_path).run.status == "partial"


def test_workers_run_the_code_of_the_command_whatever_their_machine_has(
    cluster: TestCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "kernels"
    older.mkdir()
    (older / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)  # Ray has workers look in the folder that the command was started in
    cluster.add_node("a", num_gpus=1)
    start_workers("cuda", cluster.address, ClusterBench, NotingCompanion)
    from tasks.pool import open_workers

    with open_workers("cuda", cluster.address) as pool:
        [(_, worker)] = pool.share_out({"NVIDIA H200": [object()]})  # type: ignore[list-item]
        source = Path(worker.call("source", limit_seconds=60))
    assert source != older / "__init__.py"
    assert "working_dir_files" in source.parts
    assert os.getcwd() == str(tmp_path)
    assert not ray.is_initialized()
