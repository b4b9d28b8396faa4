"""One layer tuned from end to end on a real worker that times a simulated GPU: into the store and vLLM's file."""

import importlib.util
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from records import make_host, make_measurement, make_run, make_unit
from rich.console import Console
from surfaces import Surface
from tuners import DEFAULT, H200, HOST, LAYER, SurfaceBench

from kernels.moe.vllm_config_files import ConfigFile, read_config_file
from kernels.moe.vllm_configs import TUNED_FOLDER_VARIABLE
from kernels.spec import Case
from tasks.clock import Clock
from tasks.errors import TunedFileError, TuningError, UsageError
from tasks.planning.cases import Selection
from tasks.planning.suites import SUITES
from tasks.pool import WorkerPool
from tasks.records import Run, WorkUnit
from tasks.stages import retune_stale_configs
from tasks.storage.store import Store
from tasks.tuning.plan import Effort
from tasks.tuning.retuning import BATCH_SIZES, FOLDER, Request, Retuned, Used, launcher_of, provenance_of, retune
from tasks.tuning.sets import SetState
from tasks.tuning.staleness import TUNED, key_of
from tasks.tuning.upkeep import (
    Budget,
    choose_budget,
    compare_neighbours,
    keep_sets,
    list_sets,
    read_files,
    retune_stale,
    tell_sets,
)
from tasks.workers import Worker, start_ray

pytestmark = pytest.mark.timeout(240)

FILE = "E=8,N=7168,device_name=NVIDIA_H200,dtype=fp8_w8a8.json"
FEW = Effort(first_sample=16, least_configs=16, most_rounds=1, second_rounds=1)
SHIPPED = {"1": {**DEFAULT, "num_stages": 3}, "64": {**DEFAULT, "num_warps": 8}, "4096": {**DEFAULT, "num_stages": 5}}


@dataclass
class Place:
    """Where a test tunes."""

    notes: Path
    pool: WorkerPool
    users: Path
    """What VLLM_TUNED_CONFIG_FOLDER names."""

    @property
    def num_questions(self) -> int:
        return len((self.notes / "questions").read_text().splitlines())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A local Ray with one worker; the user has a file, with one entry that vLLM could not use."""
    notes, users = tmp_path_factory.mktemp("notes"), tmp_path_factory.mktemp("users")
    broken = {"2": {**DEFAULT, "BLOCK_SIZE_M": 24}}
    (users / FILE).write_text(json.dumps({**SHIPPED, **broken}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNER_NOTES", str(notes))
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # of workers
        patch.setenv(TUNED_FOLDER_VARIABLE, str(users))
        start_ray("", num_cpus=2)
        pool = WorkerPool([Worker("cpu", SurfaceBench)])
        pool.devices()
        yield Place(notes, pool, users)
        pool.close()
        ray.shutdown()


def request_of(save_dir: Path, provider: str = "vllm-triton-shipped") -> Request:
    unit = WorkUnit(LAYER, (Case(LAYER, 16), Case(LAYER, 64)), (provider,), ("graph",))
    return Request(unit, save_dir, 0, FEW)


def tune(place: Place, save_dir: Path, console: Console | None = None) -> Retuned:
    with Store.open(save_dir) as store:
        return retune(request_of(save_dir), place.pool, H200.name, store.notebook, console or Console(quiet=True))


@pytest.fixture(scope="module")
def tuned(place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Retuned, Path, str]:
    """What came of it, where, and what the console was told."""
    save_dir, console = tmp_path_factory.mktemp("results"), Console(record=True, quiet=False, width=200)
    return tune(place, save_dir, console), save_dir, console.export_text()


def test_winners_beat_what_is_used_and_the_default(tuned: tuple[Retuned, Path, str]) -> None:
    retuned, surface = tuned[0], Surface(5)
    assert [outcome.batch_size for outcome in retuned.outcomes] == [16, 64]
    for outcome in retuned.outcomes:
        size = outcome.batch_size
        assert outcome.task.incumbent is not None, "of the nearest batch size in the user's file"
        old = (outcome.task.used, outcome.task.default)
        runs = [surface.true_us(config, size) for config in old if not surface.fails(config)]
        assert surface.true_us(outcome.winner, size) <= min(runs) * 1.003
    assert any(outcome.is_replaced for outcome in retuned.outcomes)


def test_the_file_has_every_batch_size_and_is_one_that_vllm_finds(tuned: tuple[Retuned, Path, str]) -> None:
    retuned, save_dir, _ = tuned
    assert retuned.config_path == save_dir / FOLDER / FILE
    reading = read_config_file(retuned.config_path)
    assert reading.file is not None
    assert reading.faults == ()
    assert (reading.file.triton_version, sorted(reading.file.configs)) == ("3.7.1", [1, 16, 64, 4096])
    assert reading.file.configs[4096] == SHIPPED["4096"], "what was not searched stays"
    assert reading.file.configs[64] == retuned.outcomes[1].winner


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm")
def test_vllm_itself_reads_the_file(tuned: tuple[Retuned, Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor.layers.fused_moe import fused_moe
    from vllm.platforms import current_platform

    monkeypatch.setattr(type(current_platform), "get_device_name", classmethod(lambda cls, device_id=0: H200.name))
    monkeypatch.setenv(TUNED_FOLDER_VARIABLE, str(tuned[1] / FOLDER))
    fused_moe.get_moe_configs.cache_clear()
    found = fused_moe.get_moe_configs(8, 7168, "fp8_w8a8")
    fused_moe.get_moe_configs.cache_clear()
    assert found is not None
    assert found[64] == tuned[0].outcomes[1].winner


def test_the_summary_and_the_console_say_what_was_decided_and_what_could_not_be_read(
    tuned: tuple[Retuned, Path, str],
) -> None:
    retuned, save_dir, told = tuned
    assert retuned.summary_path.read_text() == retuned.summary
    assert f"### {FILE.removesuffix('.json')}" in retuned.summary
    assert "| 64 |" in retuned.summary
    assert "batch size 2: BLOCK_SIZE_M=24" in retuned.summary
    assert "batch size 64: " in told
    assert "BLOCK_SIZE_M=24" in told
    assert [path.name for path in (save_dir / FOLDER).iterdir() if path.suffix not in (".json", ".md")] == []


def test_the_same_search_once_more_measures_nothing(place: Place, tuned: tuple[Retuned, Path, str]) -> None:
    retuned, save_dir, _ = tuned
    before = place.num_questions
    again = tune(place, save_dir)
    assert place.num_questions == before
    assert [outcome.verdict for outcome in again.outcomes] == [outcome.verdict for outcome in retuned.outcomes]


def test_another_search_does_not_undo_what_the_first_wrote(
    place: Place, tuned: tuple[Retuned, Path, str], tmp_path: Path
) -> None:
    retuned = tuned[0]
    assert retuned.config_path
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / FILE).write_bytes(retuned.config_path.read_bytes())
    nothing = replace(FEW, first_sample=1, sample=1, least_configs=1, most_rounds=0, second_rounds=0)
    unit = replace(request_of(tmp_path).unit, cases=(Case(LAYER, 64),))
    with Store.open(tmp_path) as store:
        retune(Request(unit, tmp_path, 7, nothing), place.pool, H200.name, store.notebook, Console(quiet=True))
    again = read_config_file(tmp_path / FOLDER / FILE)
    assert again.file is not None
    surface = Surface(5)
    kept = again.file.configs
    assert kept[16] == retuned.outcomes[0].winner, "of a batch size that was not searched"
    assert surface.true_us(kept[64], 64) <= surface.true_us(retuned.outcomes[1].winner, 64) * 1.003


def test_a_search_goes_on_with_another_budget(place: Place, tuned: tuple[Retuned, Path, str]) -> None:
    retuned, save_dir, _ = tuned
    before = place.num_questions
    with Store.open(save_dir) as store:
        longer = replace(request_of(save_dir), effort=replace(FEW, most_seconds=1e6))
        again = retune(longer, place.pool, H200.name, store.notebook, Console(quiet=True))
    assert place.num_questions == before
    assert [outcome.verdict for outcome in again.outcomes] == [outcome.verdict for outcome in retuned.outcomes]


def test_a_broken_file_in_the_way_is_refused_before_anything_is_measured(place: Place, tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / FILE).write_text("{")
    before = place.num_questions
    with pytest.raises(TunedFileError, match=r"not overwritten: .*correct or remove it"):
        tune(place, tmp_path)
    assert (tmp_path / FOLDER / FILE).read_text() == "{"
    assert place.num_questions == before


def test_a_provider_that_cannot_run_there_is_one_line(place: Place, tmp_path: Path) -> None:
    with (
        Store.open(tmp_path) as store,
        pytest.raises(TuningError, match="triton of fused_moe cannot be tuned"),
    ):
        retune(request_of(tmp_path, "triton"), place.pool, H200.name, store.notebook, Console(quiet=True))
    assert place.pool.devices() == {H200.name: 1}, "the worker is back"


def test_vllm_takes_the_nearest_entry_and_the_first_of_two() -> None:
    reading = read_config_file(Path(__file__))
    assert Used({}, (reading,)).find_incumbent(16) is None
    entries = {size: {"num_warps": size} for size in (1, 64, 128)}
    file = ConfigFile(key_of(LAYER, TUNED, H200.name).config_key, "3.6.0", entries)
    used = Used({}, (replace(reading, file=file),))
    found = [used.find_incumbent(size) for size in (1, 32, 33, 96, 4096)]
    assert found == [entries[size] for size in (1, 1, 64, 64, 128)]
    assert launcher_of("vllm-triton-tuned") == "vllm-triton-default"
    assert launcher_of("triton") == "triton"
    assert len(BATCH_SIZES) == 18
    assert replace(request_of(Path()), seed=1).launcher == "vllm-triton-default"


# A night's own tuning


def measure_night(store: Store, shipped_us: float) -> Run:
    run = store.begin_run(make_run("tonight", status="complete"))
    host, case = replace(HOST, host_id=make_host().host_id), Case(LAYER, 16)
    times = {"vllm-triton-shipped": shipped_us, "vllm-triton-default": 100.0}
    measured = [make_measurement("tonight", case, provider, (us,) * 6) for provider, us in times.items()]
    store.commit_unit("tonight", make_unit(measured, host=host))
    return run


def test_what_a_night_finds_stale_is_retuned_once_while_the_budget_lasts(place: Place, tmp_path: Path) -> None:
    console, told = Console(record=True, width=200), list[str]()
    budget = Budget(60.0, FEW, (16, 64))
    with Store.open(tmp_path) as store:
        run = measure_night(store, 120.0)
        sets = list_sets(store, run, read_files(told.append))
        tell_sets(sets, told.append)
        keep_sets(store, run, sets)
        [listed] = store.night(run.run_id).tuned_sets
        assert (listed.key, listed.state, listed.reasons) == (sets[0].key, "stale", sets[0].reasons)
        assert listed.lost_us == sets[0].lost_us > 0
        arguments = (sets, store, run, place.pool, console, tmp_path)
        assert retune_stale(*arguments, replace(budget, seconds=0.0)) == 0
        assert retune_stale(*arguments, budget) == 1
        now = provenance_of(Case(LAYER, 16), "vllm-triton-default", HOST)
        tuned = store.notebook.find_tuned(key_of(LAYER, TUNED, H200.name))
        assert tuned is not None
        assert tuned.provenance == now
        before = place.num_questions
        again = (list_sets(store, run, read_files(lambda _: None)), *arguments[1:])
        assert retune_stale(*again, budget) == 0
        assert place.num_questions == before, "a search with the same code has ended"
        assert retune_stale(*again, replace(budget, batch_sizes=(16, 64, 256))) == 1, "but not of this batch size"
    assert told[0].startswith("not read: ")
    assert "BLOCK_SIZE_M=24" in told[0]
    assert "stale configs: vllm-triton-shipped of fused_moe E=8" in told[1]
    assert told[1].endswith("the default beats it by 20.0% at M=16; 20.0 us lost")
    assert told[-1] == "tuning: 1 sets of configurations: 0 fresh, 1 stale, 0 unknown, 0 missing"
    said = console.export_text()
    assert "the 0 s of tuning are spent" in said
    assert "retuned vllm-triton-tuned of fused_moe E=8" in said
    assert f"has ended; vLLM reads what it found with {TUNED_FOLDER_VARIABLE}={tmp_path / FOLDER}" in said
    assert (tmp_path / FOLDER / FILE).is_file()


def test_an_entry_that_loses_to_its_neighbour_tonight_makes_a_set_stale(place: Place, tmp_path: Path) -> None:
    surface, case, told = Surface(5), Case(LAYER, 64), list[str]()
    own, near = SHIPPED["64"], SHIPPED["1"]
    gain = surface.true_us(own, 64) / surface.true_us(near, 64) - 1
    assert gain > 0.02, "as the surface has it"
    with Store.open(tmp_path) as store:
        run = store.begin_run(make_run("tonight", status="complete"))
        measured = make_measurement("tonight", case, "vllm-triton-tuned", (100.0,) * 6)
        store.commit_unit("tonight", make_unit([measured], host=replace(HOST, host_id=make_host().host_id)))
        files = read_files(told.append)
        sets = list_sets(store, run, files)
        assert [tuned.state for tuned in sets] == [SetState.UNKNOWN, SetState.MISSING][: len(sets)]
        late = (sets, files, store, run, place.pool, time.monotonic(), told.append)
        assert compare_neighbours(*late) == sets
        found = compare_neighbours(*late[:5], time.monotonic() + 60.0, told.append)
        keep_sets(store, run, found)
        assert [listed.state for listed in store.notebook.listed_sets("tonight")] == [tuned.state for tuned in found]
    [stale] = [tuned for tuned in found if tuned.state is SetState.STALE]
    [loss] = stale.losses
    assert loss.relative_loss == pytest.approx(gain, abs=0.02)
    assert stale.reasons == (f"{loss.rival} beats it by {loss.relative_loss:.1%} at M=64",)
    assert place.pool.devices() == {H200.name: 1}, "the worker is back"


def test_the_stage_of_a_night_lists_keeps_and_tells_them(place: Place, tmp_path: Path) -> None:
    told = list[str]()
    with Store.open(tmp_path) as store:
        run = measure_night(store, 120.0)
        session = SimpleNamespace(
            store=store, run=run, workers=place.pool, console=Console(quiet=True), clock=Clock(), tell=told.append
        )
        sets = retune_stale_configs.fn(session, tmp_path, 0.0)
        assert [listed.key for listed in store.night(run.run_id).tuned_sets] == [tuned.key for tuned in sets]
    assert told[-1] == "tuning: 1 sets of configurations: 0 fresh, 1 stale, 0 unknown, 0 missing"


def test_a_folder_that_cannot_be_listed_is_named_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TUNED_FOLDER_VARIABLE, str(tmp_path / "nowhere"))
    told = list[str]()
    with Store.open(tmp_path) as store:
        [tuned] = list_sets(store, measure_night(store, 90.0), read_files(told.append))
    assert tuned.key.provider == "vllm-triton-shipped"
    why = "No such file or directory; give a folder of tuned configurations"
    assert told == [f"not read: cannot list {tmp_path / 'nowhere'}: {why}"]


def test_a_night_that_was_narrowed_only_lists(tmp_path: Path) -> None:
    nightly = SUITES["nightly"]
    assert choose_budget(nightly, Selection(), None) == nightly.tuning_seconds == 600.0
    assert choose_budget(nightly, Selection(kernels=("fused_moe",)), None) == 0.0
    assert choose_budget(nightly, Selection(kernels=("fused_moe",)), 90.0) == 90.0
    assert choose_budget(SUITES["smoke"], Selection(), None) == 0.0
    with pytest.raises(UsageError, match="--tuning-seconds -1 is below 0"):
        choose_budget(nightly, Selection(), -1.0)
