"""The schema grows by numbered scripts, and a database of every earlier version stays readable with nothing lost."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from records import GPU, insert_known, make_ceiling, make_host, make_layer, make_measurement, make_receipt, make_run

from kernels.spec import Case
from tasks.errors import StoreError
from tasks.records import Measurement, State, Verdict
from tasks.storage import rows
from tasks.storage.database import VERSION_TABLE, database_path, snapshot_path
from tasks.storage.schema import list_migrations, migrate_schema, schema_version
from tasks.storage.store import Store

NEWEST = len(list_migrations())
CASES = [Case(make_layer(model), 16, {"token_strategy": "max_t"}) for model in ("Mixtral-8x7B", "DeepSeek-V3")]
HOSTS = (make_host(), make_host(replace(GPU, name="NVIDIA A100"), "ffff"))
RUNS = (make_run("second", 1, status="complete"), make_run("first", 0), make_run("third", 2, git_dirty=False))
"""In no order, as rows come."""
VERDICT = Verdict(
    "second", make_measurement(case=CASES[0]).series, State.SLOW, "12.0 us against 10.0 us", 12.0, 10.0, 0.2
)


def old_measurements(run_id: str) -> list[Measurement]:
    """Two layers, each on a GPU of its own."""
    one = make_measurement(run_id, CASES[0], relative_error=0.01, config={"BLOCK_SIZE_M": 64})
    other = make_measurement(run_id, CASES[1], samples_us=(20.0, 1 / 3))
    check = replace(other.check, host_id=HOSTS[1].host_id)
    return [one, replace(other, check=check, device=HOSTS[1].device)]


def old_rows() -> Iterator[tuple[str, rows.Row]]:
    yield from (("hosts", rows.host_to_row(host)) for host in HOSTS)
    yield from (("cases", rows.case_to_row(case)) for case in CASES)
    yield "verdicts", rows.verdict_to_row(VERDICT)
    for number, run in enumerate(sorted(RUNS, key=lambda run: run.started_at), start=1):
        yield "runs", {**rows.run_to_row(run), "number": number}
        yield from (("measurements", rows.measurement_to_row(m)) for m in old_measurements(run.run_id))
        yield "ceilings", rows.ceiling_to_row(make_ceiling(run_id=run.run_id))
        for case, host in zip(CASES, HOSTS, strict=True):
            yield "weights", rows.receipt_to_row(run.run_id, make_receipt(case.layer, host))


@contextmanager
def writing(path: Path | str, version: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database as a version of this project left it, with three runs on two GPUs."""
    with duckdb.connect(str(path)) as connection:
        migrate_schema(connection, Path(path), newest=version)
        tables = {row[0] for row in connection.execute("SHOW TABLES").fetchall()}
        for table, row in old_rows():
            if table in tables:
                insert_known(connection, table, row)
        yield connection


def check_nothing_is_lost(store: Store, version: int) -> None:
    assert [run.run_id for run in store.runs()] == ["first", "second", "third"]
    for run in RUNS:
        night = store.night(run.run_id)
        assert night.run == run
        assert {m.check.case.key: m for m in night.measurements} == {
            m.check.case.key: m for m in old_measurements(run.run_id)
        }
        assert set(night.hosts) == set(HOSTS)
        assert {receipt.host_id for receipt in night.receipts} == {host.host_id for host in HOSTS}
        assert night.verdicts == ((VERDICT,) if run.run_id == "second" else ())
        assert len(night.ceilings) == (version >= 3)
    for points in store.night("third").trends.values():
        assert [point.run_id for point in points] == ["first", "second", "third"]


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [int(path.name.partition("_")[0]) for path in list_migrations()] == list(range(1, NEWEST + 1))


def test_an_empty_database_gets_every_script_once() -> None:
    with duckdb.connect(":memory:") as connection:
        assert schema_version(connection) == 0
        for _ in range(2):
            migrate_schema(connection, Path("memory"))
            assert schema_version(connection) == NEWEST


@pytest.mark.parametrize("version", range(1, NEWEST))
def test_a_database_of_an_older_schema_is_migrated_and_loses_nothing(tmp_path: Path, version: int) -> None:
    with writing(database_path(tmp_path), version):
        pass
    with Store.open(tmp_path) as store:
        check_nothing_is_lost(store, version)
        tonight = store.begin_run(make_run("tonight", -30))
        assert store.runs()[-1] == tonight, "a clock that went back does not make it older"
    with Store.open(tmp_path) as store:
        assert [run.run_id for run in store.runs()] == ["first", "second", "third", "tonight"]


@pytest.mark.parametrize("version", range(1, NEWEST))
def test_a_snapshot_of_an_older_schema_is_read_without_being_changed(tmp_path: Path, version: int) -> None:
    path = snapshot_path(tmp_path)
    with writing(path, version):
        pass
    before = path.read_bytes()
    with Store.read(tmp_path) as store:
        check_nothing_is_lost(store, version)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("version", range(1, NEWEST))
def test_an_export_of_an_older_schema_is_read_with_nothing_lost(tmp_path: Path, version: int) -> None:
    with writing(":memory:", version) as connection:
        for (table,) in connection.execute("SHOW TABLES").fetchall():
            connection.execute(f"COPY {table} TO '{tmp_path / table}.parquet' (FORMAT parquet)")
    with Store.from_parquet(tmp_path) as store:
        check_nothing_is_lost(store, version)


def test_an_export_says_of_which_schema_it_is(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.export_parquet(tmp_path / "tables")
    file = tmp_path / "tables" / f"{VERSION_TABLE}.parquet"
    assert duckdb.read_parquet(str(file)).fetchall() == [(number,) for number in range(1, NEWEST + 1)]
    file.unlink()
    with pytest.raises(StoreError, match=r"tables lacks schema_version\.parquet; give a folder that kernel-nightly"):
        Store.from_parquet(tmp_path / "tables")


def test_an_export_of_a_newer_schema_asks_for_an_upgrade(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.export_parquet(tmp_path)
    duckdb.sql("SELECT 99 AS version").write_parquet(str(tmp_path / f"{VERSION_TABLE}.parquet"))
    with pytest.raises(StoreError, match=r"has schema version 99, .* upgrade kernel-nightly"):
        Store.from_parquet(tmp_path)


def test_a_script_that_fails_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    with writing(database_path(tmp_path), 3) as connection:
        connection.execute("CREATE TABLE crashes (in_the_way INTEGER)")
    with pytest.raises(duckdb.CatalogException, match="crashes"):
        Store.open(tmp_path)
    with duckdb.connect(str(database_path(tmp_path))) as connection:
        assert schema_version(connection) == 3
        connection.execute("DROP TABLE crashes")
    with Store.open(tmp_path) as store:
        check_nothing_is_lost(store, 3)
