"""The records of a store on real DuckDB files: what is committed when, resumed, and read again."""

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest
from records import (
    COMPILED,
    GPU,
    STARTED,
    make_case,
    make_ceiling,
    make_cost,
    make_crash,
    make_host,
    make_layer,
    make_measurement,
    make_receipt,
    make_reference,
    make_run,
    make_trial,
    make_unit,
)

from tasks.errors import RunMismatchError, StoreError
from tasks.nights import Night
from tasks.records import Measurement, Run, Series, State, Status, UnitResult, Verdict
from tasks.storage.database import ROWS_PER_STATEMENT, TABLES, VERSION_TABLE, database_path
from tasks.storage.store import Store

OTHER_GPU = make_host(replace(GPU, name="NVIDIA A100", capability=(8, 0)), "ffff")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path) as opened:
        yield opened


def commit_run(store: Store, run: Run, measurements: list[Measurement], status: str = "complete") -> None:
    """A whole run of one unit."""
    store.begin_run(run)
    store.commit_unit(run.run_id, make_unit(measurements, make_receipt(make_layer())))
    store.finish_run(replace(run, status=status, finished_at=run.started_at + timedelta(minutes=5)))


def count_rows(path: Path, table: str) -> int:
    with duckdb.connect(str(path), read_only=True) as connection:
        found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert found
    return int(found[0])


# Runs


def test_an_unfinished_run_is_resumed_with_its_first_start(store: Store) -> None:
    first = make_run()
    store.begin_run(first)
    store.finish_run(replace(first, status="interrupted", finished_at=STARTED + timedelta(hours=1)))
    resumed = store.begin_run(replace(first, started_at=STARTED + timedelta(days=1)))
    assert (resumed.started_at, resumed.status) == (STARTED, "running")
    assert [run.status for run in store.runs()] == ["running"]


def test_a_complete_run_is_not_resumed(store: Store) -> None:
    store.begin_run(make_run())
    store.finish_run(replace(make_run(), status="complete", finished_at=STARTED))
    with pytest.raises(RunMismatchError, match="run run-1 is complete; leave out --run-id"):
        store.begin_run(make_run())


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 8), ("suite", "smoke"), ("arguments", {"models": ["Mixtral-8x7B"]}), ("git_commit", "other")],
)
def test_a_run_is_not_resumed_with_anything_else(store: Store, name: str, value: object) -> None:
    store.begin_run(make_run())
    with pytest.raises(RunMismatchError, match=f"run run-1 was started with {name} ") as refused:
        store.begin_run(make_run(**{name: value}))
    assert repr(value) in str(refused.value)
    assert store.runs() == [make_run()]


@pytest.mark.parametrize(
    ("was_dirty", "message"),
    [
        (True, "was started from a changed working tree, which now is clean; resume it from the same source"),
        (False, "was started from a clean working tree, which now has uncommitted changes; resume it from the same"),
    ],
)
def test_a_run_is_not_resumed_from_a_tree_that_was_changed_or_cleaned(
    store: Store, was_dirty: bool, message: str
) -> None:
    store.begin_run(make_run(git_dirty=was_dirty))
    with pytest.raises(RunMismatchError, match=message):
        store.begin_run(make_run(git_dirty=not was_dirty))
    assert store.begin_run(make_run(git_dirty=was_dirty)).git_dirty == was_dirty


def test_runs_are_in_the_order_they_were_started_whatever_the_clock_said(store: Store) -> None:
    for run_id, nights in (("b", 2), ("a", 3), ("c", 1)):
        store.begin_run(make_run(run_id, nights))
    assert [run.run_id for run in store.runs()] == ["b", "a", "c"]
    with pytest.raises(StoreError, match="no run has ended yet; c is running or was killed"):
        store.find_run()
    for run in store.runs()[:2]:
        store.finish_run(replace(run, status="complete"))
    assert store.find_run().run_id == "a"
    assert store.find_run("b").run_id == "b"
    assert store.find_run("c").run_id == "c"


def test_a_run_without_an_id_gets_one_of_its_own_even_in_the_same_second(store: Store) -> None:
    begun = [store.begin_run(make_run("")) for _ in range(3)]
    assert [run.run_id for run in begun] == ["20261120T020000Z", "20261120T020000Z-2", "20261120T020000Z-3"]
    assert store.runs() == begun
    assert store.find_resumable(make_run("")) is None


def test_an_unknown_run_names_the_newest(store: Store) -> None:
    with pytest.raises(StoreError, match="the store holds no run yet; start one: kernel-nightly run"):
        store.find_run("lost")
    store.begin_run(make_run("known"))
    with pytest.raises(StoreError, match="no run 'lost'; the newest is known"):
        store.find_run("lost")


def test_the_end_of_a_run_is_stored(store: Store) -> None:
    store.begin_run(make_run())
    ended = make_run(status="partial", finished_at=STARTED + timedelta(hours=1), stage_seconds={"verify": 1.5})
    store.finish_run(ended)
    assert store.runs() == [ended]


# Units


def every_kind_of_measurement() -> list[Measurement]:
    config = {"BLOCK_SIZE_M": 64, "ratio": 0.5, "from": 'vllm\'s "E=8.json"', "unicode": "µ", "none": None, "deep": {}}
    return [
        make_measurement(provider="a-ok", relative_error=0.0123, share_close=0.999, config=config, flops=2**53),
        replace(
            make_measurement(provider="a-trials", source_sha256="ef" * 32, compiled=(COMPILED, COMPILED)),
            trials=(
                make_trial(),
                make_trial(1, 0, is_slow_clock=True, set_aside_us=(1 / 3, 9.5)),
                make_trial(state=None),
            ),
        ),
        make_measurement(provider="b-inf", status=Status.WRONG, relative_error=math.inf, share_close=0.0),
        make_measurement(provider="c-none", status=Status.CRASHED, reason="CUDA error: 'it' broke"),
        make_measurement(provider="d-exact", relative_error=0.0, samples_us=(1 / 3, 1e-9, 1e9, 5e-324)),
        make_measurement(provider="e-hung", status=Status.HUNG, reason="no answer within 180 s", bytes_moved=2**40),
        make_measurement(provider="f-oom", status=Status.OUT_OF_MEMORY, reason="tried to allocate 42 GiB"),
        make_measurement(provider="g-not", status=Status.UNSUPPORTED, reason="needs sm_100 (this is sm_90)"),
    ]


def test_every_record_comes_back_as_it_was(store: Store) -> None:
    run, measurements = make_run(), every_kind_of_measurement()
    series = measurements[0].series
    verdicts = (
        Verdict("run-1", series, State.SLOW, "12.0 us against 10.0 us (+20.0%)", 12.0, 10.0, 0.2),
        Verdict("run-1", replace(series, provider="gone"), State.MISSING, "absent now"),
    )
    store.begin_run(run)
    references = (make_reference(), make_reference("float8_e4m3fn gemm"))
    receipt, cost = make_receipt(make_layer()), make_cost()
    store.commit_unit("run-1", UnitResult(make_host(), receipt, tuple(measurements), references, cost))
    store.journal.commit_verdicts("run-1", verdicts)
    night = store.night("run-1")
    assert night.run == run
    assert night.hosts == (make_host(),)
    assert night.receipts == (make_receipt(make_layer()),)
    assert night.measurements == tuple(measurements)
    assert sorted(night.verdicts, key=str) == sorted(verdicts, key=str)
    assert set(night.trends) == {m.series for m in measurements if m.samples_us}
    assert night.references == references
    assert night.costs == (cost,)


def test_a_relative_error_that_is_no_number_comes_back_as_one(store: Store) -> None:
    store.begin_run(make_run())
    measurement = make_measurement(status=Status.WRONG, relative_error=math.nan, config={"scale": math.inf})
    store.commit_unit("run-1", make_unit([measurement]))
    [stored] = store.measurements("run-1")
    assert stored.check.relative_error is not None
    assert math.isnan(stored.check.relative_error)
    assert stored.check.config == {"scale": math.inf}


def count_unit_rows(path: Path) -> dict[str, int]:
    tables = ("hosts", "cases", "weights", "measurements", "reference_times", "unit_costs")
    return {table: count_rows(path, table) for table in tables}


def test_a_unit_is_committed_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    store.begin_run(make_run())
    twice = [make_measurement(), make_measurement(provider="torch"), make_measurement()]
    unit = replace(make_unit(twice, make_receipt(make_layer())), references=(make_reference(),), cost=make_cost())
    with pytest.raises(duckdb.ConstraintException):
        store.commit_unit("run-1", unit)
    store.close()
    assert set(count_unit_rows(database_path(tmp_path)).values()) == {0}


def test_a_record_that_has_no_row_takes_its_unit_with_it(store: Store, tmp_path: Path) -> None:
    endless: dict[str, object] = {}
    endless["itself"] = endless
    store.begin_run(make_run())
    unit = [make_measurement(), make_measurement(provider="torch", config=endless)]
    with pytest.raises(ValueError, match="Circular reference"):
        store.commit_unit("run-1", make_unit(unit, make_receipt(make_layer())))
    store.close()
    assert set(count_unit_rows(database_path(tmp_path)).values()) == {0}


def test_a_unit_that_failed_to_commit_can_be_committed_again(store: Store) -> None:
    store.begin_run(make_run())
    with pytest.raises(duckdb.ConstraintException):
        store.commit_unit("run-1", make_unit([make_measurement()] * 2))
    store.commit_unit("run-1", make_unit([make_measurement()]))
    assert store.measurements("run-1") == [make_measurement()]


def test_a_unit_of_more_rows_than_a_statement_takes_is_committed_whole(store: Store, tmp_path: Path) -> None:
    store.begin_run(make_run())
    providers = [f"provider-{n:04}" for n in range(2 * ROWS_PER_STATEMENT + 1)]
    measurements = [make_measurement(provider=provider) for provider in providers]
    with pytest.raises(duckdb.ConstraintException):
        store.commit_unit("run-1", make_unit([*measurements, measurements[0]]))
    store.commit_unit("run-1", make_unit(measurements))
    assert store.measurements("run-1") == measurements


def test_a_host_is_known_after_its_unit_was_committed_and_not_before(store: Store) -> None:
    store.begin_run(make_run())
    with pytest.raises(duckdb.ConstraintException):
        store.commit_unit("run-1", make_unit([make_measurement()] * 2))
    store.commit_unit("run-1", make_unit([make_measurement()]))
    store.commit_unit("run-1", make_unit([on_other_gpu(make_measurement(provider="torch"))], host=OTHER_GPU))
    store.commit_unit("run-1", make_unit([make_measurement(provider="triton-2")]))
    assert store.night("run-1").hosts == (make_host(), OTHER_GPU)


def on_other_gpu(measurement: Measurement) -> Measurement:
    check = replace(measurement.check, host_id=OTHER_GPU.host_id)
    return replace(measurement, check=check, device=OTHER_GPU.device)


def test_ceilings_belong_to_a_run_and_a_host(store: Store) -> None:
    store.begin_run(make_run())
    ceilings = [make_ceiling(), make_ceiling("bfloat16 gemm", 745.5), make_ceiling(run_id="run-2")]
    store.commit_ceilings(ceilings)
    store.commit_ceilings([])
    assert store.ceilings("run-1") == [ceilings[1], ceilings[0]]
    assert store.ceilings("run-2") == [ceilings[2]]
    assert store.ceilings("run-3") == []
    assert store.night("run-1").ceilings == (ceilings[1], ceilings[0])
    with pytest.raises(duckdb.ConstraintException):
        store.commit_ceilings([make_ceiling()])


def test_hosts_and_cases_are_shared_by_runs(store: Store, tmp_path: Path) -> None:
    for nights in range(3):
        commit_run(store, make_run(f"run-{nights}", nights), [make_measurement(f"run-{nights}")])
    store.close()
    path = database_path(tmp_path)
    assert (count_rows(path, "hosts"), count_rows(path, "cases"), count_rows(path, "measurements")) == (1, 1, 3)


def test_measured_units_are_those_of_the_run_alone(store: Store) -> None:
    other = make_case(model="DeepSeek-V3")
    commit_run(store, make_run("run-1"), [make_measurement("run-1")])
    commit_run(store, make_run("run-2", 1), [make_measurement("run-2", other)])
    assert store.measured_units("run-1") == {(make_layer().key, GPU.name)}
    assert store.measured_units("run-2") == {(other.layer.key, GPU.name)}
    assert store.measured_units("run-3") == set()


def test_one_unit_is_measured_on_every_kind_of_gpu_in_one_run(store: Store) -> None:
    store.begin_run(make_run())
    store.commit_unit("run-1", make_unit([make_measurement()], make_receipt(make_layer())))
    other = [on_other_gpu(make_measurement(samples_us=(20.0,)))]
    store.commit_unit("run-1", make_unit(other, make_receipt(make_layer(), OTHER_GPU), OTHER_GPU))
    assert store.measured_units("run-1") == {(make_layer().key, name) for name in (GPU.name, "NVIDIA A100")}
    night = store.night("run-1")
    assert {m.device.name: m.samples_us for m in night.measurements} == {
        GPU.name: make_measurement().samples_us,
        "NVIDIA A100": (20.0,),
    }
    assert {series.device_name for series in night.trends} == {GPU.name, "NVIDIA A100"}
    assert [receipt.host_id for receipt in night.receipts] == [make_host().host_id, OTHER_GPU.host_id]


def test_the_last_time_a_unit_took_is_known_for_each_kind_of_gpu(store: Store) -> None:
    assert store.last_unit_seconds() == {}
    for nights, (run_id, total) in enumerate({"slow": 90.0, "fast": 30.0}.items()):
        store.begin_run(make_run(run_id, -nights))  # the second by a clock that went back
        unit = make_unit([make_measurement(run_id)])
        store.commit_unit(run_id, replace(unit, cost=make_cost(run_id, total=total)))
    other = make_unit([on_other_gpu(make_measurement("slow"))], host=OTHER_GPU)
    store.commit_unit("slow", replace(other, cost=make_cost("slow", OTHER_GPU, total=50.0)))
    key = make_layer().key
    assert store.last_unit_seconds() == {(key, GPU.name): 30.0, (key, "NVIDIA A100"): 50.0}


def test_crashes_are_read_back_in_order_and_only_those_of_the_run(store: Store) -> None:
    later = replace(make_crash("later", status=Status.HUNG), crashed_at=STARTED + timedelta(seconds=1))
    for crash in (later, make_crash(), make_crash(), make_crash(run_id="run-2")):
        store.commit_crash(crash)
    assert store.crashes("run-1") == [make_crash(), make_crash(), later]
    assert store.crashes("run-3") == []


def test_verdicts_of_a_run_are_replaced_not_added(store: Store) -> None:
    store.begin_run(make_run())
    series = make_measurement().series
    other = Verdict("run-2", series, State.SAME, "of another run")
    store.journal.commit_verdicts("run-2", [other])
    store.journal.commit_verdicts("run-1", [Verdict("run-1", series, State.NEW, "first night")])
    store.journal.commit_verdicts("run-1", [Verdict("run-1", series, State.SAME, "judged again")])
    assert [verdict.evidence for verdict in store.night("run-1").verdicts] == ["judged again"]
    store.begin_run(make_run("run-2", 1))
    assert store.night("run-2").verdicts == (other,)


def whole_night(store: Store) -> Night:
    for nights in range(3):
        run_id = f"run-{nights}"
        measurements = [replace(m, run_id=run_id) for m in every_kind_of_measurement()]
        commit_run(store, make_run(run_id, nights), measurements)
        store.commit_ceilings([make_ceiling(run_id=run_id)])
        same = Verdict(run_id, measurements[0].series, State.SAME, "same", 10.5, 10.5, 0.0)
        store.journal.commit_verdicts(run_id, [same])
    return store.night()


def test_a_night_is_the_same_through_parquet(store: Store, tmp_path: Path) -> None:
    night = whole_night(store)
    store.export_parquet(tmp_path / "deep" / "tables")
    assert {path.name for path in (tmp_path / "deep" / "tables").iterdir()} == {
        f"{table}.parquet" for table in (*TABLES, VERSION_TABLE)
    }
    with Store.from_parquet(tmp_path / "deep" / "tables") as loaded:
        assert loaded.night() == night
        assert dict(loaded.night().trends) == dict(night.trends)
        assert loaded.night("run-0") == store.night("run-0")
        with pytest.raises(StoreError, match="in memory has no snapshot"):
            loaded.publish()


# History


def test_trends_are_in_the_order_of_runs_and_hold_only_ok_points(store: Store) -> None:
    samples = {"third": (30.0, 31.0), "first": (10.0, 11.0, 12.0), "second": (20.0,)}
    for run_id, nights in (("first", 1), ("second", 9), ("third", 3)):
        commit_run(store, make_run(run_id, nights), [make_measurement(run_id, samples_us=samples[run_id])])
    commit_run(store, make_run("broken", 4), [make_measurement("broken", status=Status.CRASHED, reason="crash")])
    trends = store.trends(make_run("broken", 4))
    [points] = trends.values()
    assert list(trends) == [make_measurement().series]
    assert [(point.run_id, point.median_us) for point in points] == [("first", 11.0), ("second", 20.0), ("third", 30.5)]
    assert (points[0].p20_us, points[0].p80_us) == pytest.approx((10.4, 11.6))
    assert points[0].started_at == STARTED + timedelta(days=1)


def test_trends_end_at_the_night_asked_for(store: Store) -> None:
    for nights in range(4):
        commit_run(store, make_run(f"run-{nights}", nights), [make_measurement(f"run-{nights}")])
    [points] = store.trends(make_run("run-1", nights=1)).values()
    assert [point.run_id for point in points] == ["run-0", "run-1"]
    [points] = store.night("run-2").trends.values()
    assert [point.run_id for point in points] == ["run-0", "run-1", "run-2"]


def test_a_trend_tells_the_error_of_every_night(store: Store) -> None:
    for night, error in enumerate((0.012, 0.013, None)):
        run_id = f"run-{night}"
        measurement = make_measurement(run_id, relative_error=error, share_close=None if error is None else 1 - error)
        commit_run(store, make_run(run_id, night), [measurement])
    [points] = store.night("run-2").trends.values()
    assert [point.relative_error for point in points] == [0.012, 0.013, None]
    assert [point.share_close for point in points] == [0.988, 0.987, None]


def test_a_trend_is_of_one_seed_since_another_draws_another_routing(store: Store) -> None:
    commit_run(store, make_run("other", 0, seed=99), [make_measurement("other")])
    commit_run(store, make_run("run-1", 1), [make_measurement("run-1")])
    [points] = store.night("run-1").trends.values()
    assert [point.run_id for point in points] == ["run-1"]


def test_a_night_shows_trends_only_of_what_it_measured(store: Store) -> None:
    commit_run(store, make_run("run-1"), [make_measurement("run-1"), make_measurement("run-1", provider="gone")])
    commit_run(store, make_run("run-2", 1), [make_measurement("run-2")])
    assert {series.provider for series in store.night("run-2").trends} == {"triton"}


def providers_before(store: Store, run: Run) -> set[str]:
    previous: set[Series] = store.previous_series(run)
    return {series.provider for series in previous}


def test_previous_series_are_those_of_the_newest_comparable_run(store: Store) -> None:
    tonight = make_run("tonight", 9)
    assert providers_before(store, tonight) == set()
    nights = {
        "older": make_run("older", 1),
        "newer": make_run("newer", 2),
        "other-suite": make_run("other-suite", 3, suite="smoke"),
        "other-arguments": make_run("other-arguments", 4, arguments={}),
        "interrupted": make_run("interrupted", 5),
    }
    for name, run in nights.items():
        measurements = [make_measurement(name, provider=name)]
        commit_run(store, run, measurements, "interrupted" if name == "interrupted" else "complete")
    store.begin_run(tonight)
    commit_run(store, make_run("later", 8), [make_measurement("later", provider="later")])
    assert providers_before(store, tonight) == {"newer"}


def test_previous_series_count_what_was_tried_and_failed(store: Store) -> None:
    failed = make_measurement("before", status=Status.CRASHED, reason="crash")
    commit_run(store, make_run("before"), [failed], "partial")
    store.begin_run(make_run("tonight", 1))
    assert store.previous_series(make_run("tonight", 1)) == {failed.series}
