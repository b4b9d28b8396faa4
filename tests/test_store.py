"""The store on real DuckDB files: what is committed when, who may open it, and what readers see."""

import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest
from records import (
    STARTED,
    make_case,
    make_ceiling,
    make_host,
    make_layer,
    make_measurement,
    make_receipt,
    make_run,
)

from tasks.errors import NewerSchemaError, RunMismatchError, StoreError, StoreLockedError
from tasks.records import Measurement, Night, Run, Series, State, Status, Verdict
from tasks.schema import MIGRATIONS
from tasks.store import ROWS_PER_STATEMENT, TABLES, Store, database_path, snapshot_path

NUM_MIGRATIONS = len(list(MIGRATIONS.glob("*.sql")))
HOLD_OPEN = """
import duckdb, sys, time
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""
READ_RUNS = """
import sys
from pathlib import Path
from tasks.store import Store
with Store.read(Path(sys.argv[1])) as store:
    print(*(run.run_id for run in store.runs()))
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path) as opened:
        yield opened


def commit_run(store: Store, run: Run, measurements: list[Measurement], status: str = "complete") -> None:
    """A whole run of one unit."""
    store.begin_run(run)
    store.commit_unit(run.run_id, make_host(), make_receipt(make_layer()), measurements)
    store.finish_run(replace(run, status=status, finished_at=run.started_at + timedelta(minutes=5)))


def count_rows(path: Path, table: str) -> int:
    with duckdb.connect(str(path), read_only=True) as connection:
        found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert found
    return int(found[0])


# Opening


def test_a_store_is_made_from_nothing_with_every_table(tmp_path: Path) -> None:
    Store.open(tmp_path / "new" / "folder").close()
    path = database_path(tmp_path / "new" / "folder")
    assert [count_rows(path, table) for table in TABLES] == [0] * len(TABLES)
    assert count_rows(path, "schema_version") == NUM_MIGRATIONS


def test_opening_again_migrates_nothing_and_keeps_everything(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.begin_run(make_run())
    with Store.open(tmp_path) as store:
        assert store.runs() == [make_run()]
    assert count_rows(database_path(tmp_path), "schema_version") == NUM_MIGRATIONS


def test_a_newer_schema_is_refused_in_one_line(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.publish()
    for path in (database_path(tmp_path), snapshot_path(tmp_path)):
        with duckdb.connect(str(path)) as connection:
            connection.execute("INSERT INTO schema_version VALUES (99)")
    for open_store, path in ((Store.open, database_path(tmp_path)), (Store.read, snapshot_path(tmp_path))):
        with pytest.raises(NewerSchemaError) as refused:
            open_store(tmp_path)
        message = str(refused.value)
        assert f"{path} has schema version 99" in message
        assert "upgrade kernel-nightly" in message
        assert "\n" not in message
        duckdb.connect(str(path)).close()  # the refused store let go of the file


def test_a_file_held_by_another_process_names_that_process(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    path = database_path(tmp_path)
    command = [sys.executable, "-c", HOLD_OPEN, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreLockedError, match=rf"is held by process {holder.pid}; wait for it") as refused:
            Store.open(tmp_path)
        holder.stdin.close()
    assert "\n" not in str(refused.value)
    Store.open(tmp_path).close()


@pytest.mark.parametrize("content", [b"notes on kernels\n" * 1000, b"\x00" * 20_000, b"short"])
def test_a_file_that_is_no_duckdb_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = database_path(tmp_path)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"is not a DuckDB database; move it away or choose another --save-dir"):
        Store.open(tmp_path)
    assert path.read_bytes() == content


def test_a_save_dir_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for save_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=r"cannot create .*file.*; choose another --save-dir"):
            Store.open(save_dir)


def test_a_folder_in_the_place_of_the_database_is_refused(tmp_path: Path) -> None:
    database_path(tmp_path).mkdir()
    with pytest.raises(StoreError, match=r"cannot open .*nightly.duckdb.*; choose another --save-dir"):
        Store.open(tmp_path)


def test_reading_where_nothing_was_published_says_how_to_start(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"no finished run under {tmp_path}; start one: kernel-nightly run"):
        Store.read(tmp_path)
    assert list(tmp_path.iterdir()) == []


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


def test_runs_are_listed_oldest_first_and_the_newest_is_found(store: Store) -> None:
    for run_id, nights in (("b", 2), ("a", 3), ("c", 1)):
        store.begin_run(make_run(run_id, nights))
    assert [run.run_id for run in store.runs()] == ["c", "b", "a"]
    with pytest.raises(StoreError, match="no run has ended yet; a is running or was killed"):
        store.find_run()
    for run in store.runs()[:2]:
        store.finish_run(replace(run, status="complete"))
    assert store.find_run().run_id == "b"
    assert store.find_run("a").run_id == "a"
    assert store.find_run("c").run_id == "c"


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
    store.commit_unit("run-1", make_host(), make_receipt(make_layer()), measurements)
    store.commit_verdicts("run-1", verdicts)
    night = store.night("run-1")
    assert night.run == run
    assert night.hosts == (make_host(),)
    assert night.receipts == (make_receipt(make_layer()),)
    assert night.measurements == tuple(measurements)
    assert sorted(night.verdicts, key=str) == sorted(verdicts, key=str)
    assert set(night.trends) == {measurements[0].series, measurements[3].series}


def test_a_relative_error_that_is_no_number_comes_back_as_one(store: Store) -> None:
    store.begin_run(make_run())
    measurement = make_measurement(status=Status.WRONG, relative_error=math.nan, config={"scale": math.inf})
    store.commit_unit("run-1", make_host(), None, [measurement])
    [stored] = store.measurements("run-1")
    assert stored.check.relative_error is not None
    assert math.isnan(stored.check.relative_error)
    assert stored.check.config == {"scale": math.inf}


def count_unit_rows(path: Path) -> dict[str, int]:
    return {table: count_rows(path, table) for table in ("hosts", "cases", "weights", "measurements")}


def test_a_unit_is_committed_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    store.begin_run(make_run())
    twice = [make_measurement(), make_measurement(provider="torch"), make_measurement()]
    with pytest.raises(duckdb.ConstraintException):
        store.commit_unit("run-1", make_host(), make_receipt(make_layer()), twice)
    store.close()
    assert set(count_unit_rows(database_path(tmp_path)).values()) == {0}


def test_a_record_that_has_no_row_takes_its_unit_with_it(store: Store, tmp_path: Path) -> None:
    endless: dict[str, object] = {}
    endless["itself"] = endless
    store.begin_run(make_run())
    unit = [make_measurement(), make_measurement(provider="torch", config=endless)]
    with pytest.raises(ValueError, match="Circular reference"):
        store.commit_unit("run-1", make_host(), make_receipt(make_layer()), unit)
    store.close()
    assert set(count_unit_rows(database_path(tmp_path)).values()) == {0}


def test_a_unit_that_failed_to_commit_can_be_committed_again(store: Store) -> None:
    store.begin_run(make_run())
    with pytest.raises(duckdb.ConstraintException):
        store.commit_unit("run-1", make_host(), None, [make_measurement()] * 2)
    store.commit_unit("run-1", make_host(), None, [make_measurement()])
    assert store.measurements("run-1") == [make_measurement()]


def test_a_unit_of_more_rows_than_a_statement_takes_is_committed_whole(store: Store, tmp_path: Path) -> None:
    store.begin_run(make_run())
    providers = [f"provider-{n:04}" for n in range(2 * ROWS_PER_STATEMENT + 1)]
    measurements = [make_measurement(provider=provider) for provider in providers]
    with pytest.raises(duckdb.ConstraintException):
        store.commit_unit("run-1", make_host(), None, [*measurements, measurements[0]])
    store.commit_unit("run-1", make_host(), None, measurements)
    assert store.measurements("run-1") == measurements


def test_a_host_is_known_after_its_unit_was_committed_and_not_before(store: Store) -> None:
    store.begin_run(make_run())
    with pytest.raises(duckdb.ConstraintException):
        store.commit_unit("run-1", make_host(), None, [make_measurement()] * 2)
    store.commit_unit("run-1", make_host(), None, [make_measurement()])
    other = make_host(host_id="ffff")
    store.commit_unit("run-1", other, None, [replace_host(make_measurement(provider="torch"), "ffff")])
    store.commit_unit("run-1", make_host(), None, [make_measurement(provider="triton-2")])
    assert store.night("run-1").hosts == (make_host(), other)


def replace_host(measurement: Measurement, host_id: str) -> Measurement:
    return replace(measurement, check=replace(measurement.check, host_id=host_id))


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


def test_measured_layers_are_those_of_the_run_alone(store: Store) -> None:
    other = make_case(model="DeepSeek-V3")
    commit_run(store, make_run("run-1"), [make_measurement("run-1")])
    commit_run(store, make_run("run-2", 1), [make_measurement("run-2", other)])
    assert store.measured_layers("run-1") == {make_layer().key}
    assert store.measured_layers("run-2") == {other.layer.key}
    assert store.measured_layers("run-3") == set()


def test_verdicts_of_a_run_are_replaced_not_added(store: Store) -> None:
    store.begin_run(make_run())
    series = make_measurement().series
    other = Verdict("run-2", series, State.SAME, "of another run")
    store.commit_verdicts("run-2", [other])
    store.commit_verdicts("run-1", [Verdict("run-1", series, State.NEW, "first night")])
    store.commit_verdicts("run-1", [Verdict("run-1", series, State.SAME, "judged again")])
    assert [verdict.evidence for verdict in store.night("run-1").verdicts] == ["judged again"]
    store.begin_run(make_run("run-2", 1))
    assert store.night("run-2").verdicts == (other,)


# Readers


def test_readers_see_nothing_until_it_is_published(store: Store, tmp_path: Path) -> None:
    store.begin_run(make_run("first"))
    store.publish()
    store.begin_run(make_run("second", 1))
    with Store.read(tmp_path) as reader:
        assert [run.run_id for run in reader.runs()] == ["first"]


def test_publishing_leaves_an_open_reader_its_view(store: Store, tmp_path: Path) -> None:
    store.begin_run(make_run("first"))
    store.publish()
    with Store.read(tmp_path) as reader:
        store.begin_run(make_run("second", 1))
        store.publish()
        assert [run.run_id for run in reader.runs()] == ["first"]
    with Store.read(tmp_path) as reader:
        assert [run.run_id for run in reader.runs()] == ["first", "second"]
    assert not list(tmp_path.glob("*.tmp"))


def test_another_process_reads_the_snapshot_while_the_writer_is_open(store: Store, tmp_path: Path) -> None:
    store.begin_run(make_run("written"))
    store.publish()
    command = [sys.executable, "-c", READ_RUNS, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "written\n"
    store.begin_run(make_run("still-writing", 1))


def test_a_snapshot_under_a_quoted_name_is_published(tmp_path: Path) -> None:
    with Store.open(tmp_path / "it's") as store:
        store.begin_run(make_run())
        assert store.publish().is_file()


def test_a_reader_cannot_write(store: Store, tmp_path: Path) -> None:
    store.publish()
    with Store.read(tmp_path) as reader, pytest.raises(duckdb.InvalidInputException):
        reader.begin_run(make_run())


def whole_night(store: Store) -> Night:
    for nights in range(3):
        run_id = f"run-{nights}"
        measurements = [replace(m, run_id=run_id) for m in every_kind_of_measurement()]
        commit_run(store, make_run(run_id, nights), measurements)
        store.commit_ceilings([make_ceiling(run_id=run_id)])
        store.commit_verdicts(run_id, [Verdict(run_id, measurements[0].series, State.SAME, "same", 10.5, 10.5, 0.0)])
    return store.night()


def test_a_night_is_the_same_through_parquet(store: Store, tmp_path: Path) -> None:
    night = whole_night(store)
    store.export_parquet(tmp_path / "deep" / "tables")
    assert {path.name for path in (tmp_path / "deep" / "tables").iterdir()} == {f"{table}.parquet" for table in TABLES}
    with Store.from_parquet(tmp_path / "deep" / "tables") as loaded:
        assert loaded.night() == night
        assert dict(loaded.night().trends) == dict(night.trends)
        assert loaded.night("run-0") == store.night("run-0")
        with pytest.raises(StoreError, match="in memory has no snapshot"):
            loaded.publish()


def test_an_export_of_the_same_store_has_the_same_bytes(store: Store, tmp_path: Path) -> None:
    whole_night(store)
    for name in ("one", "two"):
        store.export_parquet(tmp_path / name)
    for table in TABLES:
        one, two = ((tmp_path / name / f"{table}.parquet").read_bytes() for name in ("one", "two"))
        assert one == two


def test_an_export_below_a_file_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=r"cannot write Parquet to .*file.*; choose another folder"):
            store.export_parquet(folder)
    assert (tmp_path / "file").read_text() == "in the way"


def test_an_export_that_fails_half_way_leaves_the_older_one_whole(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    with Store.open(tmp_path) as store:
        store.begin_run(make_run())
        store.export_parquet(folder)
        store.begin_run(make_run("run-2", 1))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with duckdb.connect(str(database_path(tmp_path))) as connection:
        connection.execute("DROP TABLE tuned_configs")  # the last to be written
    with Store.open(tmp_path) as store, pytest.raises(StoreError, match=r"cannot write Parquet to .*tuned_configs"):
        store.export_parquet(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_parquet_that_is_missing_a_table_names_it(store: Store, tmp_path: Path) -> None:
    store.export_parquet(tmp_path / "tables")
    (tmp_path / "tables" / "weights.parquet").unlink()
    with pytest.raises(StoreError, match=r"tables lacks weights\.parquet; it must hold runs, "):
        Store.from_parquet(tmp_path / "tables")


def test_parquet_that_cannot_be_read_names_the_file(store: Store, tmp_path: Path) -> None:
    store.export_parquet(tmp_path / "tables")
    (tmp_path / "tables" / "runs.parquet").write_text("no Parquet")
    with pytest.raises(StoreError, match=r"cannot load .*runs\.parquet: .*; export it again") as refused:
        Store.from_parquet(tmp_path / "tables")
    assert "\n" not in str(refused.value)


# History


def test_trends_are_in_order_of_time_and_hold_only_ok_points(store: Store) -> None:
    samples = {"third": (30.0, 31.0), "first": (10.0, 11.0, 12.0), "second": (20.0,)}
    for run_id, nights in (("third", 3), ("first", 1), ("second", 2)):
        commit_run(store, make_run(run_id, nights), [make_measurement(run_id, samples_us=samples[run_id])])
    commit_run(store, make_run("broken", 4), [make_measurement("broken", status=Status.CRASHED, reason="crash")])
    trends = store.trends(make_run(nights=9))
    [points] = trends.values()
    assert list(trends) == [make_measurement().series]
    assert [(point.run_id, point.median_us) for point in points] == [("first", 11.0), ("second", 20.0), ("third", 30.5)]
    assert (points[0].p20_us, points[0].p80_us) == pytest.approx((10.4, 11.6))
    assert points[0].started_at == STARTED + timedelta(days=1)


def test_trends_end_at_the_night_asked_for(store: Store) -> None:
    for nights in range(4):
        commit_run(store, make_run(f"run-{nights}", nights), [make_measurement(f"run-{nights}")])
    [points] = store.trends(make_run(nights=1)).values()
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
        "later": make_run("later", 10),
    }
    for name, run in nights.items():
        measurements = [make_measurement(name, provider=name)]
        commit_run(store, run, measurements, "interrupted" if name == "interrupted" else "complete")
    store.begin_run(tonight)
    assert providers_before(store, tonight) == {"newer"}


def test_previous_series_count_what_was_tried_and_failed(store: Store) -> None:
    failed = make_measurement("before", status=Status.CRASHED, reason="crash")
    commit_run(store, make_run("before"), [failed], "partial")
    assert store.previous_series(make_run("tonight", 1)) == {failed.series}
