"""The database on real DuckDB files: who may open it, what readers see, and what an export holds."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from consoles import ONE_UNIT, make_model, run_command, start_command
from records import make_layer, make_measurement, make_receipt, make_run, make_unit

from flows.arguments import make_parser, read_selection
from tasks.errors import NewerSchemaError, StoreError, StoreLockedError
from tasks.session import new_run
from tasks.storage.database import TABLES, VERSION_TABLE, Database, database_path, require_writable, snapshot_path
from tasks.storage.schema import list_migrations
from tasks.storage.store import Store

NUM_MIGRATIONS = len(list_migrations())
HOLD_OPEN = """
import duckdb, sys, time
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""
READ_RUNS = """
import sys
from pathlib import Path
from tasks.storage.store import Store
with Store.read(Path(sys.argv[1])) as store:
    print(*(run.run_id for run in store.runs()))
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path) as opened:
        yield opened


def commit_night(store: Store) -> None:
    """A run of one unit."""
    store.begin_run(make_run())
    store.commit_unit("run-1", make_unit([make_measurement()], make_receipt(make_layer())))


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
    assert count_rows(path, VERSION_TABLE) == NUM_MIGRATIONS


def test_opening_again_migrates_nothing_and_keeps_everything(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.begin_run(make_run())
    with Store.open(tmp_path) as store:
        assert store.runs() == [make_run()]
    assert count_rows(database_path(tmp_path), VERSION_TABLE) == NUM_MIGRATIONS


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


def test_a_folder_that_can_be_made_is_not_made_by_asking(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for save_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=r"cannot create .*file.*: Not a directory; choose another --save-dir"):
            require_writable(save_dir)


def test_a_run_that_cannot_be_stored_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    Store.refuse_early(tmp_path, make_run())
    assert list(tmp_path.iterdir()) == []
    with Store.open(tmp_path) as store:
        store.begin_run(make_run(status="complete"))
    Store.refuse_early(tmp_path, make_run("another"))
    with pytest.raises(StoreError, match="run run-1 is complete"):
        Store.refuse_early(tmp_path, make_run())


# Writing


def test_a_transaction_that_raises_leaves_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    with pytest.raises(ZeroDivisionError), database.transaction():
        database.execute("INSERT INTO tuned_configs VALUES ('s', 1, '{}', true, 'why', 2.0, 1.5)")
        raise ZeroDivisionError
    assert database.scalar("SELECT count(*) FROM tuned_configs") == 0
    with database.transaction():
        database.execute("INSERT INTO tuned_configs VALUES ('s', 1, '{}', true, 'why', 2.0, 1.5)")
    assert database.rows("SELECT search_id, median_us FROM tuned_configs") == [{"search_id": "s", "median_us": 1.5}]
    database.close()


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


# Exports


def test_an_export_of_the_same_store_has_the_same_bytes(store: Store, tmp_path: Path) -> None:
    commit_night(store)
    for name in ("one", "two"):
        store.export_parquet(tmp_path / name)
    for table in (*TABLES, VERSION_TABLE):
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
    with pytest.raises(StoreError, match=r"tables lacks weights\.parquet; export it again"):
        Store.from_parquet(tmp_path / "tables")


def test_parquet_that_cannot_be_read_names_the_file(store: Store, tmp_path: Path) -> None:
    store.export_parquet(tmp_path / "tables")
    (tmp_path / "tables" / "runs.parquet").write_text("no Parquet")
    with pytest.raises(StoreError, match=r"cannot load .*runs\.parquet: .*; export it again") as refused:
        Store.from_parquet(tmp_path / "tables")
    assert "\n" not in str(refused.value)


# The real command


def test_a_second_run_on_one_database_names_the_first_which_goes_on_unharmed(tmp_path: Path) -> None:
    make_model(tmp_path / "tiny")
    asked = ("run", *ONE_UNIT, "--model", "./tiny")
    with start_command(*asked, "--run-id", "first", cwd=tmp_path) as first:
        assert first.stdout
        assert first.stdout.readline().startswith("run first: suite smoke")
        first.send_signal(signal.SIGSTOP)  # so that it is not over before the second is there
        second = run_command(*asked, cwd=tmp_path)
        first.send_signal(signal.SIGCONT)
        _, stderr = first.communicate(timeout=100)
    assert (second.returncode, second.stdout) == (2, "")
    path = database_path(tmp_path / "results").relative_to(tmp_path)
    advice = "wait for it or choose another --save-dir"
    assert second.stderr == f"kernel-nightly: {path} is held by process {first.pid}; {advice}\n"
    assert (first.returncode, stderr) == (0, "")
    with Store.read(tmp_path / "results") as store:
        assert [(run.run_id, run.status) for run in store.runs()] == [("first", "complete")]
        assert store.measurements("first")


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        (("--address", "127.0.0.1:9"), {}, "Ray at '127.0.0.1:9' does not answer: "),
        (
            (),
            {"PREFECT_API_URL": "http://127.0.0.1:9/api"},
            "Prefect's server at http://127.0.0.1:9/api does not answer",
        ),
    ],
)
def test_a_run_that_cannot_start_leaves_no_database(
    options: tuple[str, ...], environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    make_model(tmp_path / "tiny")
    asked = ("run", *ONE_UNIT, "--model", "./tiny", "--device", "cpu", *options)
    with start_command(*asked, cwd=tmp_path, **environment) as process:
        _, stderr = process.communicate(timeout=100)
    assert process.returncode == 3
    assert len(stderr.splitlines()) == 1
    assert message in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_resumed_run_adds_the_seconds_of_its_stages_to_those_before(tmp_path: Path) -> None:
    make_model(tmp_path / "tiny")
    asked = ("run", *ONE_UNIT, "--model", "./tiny", "--run-id", "night")
    selection = read_selection(make_parser().parse_args(asked))
    with Store.open(tmp_path / "results") as store:
        run = store.begin_run(new_run("smoke", selection, "cpu", 0, "night"))
        store.finish_run(replace(run, status="interrupted", stage_seconds={"judge": 1000.0, "retune": 2000.0}))
    resumed = run_command(*asked, cwd=tmp_path)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    with Store.read(tmp_path / "results") as store:
        resumed_run = store.find_run("night")
    assert resumed_run.started_at == run.started_at
    assert 1000.0 < resumed_run.stage_seconds["judge"] < 1100.0
    assert resumed_run.stage_seconds["retune"] == 2000.0
    assert resumed_run.stage_seconds["verify"] > 0
