"""The schema grows by numbered scripts, and a database of every earlier version stays readable."""

from pathlib import Path

import duckdb
from records import make_ceiling, make_run

from tasks.rows import run_to_row
from tasks.schema import MIGRATIONS, list_migrations, migrate_schema, schema_version
from tasks.store import Store, database_path, snapshot_path


def write_first_schema(path: Path) -> None:
    """A database as the first version left it, with one run."""
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER); INSERT INTO schema_version VALUES (1)")
        connection.execute((MIGRATIONS / "001_first_schema.sql").read_text())
        row = run_to_row(make_run())
        connection.execute(f"INSERT INTO runs VALUES ({', '.join('?' * len(row))})", list(row.values()))


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [int(path.name.partition("_")[0]) for path in list_migrations()] == list(
        range(1, len(list_migrations()) + 1)
    )


def test_an_empty_database_gets_every_script_once() -> None:
    with duckdb.connect(":memory:") as connection:
        assert schema_version(connection) == 0
        for _ in range(2):
            migrate_schema(connection, Path("memory"))
            assert schema_version(connection) == len(list_migrations())


def test_a_store_of_the_first_schema_is_migrated_and_keeps_its_runs(tmp_path: Path) -> None:
    write_first_schema(database_path(tmp_path))
    with Store.open(tmp_path) as store:
        assert store.runs() == [make_run()]
        store.commit_ceilings([make_ceiling()])
        assert store.ceilings("run-1") == [make_ceiling()]


def test_a_snapshot_of_the_first_schema_is_read_without_being_changed(tmp_path: Path) -> None:
    path = snapshot_path(tmp_path)
    write_first_schema(path)
    before = path.read_bytes()
    with Store.read(tmp_path) as store:
        assert store.runs() == [make_run()]
        assert store.night("run-1").measurements == ()
    assert path.read_bytes() == before
