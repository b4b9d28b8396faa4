"""The DuckDB file: its schema, what is committed when, and how readers see it. No other file imports duckdb.

One process writes, under the file's lock. Readers never open the written file: they get the snapshot that the
writer publishes by an atomic rename, so that a site can be drawn while a night is being measured.
"""

import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from tasks import rows
from tasks.errors import RunMismatchError, StoreError, StoreLockedError
from tasks.records import Ceiling, Host, Measurement, Night, Point, Run, Series, Verdict, WeightsReceipt
from tasks.schema import FIRST_SCHEMA, list_migrations, migrate_schema, refuse_newer_schema, schema_version

TABLES = ("runs", "hosts", "ceilings", "cases", "weights", "measurements", "verdicts", "tuned_configs")
ADDED_LATER = frozenset({"ceilings"})
"""Tables that an export by an earlier version, of FIRST_SCHEMA, does not have."""
ROWS_PER_STATEMENT = 500
JOINED = """
    SELECT m.*, c.* EXCLUDE (case_key), h.* EXCLUDE (host_id)
    FROM measurements m JOIN cases c USING (case_key) JOIN hosts h USING (host_id)
"""


def database_path(save_dir: Path) -> Path:
    """Where a run under `save_dir` is written."""
    return save_dir / "nightly.duckdb"


def snapshot_path(save_dir: Path) -> Path:
    """Where readers find the newest published state of `save_dir`."""
    return save_dir / "nightly.published.duckdb"


class Store:
    """One open DuckDB database. Every method may be called from any thread.

    Raises:
        NewerSchemaError, StoreLockedError, StoreError: from the functions that open it; the message names the file.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path | None) -> None:
        self._connection = connection
        self._lock = threading.RLock()
        self._path = path
        self._known_hosts: set[str] = set()
        """Ids of hosts that this store has committed."""

    # Opening

    @classmethod
    def open(cls, save_dir: Path) -> "Store":
        """Open the database under `save_dir` for writing, creating or migrating it as needed."""
        path = database_path(save_dir)
        try:
            save_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot create {save_dir}: {error.strerror}; choose another --save-dir") from error
        store = cls(_connect(path, read_only=False), path)
        try:
            migrate_schema(store._connection, path)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def read(cls, save_dir: Path) -> "Store":
        """Open the published snapshot under `save_dir` read-only; of an older schema, a migrated copy in memory."""
        path = snapshot_path(save_dir)
        if not path.exists():
            raise StoreError(f"no finished run under {save_dir}; start one: kernel-nightly run --save-dir {save_dir}")
        store = cls(_connect(path, read_only=True), path)
        if schema_version(store._connection) == len(list_migrations()):
            return store
        with store:
            refuse_newer_schema(store._connection, path)
        copy = cls(duckdb.connect(":memory:"), None)
        copy._connection.execute(f"ATTACH '{_quoted(path)}' AS older (READ_ONLY)")
        copy._connection.execute("COPY FROM DATABASE older TO memory")
        copy._connection.execute("DETACH older")
        migrate_schema(copy._connection, path)
        return copy

    @classmethod
    def from_parquet(cls, folder: Path) -> "Store":
        """Load what `export_parquet` wrote into memory."""
        missing = [table for table in TABLES if not (folder / f"{table}.parquet").is_file()]
        needed = [table for table in missing if table not in ADDED_LATER]
        if needed:
            raise StoreError(f"{folder} lacks {needed[0]}.parquet; it must hold {', '.join(TABLES)} as Parquet")
        store = cls(duckdb.connect(":memory:"), None)
        migrate_schema(store._connection, folder, newest=FIRST_SCHEMA if missing else None)
        for table in (table for table in TABLES if table not in missing):
            file = str(folder / f"{table}.parquet")
            try:
                store._connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM read_parquet(?)", [file])
            except duckdb.Error as error:
                store.close()
                raise StoreError(f"cannot load {file}: {_first_line(error)}; export it again") from error
        migrate_schema(store._connection, folder)
        return store

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Writing

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._connection.begin()
            try:
                yield
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    def _insert(self, table: str, records: Iterable[rows.Row], *, on_conflict: str = "") -> None:
        """Many rows in one statement: a statement costs as much as ten rows."""
        found = list(records)
        for start in range(0, len(found), ROWS_PER_STATEMENT):
            batch = found[start : start + ROWS_PER_STATEMENT]
            marks = f"({', '.join('?' * len(batch[0]))})"
            statement = f"INSERT INTO {table} ({', '.join(batch[0])}) VALUES {', '.join([marks] * len(batch))}"
            values = [value for row in batch for value in row.values()]
            self._connection.execute(f"{statement} {on_conflict}", values)

    def find_resumable(self, run: Run) -> Run | None:
        """The stored run that has the id of `run`, None if there is none.

        Raises:
            RunMismatchError: it has another suite, seed, commit or selection, or is already complete.
        """
        for stored in self._runs("WHERE run_id = ?", [run.run_id]):
            _refuse_other_run(stored, run)
            return stored
        return None

    def begin_run(self, run: Run) -> Run:
        """Add `run`, or return the stored one when its id exists: that run is resumed.

        Raises:
            RunMismatchError: as find_resumable.
        """
        with self._transaction():
            stored = self.find_resumable(run)
            if not stored:
                self._insert("runs", [rows.run_to_row(run)])
                return run
            self._connection.execute("UPDATE runs SET status = 'running' WHERE run_id = ?", [run.run_id])
            return replace(stored, status="running")

    def commit_unit(
        self, run_id: str, host: Host, receipt: WeightsReceipt | None, measurements: Sequence[Measurement]
    ) -> None:
        """Commit everything one work unit gave, all of it or nothing."""
        ignore = "ON CONFLICT DO NOTHING"
        new_hosts = [] if host.host_id in self._known_hosts else [host]
        with self._transaction():
            self._insert("hosts", map(rows.host_to_row, new_hosts), on_conflict=ignore)
            cases = {m.check.case.key: m.check.case for m in measurements}
            self._insert("cases", map(rows.case_to_row, cases.values()), on_conflict=ignore)
            if receipt:
                self._insert("weights", [rows.receipt_to_row(run_id, receipt)])
            self._insert("measurements", map(rows.measurement_to_row, measurements))
        self._known_hosts.add(host.host_id)

    def commit_ceilings(self, ceilings: Sequence[Ceiling]) -> None:
        """Commit what a host was measured to do at best."""
        with self._transaction():
            self._insert("ceilings", map(rows.ceiling_to_row, ceilings))

    def commit_verdicts(self, run_id: str, verdicts: Sequence[Verdict]) -> None:
        """Replace the verdicts of a run."""
        with self._transaction():
            self._connection.execute("DELETE FROM verdicts WHERE run_id = ?", [run_id])
            self._insert("verdicts", map(rows.verdict_to_row, verdicts))

    def finish_run(self, run: Run) -> None:
        """Store the end of a run: its status, time and stage seconds."""
        row = rows.run_to_row(run)
        with self._transaction():
            self._connection.execute(
                "UPDATE runs SET status = ?, finished_at = ?, stage_seconds = ? WHERE run_id = ?",
                [row["status"], row["finished_at"], row["stage_seconds"], row["run_id"]],
            )

    def publish(self) -> Path:
        """Replace the readers' snapshot by the present state, atomically; who has it open keeps the old one."""
        if self._path is None:
            raise StoreError("a store in memory has no snapshot to publish")
        target = snapshot_path(self._path.parent)
        scratch = target.with_suffix(f".{os.getpid()}.tmp")
        scratch.unlink(missing_ok=True)
        with self._lock:
            source = self._scalar("SELECT current_database()")
            self._connection.execute(f"ATTACH '{_quoted(scratch)}' AS snapshot")
            self._connection.execute(f'COPY FROM DATABASE "{source}" TO snapshot')
            self._connection.execute("DETACH snapshot")
        scratch.replace(target)
        return target

    def export_parquet(self, folder: Path) -> None:
        """Write every table to `folder`/<table>.parquet, rows in a fixed order; an older export stays until all are."""
        scratch = {table: folder / f".{table}.{os.getpid()}.tmp" for table in TABLES}
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

    def _scalar(self, query: str, parameters: Sequence[object] = ()) -> Any:
        with self._lock:
            found = self._connection.execute(query, list(parameters)).fetchone()
        return found[0] if found else None

    def _rows(self, query: str, parameters: Sequence[object] = ()) -> list[rows.Row]:
        with self._lock:
            cursor = self._connection.execute(query, list(parameters))
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]

    def _runs(self, where: str = "", parameters: Sequence[object] = ()) -> list[Run]:
        found = self._rows(f"SELECT * FROM runs {where} ORDER BY started_at", parameters)
        return [rows.row_to_run(row) for row in found]

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        return self._runs()

    def find_run(self, run_id: str = "") -> Run:
        """The run of that id, or the newest one that has ended.

        Raises:
            StoreError: there is no such run; the message names the newest, or the one to resume.
        """
        known = self._runs()
        if not known:
            raise StoreError("the store holds no run yet; start one: kernel-nightly run")
        newest = known[-1].run_id
        if run_id:
            found = [run for run in known if run.run_id == run_id]
            if not found:
                raise StoreError(f"no run {run_id!r}; the newest is {newest} (all: kernel-nightly list runs)")
            return found[0]
        ended = [run for run in known if run.status != "running"]
        if not ended:
            raise StoreError(
                f"no run has ended yet; {newest} is running or was killed; resume: kernel-nightly run --run-id {newest}"
            )
        return ended[-1]

    def measured_layers(self, run_id: str) -> set[str]:
        """Keys of the layers whose unit this run has committed."""
        query = "SELECT DISTINCT layer_key FROM measurements JOIN cases USING (case_key) WHERE run_id = ?"
        return {row["layer_key"] for row in self._rows(query, [run_id])}

    def ceilings(self, run_id: str) -> list[Ceiling]:
        """What the hosts of a run were measured to do at best, in the order of hosts and names."""
        found = self._rows("SELECT * FROM ceilings WHERE run_id = ? ORDER BY host_id, name", [run_id])
        return [rows.row_to_ceiling(row) for row in found]

    def measurements(self, run_id: str) -> list[Measurement]:
        """What one run measured, in the order of cases and providers."""
        found = self._rows(f"{JOINED} WHERE m.run_id = ? ORDER BY kernel, layer_key, case_key, provider", [run_id])
        return [rows.row_to_measurement(row) for row in found]

    def trends(self, run: Run) -> dict[Series, tuple[Point, ...]]:
        """Every series' nights up to and with `run`, oldest first; only of its seed, which draws the routing."""
        query = """
            SELECT m.case_key, m.provider, m.timer, h.device_name, m.run_id, r.started_at,
                   m.relative_error, m.share_close,
                   list_aggregate(m.samples_us, 'median') AS median_us,
                   list_aggregate(m.samples_us, 'quantile_cont', 0.2) AS p20_us,
                   list_aggregate(m.samples_us, 'quantile_cont', 0.8) AS p80_us
            FROM measurements m JOIN runs r USING (run_id) JOIN hosts h USING (host_id)
            WHERE m.status = 'ok' AND r.seed = ? AND r.started_at <= ? ORDER BY r.started_at, m.run_id
        """
        trends: dict[Series, list[Point]] = {}
        for row in self._rows(query, [run.seed, rows.to_utc(run.started_at)]):
            trends.setdefault(rows.row_to_series(row), []).append(rows.row_to_point(row))
        return {series: tuple(points) for series, points in trends.items()}

    def previous_series(self, run: Run) -> set[Series]:
        """Series that the newest earlier finished run with the same suite, arguments and seed measured or tried."""
        same = (
            "suite = ? AND arguments::VARCHAR = ? AND seed = ? AND started_at < ? AND status IN ('complete', 'partial')"
        )
        row = rows.run_to_row(run)
        earlier = self._runs(f"WHERE {same}", [row["suite"], row["arguments"], row["seed"], row["started_at"]])
        if not earlier:
            return set()
        return {m.series for m in self.measurements(earlier[-1].run_id)}

    def night(self, run_id: str = "") -> Night:
        """Everything a report of one run shows; the newest run without an id."""
        run = self.find_run(run_id)
        measurements = self.measurements(run.run_id)
        hosts = self._rows(
            "SELECT * FROM hosts WHERE host_id IN (SELECT host_id FROM measurements WHERE run_id = ?) ORDER BY host_id",
            [run.run_id],
        )
        receipts = self._rows("SELECT * FROM weights WHERE run_id = ? ORDER BY layer_key", [run.run_id])
        verdicts = self._rows("SELECT * FROM verdicts WHERE run_id = ? ORDER BY ALL", [run.run_id])
        wanted = {m.series for m in measurements}
        trends = {series: points for series, points in self.trends(run).items() if series in wanted}
        return Night(
            run=run,
            hosts=tuple(map(rows.row_to_host, hosts)),
            receipts=tuple(map(rows.row_to_receipt, receipts)),
            measurements=tuple(measurements),
            verdicts=tuple(map(rows.row_to_verdict, verdicts)),
            trends=trends,
            ceilings=tuple(self.ceilings(run.run_id)),
        )


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


def _refuse_other_run(stored: Run, run: Run) -> None:
    if stored.status == "complete":
        raise RunMismatchError(f"run {run.run_id} is complete; leave out --run-id to start a new one")
    for name in ("suite", "seed", "git_commit", "arguments"):
        was, now = getattr(stored, name), getattr(run, name)
        if was != now:
            raise RunMismatchError(
                f"run {run.run_id} was started with {name} {was!r}, not {now!r}; "
                "resume it with the same, or leave out --run-id"
            )
