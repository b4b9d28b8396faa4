"""Runs on a real Ray cluster of several nodes: units spread, nodes and GPUs lost in the middle, nothing else lost."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import ClusterBench, CodeBench, NotingCompanion, TestCluster, open_cluster
from consoles import ONE_UNIT, make_model, start_command
from servers import using_shared_server
from tuners import SurfaceBench

from flows.nightly import nightly
from flows.retune import retune
from kernels.spec import Layer
from tasks.errors import WorkerError
from tasks.nights import Night
from tasks.planning.cases import Selection
from tasks.pool import open_workers, start_workers
from tasks.records import Status, WorkUnit
from tasks.storage.store import Store

pytestmark = pytest.mark.timeout(240)

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
    with using_shared_server(), open_cluster(tmp_path_factory.mktemp("notes")) as cluster:
        yield cluster


@pytest.fixture
def cluster(opened: TestCluster) -> Iterator[TestCluster]:
    yield opened
    opened.remove_nodes()
    for note in opened.notes.iterdir():
        note.unlink()


def run(cluster: TestCluster, save_dir: Path, run_id: str = "", companion: type | None = None) -> Path:
    """The nightly, with stand-ins where its workers would use a GPU."""
    start_workers("cuda", cluster.address, ClusterBench, companion)
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


def test_units_are_spread_the_longest_first_and_a_node_killed_in_the_middle_loses_none(
    cluster: TestCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.add_node("a", num_gpus=1)
    cluster.add_node("b", num_gpus=1)
    cluster.order("kill", MODELS[2])
    page = run(cluster, tmp_path)
    night = read_night(tmp_path)
    assert night.run.status == "complete"
    assert count_units(night) == each_once()
    assert {m.status for m in night.measurements} == {Status.OK}
    assert page.is_file()
    loads = [(node, model) for node, _, model in cluster.read("loads")]
    assert {node for node, _ in loads[:2]} == {"a", "b"}
    assert {model for _, model in loads[:2]} == set(MODELS[:2])
    killed, other = (node for node, model in loads if model == MODELS[2])
    assert {killed, other} == {"a", "b"}
    assert len(night.ceilings) == len(night.hosts) == 2
    told = capfd.readouterr().out
    assert "on 2 x NVIDIA H200" in told
    assert "NVIDIA H200 on " in told
    assert "is lost: its machine left the cluster" in told


def test_the_next_units_in_line_are_compiled_beside_the_gpu_and_their_failure_costs_nothing(
    cluster: TestCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.add_node("a", num_gpus=1)
    run(cluster, tmp_path, companion=NotingCompanion)
    assert read_night(tmp_path).run.status == "complete"
    compiled = cluster.read("compiled")
    assert compiled
    models = [model for _, model, *_ in compiled]
    assert len(set(models)) == len(models), "each once"
    assert set(models) < set(MODELS), "but the first, which the worker compiles"
    assert {node for node, *_ in compiled} == {"a"}
    assert all(line[2:] == ["NVIDIA", "H200", "[]"] for line in compiled), "a companion holds no GPU"
    assert capfd.readouterr().err == ""


def test_every_kind_of_gpu_measures_every_unit_and_with_all_gone_the_run_is_partial_and_resumed(
    cluster: TestCluster, tmp_path: Path
) -> None:
    kinds = ("NVIDIA H200", "NVIDIA A100")
    for node, gpu in zip("ab", kinds, strict=True):
        cluster.add_node(node, num_gpus=1, gpu=gpu)
    cluster.order("kill", MODELS[1], times=2)
    with pytest.raises(WorkerError, match=r"^no NVIDIA .* or NVIDIA .* is left, 4 units are not measured") as no:
        run(cluster, tmp_path, "night-1")
    assert no.value.exit_code == 3
    assert "\n" not in str(no.value)
    night = read_night(tmp_path, "night-1")
    assert night.run.status == "partial"
    assert count_units(night) == Counter((model, kind) for model in MODELS[2:] for kind in kinds)
    assert Counter(series.device_name for series in night.trends).keys() == set(kinds)
    assert "night-1" in (tmp_path / "site" / "index.html").read_text()
    for node, gpu in zip("cd", kinds, strict=True):
        cluster.add_node(node, num_gpus=1, gpu=gpu)
    run(cluster, tmp_path, "night-1")
    resumed = read_night(tmp_path, "night-1")
    assert resumed.run.status == "complete"
    assert count_units(resumed) == each_once(*kinds)
    loads = {node: [model for name, _, model in cluster.read("loads") if name == node] for node in "abcd"}
    first, rest = [*MODELS[:0:-1]], [*MODELS[1::-1]]
    assert loads == {"a": first, "b": first, "c": rest, "d": rest}, "one of a kind alone begins with what is short"


def test_a_gpu_that_fails_is_given_to_nobody_and_a_unit_that_lost_two_is_given_up(
    cluster: TestCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.add_node("a", num_gpus=3)
    cluster.order("lose", MODELS[2], times=3)
    cluster.order("crash", MODELS[4])
    run(cluster, tmp_path)
    night = read_night(tmp_path)
    assert night.run.status == "complete"
    assert count_units(night) == each_once()
    failed = [m for m in night.measurements if m.status is not Status.OK]
    assert {m.status for m in failed} == {Status.CRASHED}
    reasons = {m.check.case.layer.model: m.check.reason for m in failed}
    assert "2 workers were lost on this unit, it is not tried on another" in reasons[MODELS[2]]
    assert set(reasons) <= {MODELS[2], MODELS[4]}, "a crash costs its own unit, a GPU none but the one that loses them"
    assert len([model for _, _, model in cluster.read("loads") if model == MODELS[2]]) == 2
    said = capfd.readouterr().out
    losses = [line for line in said.splitlines() if line.startswith("NVIDIA H200 on ")]
    assert len(losses) == 2
    assert all(
        line.endswith("its process does not start: CUDA error: no CUDA-capable device is detected") for line in losses
    )


def test_workers_run_the_code_of_the_command_whatever_their_machine_has(
    cluster: TestCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "kernels"
    older.mkdir()
    (older / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)  # Ray has workers look in the folder that the command was started in
    cluster.add_node("a", num_gpus=1)
    start_workers("cuda", cluster.address, CodeBench, None)
    with open_workers("cuda", cluster.address) as pool:
        assert pool.devices() == {"cpu: made up": 1}
        _, worker = next(pool.share_out({"cpu: made up": [WorkUnit(Layer("k", "m", 1, 1, "s", "d", {}), (), ())]}))
        sources = worker.call("sources", limit_seconds=60)
    assert all("working_dir_files" in Path(source).parts for source in sources)


def test_batch_sizes_are_tuned_side_by_side_on_all_gpus(
    cluster: TestCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # of the nodes and their workers
    cluster.add_node("a", num_gpus=1)
    cluster.add_node("b", num_gpus=1)
    start_workers("cuda", cluster.address, SurfaceBench, None)
    asked = Selection(models=("Mixtral-8x7B",), tp_sizes=(2,), batch_sizes=(16, 64))
    [retuned] = retune(asked, device="cuda", save_dir=tmp_path, address=cluster.address, budget=1.0)
    assert [outcome.batch_size for outcome in retuned.outcomes] == [16, 64]
    assert {(node, size) for node, size, _ in cluster.read("questions")} >= {("a", "16"), ("b", "64")} or {
        (node, size) for node, size, _ in cluster.read("questions")
    } >= {("b", "16"), ("a", "64")}
    assert retuned.config_path is not None
    assert retuned.config_path.is_file()
    with Store.read(tmp_path) as store:
        assert store.notebook.find_tuned(retuned.key) is not None, "whoever reads the store finds it"


def test_a_command_finds_its_cluster_by_ray_address_and_survives_a_node(cluster: TestCluster, tmp_path: Path) -> None:
    make_model(tmp_path / "small")
    make_model(tmp_path / "large", intermediate_size=2**19)
    cluster.add_node("a", num_cpus=1)
    cluster.add_node("b", num_cpus=1)
    asked = ("run", *ONE_UNIT, "--device", "cpu", "--model", "./small", "./large")
    with start_command(*asked, cwd=tmp_path, **cluster.environment) as process:
        assert process.stdout
        told = ""
        for line in process.stdout:
            told += line
            if line.startswith("unit 1/2"):
                cluster.cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)
        ended = process.wait(timeout=60)
        assert ended == 0, (told, process.stderr.read() if process.stderr else "")
    night = read_night(tmp_path / "results")
    assert night.run.status == "complete"
    assert Counter(m.check.case.layer.model for m in night.measurements) == {"small": 1, "large": 1}
    assert {m.status for m in night.measurements} == {Status.OK}
    assert "on 2 x " in told
