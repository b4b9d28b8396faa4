"""A DuckDB file as rows: who may open it, transactions, what readers see, and what every fault is called.

One process writes, under the file's lock. Readers never open the written file: they get the snapshot that the
writer publishes by an atomic rename, so that a site can be drawn while a night is being measured. No other file
imports duckdb.
"""

import os
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb

from tasks.errors import StoreError, StoreLockedError
from tasks.storage.schema import list_migrations, migrate_schema, refuse_newer_schema, schema_version

TABLES = (
    "runs",
    "hosts",
    "ceilings",
    "cases",
    "weights",
    "measurements",
    "reference_times",
    "unit_costs",
    "crashes",
    "verdicts",
    "retrials",
    "incidents",
    "marks",
    "letters",
    "searches",
    "tuning_trials",
    "tuned_configs",
    "tuned_sets",
    "comparisons",
    "sittings",
)
VERSION_TABLE = "schema_version"
ROWS_PER_STATEMENT = 500

Row = dict[str, Any]


def database_path(save_dir: Path) -> Path:
    """Where a run under `save_dir` is written."""
    return save_dir / "nightly.duckdb"


def snapshot_path(save_dir: Path) -> Path:
    """Where readers find the newest published state of `save_dir`."""
    return save_dir / "nightly.published.duckdb"


class Database:
    """One open DuckDB database. Every method may be called from any thread.

    Raises:
        NewerSchemaError, StoreLockedError, StoreError: from the functions that open it; the message names the file.
        StoreError: from those that write, when the disk is full or gone; what was committed before is kept.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path | None) -> None:
        self._connection = connection
        self._lock = threading.RLock()
        self._path = path

    # Opening

    @classmethod
    def open(cls, save_dir: Path) -> "Database":
        """Open the database under `save_dir` for writing, creating or migrating it as needed."""
        path = database_path(save_dir)
        try:
            save_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot create {save_dir}: {error.strerror}; choose another --save-dir") from error
        is_new = not path.exists()
        try:
            database = cls(_connect(path, read_only=False), path)
        except StoreLockedError:
            raise
        except StoreError:
            if is_new:  # a file that was begun on a full disk could never be opened
                _remove_database(path)
            raise
        try:
            with database._telling_faults():
                migrate_schema(database._connection, path)
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def read(cls, save_dir: Path) -> "Database":
        """Open the published snapshot under `save_dir` read-only; of an older schema, a migrated copy in memory."""
        path = snapshot_path(save_dir)
        if not path.exists():
            raise StoreError(f"no finished run under {save_dir}; start one: kernel-nightly run --save-dir {save_dir}")
        snapshot = cls(_connect(path, read_only=True), path)
        version = schema_version(snapshot._connection)
        if version == len(list_migrations()):
            return snapshot
        snapshot.close()
        refuse_newer_schema(version, path)
        copy = cls(duckdb.connect(":memory:"), None)
        copy._connection.execute(f"ATTACH '{_quoted(path)}' AS older (READ_ONLY)")
        copy._connection.execute("COPY FROM DATABASE older TO memory")
        copy._connection.execute("DETACH older")
        migrate_schema(copy._connection, path)
        return copy

    @classmethod
    def from_parquet(cls, folder: Path) -> "Database":
        """Load what `export_parquet` wrote, of this schema or an older one, into memory."""
        database = cls(duckdb.connect(":memory:"), None)
        try:
            database._load_parquet(folder)
        except BaseException:
            database.close()
            raise
        return database

    def _load_parquet(self, folder: Path) -> None:
        version_file = folder / f"{VERSION_TABLE}.parquet"
        if not version_file.is_file():
            raise StoreError(f"{folder} lacks {version_file.name}; give a folder that kernel-nightly export wrote")
        version = int(self._read_file("SELECT max(version) FROM read_parquet(?)", version_file).fetchall()[0][0])
        refuse_newer_schema(version, folder)
        migrate_schema(self._connection, folder, newest=version)
        for table in self._tables():
            file = folder / f"{table}.parquet"
            if not file.is_file():
                raise StoreError(f"{folder} lacks {file.name}; export it again")
            self._read_file(f"INSERT INTO {table} BY NAME SELECT * FROM read_parquet(?)", file)
        migrate_schema(self._connection, folder)

    def _read_file(self, query: str, file: Path) -> duckdb.DuckDBPyConnection:
        try:
            return self._connection.execute(query, [str(file)])
        except duckdb.Error as error:
            raise StoreError(f"cannot load {file}: {_first_line(error)}; export it again") from error

    def _tables(self) -> list[str]:
        """The tables that the schema of this database has."""
        names = "SELECT table_name FROM information_schema.tables"
        found = {row[0] for row in self._connection.execute(names).fetchall()}
        return [table for table in TABLES if table in found]

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    # Writing

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing."""
        with self._lock, self._telling_faults():
            self._connection.begin()
            try:
                yield
            except BaseException:
                with suppress(duckdb.Error):  # a fault may have ended the transaction
                    self._connection.rollback()
                raise
            self._connection.commit()

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> None:
        """Run one statement, inside a transaction."""
        self._connection.execute(statement, list(parameters))

    def insert(self, table: str, records: Iterable[Row], *, on_conflict: str = "") -> None:
        """Many rows in one statement, inside a transaction: a statement costs as much as ten rows."""
        found = list(records)
        for start in range(0, len(found), ROWS_PER_STATEMENT):
            batch = found[start : start + ROWS_PER_STATEMENT]
            marks = f"({', '.join('?' * len(batch[0]))})"
            statement = f"INSERT INTO {table} ({', '.join(batch[0])}) VALUES {', '.join([marks] * len(batch))}"
            self.execute(f"{statement} {on_conflict}", [value for row in batch for value in row.values()])

    @contextmanager
    def _telling_faults(self) -> Iterator[None]:
        """Raise StoreError in one line for a disk that is full or gone."""
        try:
            yield
        except (duckdb.OperationalError, duckdb.FatalException, OSError) as error:
            where = f"{self._path}" if self._path else "the store"
            reason = getattr(error, "strerror", None) or _first_line(error)
            advice = "what was committed before is kept: make room, then resume with --run-id"
            raise StoreError(f"cannot write {where}: {reason}; {advice}") from error

    def publish(self) -> Path:
        """Replace the readers' snapshot by the present state, atomically; who has it open keeps the old one."""
        if self._path is None:
            raise StoreError("a store in memory has no snapshot to publish")
        target = snapshot_path(self._path.parent)
        scratch = target.with_suffix(".tmp")  # of whoever holds the lock, and of nobody else
        with self._lock, self._telling_faults():
            _remove_database(scratch)
            try:
                self._copy_to(scratch)
                scratch.replace(target)
            finally:
                _remove_database(scratch)
        return target

    def _copy_to(self, file: Path) -> None:
        source = self.scalar("SELECT current_database()")
        self._connection.execute(f"ATTACH '{_quoted(file)}' AS snapshot")
        try:
            self._connection.execute(f'COPY FROM DATABASE "{source}" TO snapshot')
            self._connection.execute("CHECKPOINT snapshot")  # which says why it fails, unlike DETACH
        finally:
            with suppress(duckdb.IOException):  # it is detached all the same
                self._connection.execute("DETACH snapshot")

    def export_parquet(self, folder: Path) -> None:
        """Write every table to `folder`/<table>.parquet, rows in a fixed order; an older export stays until all are."""
        scratch = {table: folder / f".{table}.{os.getpid()}.tmp" for table in (*TABLES, VERSION_TABLE)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._lock:
                for table, file in scratch.items():
                    select = f"SELECT * FROM {table} ORDER BY ALL"
                    self._connection.execute(f"COPY ({select}) TO '{_quoted(file)}' (FORMAT parquet, COMPRESSION zstd)")
            for table, file in scratch.items():
                file.replace(folder / f"{table}.parquet")
        except (OSError, duckdb.Error) as error:
            reason = getattr(error, "strerror", None) or _first_line(error)
            raise StoreError(f"cannot write Parquet to {folder}: {reason}; choose another folder") from error
        finally:
            for file in filter(Path.is_file, scratch.values()):
                file.unlink()

    # Reading

    def scalar(self, query: str, parameters: Sequence[object] = ()) -> Any:
        """The first value of the first row, or None."""
        with self._lock:
            found = self._connection.execute(query, list(parameters)).fetchone()
        return found[0] if found else None

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Every row by column names."""
        with self._lock:
            cursor = self._connection.execute(query, list(parameters))
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]

    def columns(self, query: str, parameters: Sequence[object] = ()) -> dict[str, Any]:
        """Every column by name, as an array; the query has numbers only, and no NULL."""
        with self._lock:
            return dict(self._connection.execute(query, list(parameters)).fetchnumpy())


def require_writable(save_dir: Path) -> None:
    """Raise StoreError where no database can be made; leaves nothing behind."""
    try:
        folder = next(path for path in (save_dir, *save_dir.absolute().parents) if path.exists())
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise StoreError(f"cannot create {save_dir}: {error.strerror}; choose another --save-dir") from error


def _remove_database(file: Path) -> None:
    for path in (file, file.with_name(f"{file.name}.wal")):
        path.unlink(missing_ok=True)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _connect(path: Path, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    try:
        return duckdb.connect(str(path), read_only=read_only)
    except duckdb.IOException as error:
        message = str(error)
        if "Could not set lock" in message:
            holder = re.search(r"PID (\d+)", message)
            process = f"process {holder[1]}" if holder else "another process"
            raise StoreLockedError(f"{path} is held by {process}; wait for it or choose another --save-dir") from error
        if "not a valid DuckDB" in message:
            raise StoreError(f"{path} is not a DuckDB database; move it away or choose another --save-dir") from error
        raise StoreError(f"cannot open {path}: {_first_line(error)}; choose another --save-dir") from error
