"""Records in and out of the database: what is committed when, and what a report of a run reads."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from tasks.errors import RunMismatchError, StoreError
from tasks.judgement.histories import Histories, narrow_histories
from tasks.judgement.reference_histories import ReferenceHistories
from tasks.judgement.references import USUAL_RUNS
from tasks.nights import Night
from tasks.records import (
    Ceiling,
    Crash,
    Host,
    Measurement,
    Point,
    ReferenceTime,
    Run,
    Series,
    State,
    Status,
    UnitCost,
    UnitResult,
)
from tasks.storage import rows
from tasks.storage.database import Database, database_path, require_writable
from tasks.storage.journal import Journal
from tasks.storage.notebook import Notebook
from tasks.storage.store_histories import read_cases, read_histories, read_references

JOINED = """
    SELECT m.*, c.* EXCLUDE (case_key), h.* EXCLUDE (host_id)
    FROM measurements m JOIN cases c USING (case_key) JOIN hosts h USING (host_id)
"""


class Store:
    """The records of one database. Every method may be called from any thread.

    Raises:
        NewerSchemaError, StoreLockedError, StoreError: as Database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.journal = Journal(database)
        """What was judged, told and answered."""
        self.notebook = Notebook(database)
        """What was searched for and found."""
        self._known_hosts: set[str] = set()
        """Ids of hosts that this store has committed."""

    @classmethod
    def open(cls, save_dir: Path) -> "Store":
        """Open the database under `save_dir` for writing, creating or migrating it as needed."""
        return cls(Database.open(save_dir))

    @classmethod
    def reopen(cls, save_dir: Path) -> "Store":
        """Open the database under `save_dir` for writing, if there is one.

        Raises:
            StoreError: there is none; as open.
        """
        if not database_path(save_dir).exists():
            raise StoreError(f"no database under {save_dir}; choose another --save-dir, or start: kernel-nightly run")
        return cls.open(save_dir)

    @classmethod
    def read(cls, save_dir: Path) -> "Store":
        """Open the published snapshot under `save_dir` read-only."""
        return cls(Database.read(save_dir))

    @classmethod
    def from_parquet(cls, folder: Path) -> "Store":
        """Load what `export_parquet` wrote into memory."""
        return cls(Database.from_parquet(folder))

    @classmethod
    def refuse_early(cls, save_dir: Path, run: Run | None = None) -> None:
        """Find what would keep anything, or `run`, from being stored under `save_dir`; makes nothing where nothing is.

        Raises:
            StoreError: as open and find_resumable.
        """
        if not database_path(save_dir).exists():
            require_writable(save_dir)
            return
        with cls.open(save_dir) as store:
            if run:
                store.find_resumable(run)

    def publish(self) -> Path:
        """Replace the readers' snapshot by the present state."""
        return self._database.publish()

    def export_parquet(self, folder: Path) -> None:
        """Write every table to `folder`/<table>.parquet."""
        self._database.export_parquet(folder)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Writing

    def find_resumable(self, run: Run) -> Run | None:
        """The stored run that has the id of `run`, None if there is none.

        Raises:
            RunMismatchError: it has another suite, seed, source or selection, or is already complete.
        """
        for stored in self._runs("WHERE run_id = ?", [run.run_id]):
            _refuse_other_run(stored, run)
            return stored
        return None

    def begin_run(self, run: Run) -> Run:
        """Add `run`, or return the stored one when its id exists: that run is resumed.

        A run without an id gets one that is new.

        Raises:
            RunMismatchError: as find_resumable.
        """
        with self._database.transaction():
            stored = self.find_resumable(run)
            if not stored:
                run = replace(run, run_id=run.run_id or self._make_run_id(run))
                number = self._database.scalar("SELECT coalesce(max(number), 0) + 1 FROM runs")
                self._database.insert("runs", [{**rows.run_to_row(run), "number": number}])
                return run
            self._database.execute("UPDATE runs SET status = 'running' WHERE run_id = ?", [run.run_id])
            return replace(stored, status="running")

    def _make_run_id(self, run: Run) -> str:
        """From the time; with a number where that id exists, as when a clock went back or two runs share a second."""
        known = {row["run_id"] for row in self._database.rows("SELECT run_id FROM runs")}
        from_time = f"{run.started_at:%Y%m%dT%H%M%SZ}"
        candidates = (from_time if number == 1 else f"{from_time}-{number}" for number in count(1))
        return next(run_id for run_id in candidates if run_id not in known)

    def commit_unit(self, run_id: str, result: UnitResult) -> None:
        """Commit everything one work unit gave, all of it or nothing."""
        insert, ignore, host = self._database.insert, "ON CONFLICT DO NOTHING", result.host
        new_hosts = [] if host.host_id in self._known_hosts else [host]
        with self._database.transaction():
            insert("hosts", map(rows.host_to_row, new_hosts), on_conflict=ignore)
            cases = {m.check.case.key: m.check.case for m in result.measurements}
            insert("cases", map(rows.case_to_row, cases.values()), on_conflict=ignore)
            if result.receipt:
                insert("weights", [rows.receipt_to_row(run_id, result.receipt)])
            insert("measurements", map(rows.measurement_to_row, result.measurements))
            insert("reference_times", map(rows.reference_to_row, result.references))
            if result.cost:
                insert("unit_costs", [rows.cost_to_row(result.cost)])
        self._known_hosts.add(host.host_id)

    def commit_ceilings(self, ceilings: Sequence[Ceiling]) -> None:
        """Commit what a host was measured to do at best."""
        with self._database.transaction():
            self._database.insert("ceilings", map(rows.ceiling_to_row, ceilings))

    def commit_crash(self, crash: Crash) -> None:
        """Commit at once that a provider killed its worker: the next thing it kills may be this process."""
        with self._database.transaction():
            self._database.insert("crashes", [rows.crash_to_row(crash)])

    def finish_run(self, run: Run) -> None:
        """Store the end of a run: its status, time and stage seconds."""
        row = rows.run_to_row(run)
        with self._database.transaction():
            self._database.execute(
                "UPDATE runs SET status = ?, finished_at = ?, stage_seconds = ? WHERE run_id = ?",
                [row["status"], row["finished_at"], row["stage_seconds"], row["run_id"]],
            )

    # Reading

    def _runs(self, where: str = "", parameters: Sequence[object] = ()) -> list[Run]:
        found = self._database.rows(f"SELECT * FROM runs {where} ORDER BY number", parameters)
        return [rows.row_to_run(row) for row in found]

    def runs(self) -> list[Run]:
        """All runs in the order they were started."""
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
                raise StoreError(
                    f"no run {run_id!r}; the newest is {newest} (all: kernel-nightly list runs [--from DIR])"
                )
            return found[0]
        ended = [run for run in known if run.status != "running"]
        if not ended:
            raise StoreError(
                f"no run has ended yet; {newest} is running or was killed; resume: kernel-nightly run --run-id {newest}"
            )
        return ended[-1]

    def measured_units(self, run_id: str) -> set[tuple[str, str]]:
        """Layer keys and device names of the units that this run has committed."""
        query = """
            SELECT DISTINCT c.layer_key, h.device_name
            FROM measurements JOIN cases c USING (case_key) JOIN hosts h USING (host_id) WHERE run_id = ?
        """
        return {(row["layer_key"], row["device_name"]) for row in self._database.rows(query, [run_id])}

    def ceilings(self, run_id: str) -> list[Ceiling]:
        """What the hosts of a run were measured to do at best, in the order of hosts and names."""
        found = self._database.rows("SELECT * FROM ceilings WHERE run_id = ? ORDER BY host_id, name", [run_id])
        return [rows.row_to_ceiling(row) for row in found]

    def crashes(self, run_id: str) -> list[Crash]:
        """What killed workers in a run, in order."""
        found = self._database.rows("SELECT * FROM crashes WHERE run_id = ? ORDER BY crashed_at", [run_id])
        return [rows.row_to_crash(row) for row in found]

    def references(self, run_id: str) -> list[ReferenceTime]:
        """The kernels that never change, as this run timed them, in the order of time."""
        query = "SELECT * FROM reference_times WHERE run_id = ? ORDER BY measured_at, case_key, timer, name"
        return [rows.row_to_reference(row) for row in self._database.rows(query, [run_id])]

    def reference_trends(self, run: Run) -> dict[tuple[str, str], tuple[Point, ...]]:
        """By device name and reference kernel, in their order, the median of its cases' medians in each run up to and
        with `run`."""
        query = """
            SELECT r.run_id, r.started_at, h.device_name, t.name, NULL AS relative_error, NULL AS share_close,
                   '' AS device_uuid,
                   quantile_cont(t.median_us, 0.5) AS median_us,
                   quantile_cont(t.median_us, 0.2) AS p20_us, quantile_cont(t.median_us, 0.8) AS p80_us
            FROM (SELECT *, list_aggregate(samples_us, 'median') AS median_us FROM reference_times) AS t
            JOIN runs r USING (run_id) JOIN hosts h USING (host_id)
            WHERE r.number <= (SELECT number FROM runs WHERE run_id = ?)
            GROUP BY r.number, r.run_id, r.started_at, h.device_name, t.name ORDER BY h.device_name, t.name, r.number
        """
        trends: dict[tuple[str, str], list[Point]] = {}
        for row in self._database.rows(query, [run.run_id]):
            trends.setdefault((row["device_name"], row["name"]), []).append(rows.row_to_point(row))
        return {kernel: tuple(points) for kernel, points in trends.items()}

    def usual_references(self, run: Run) -> dict[tuple[str, str, str, str], float]:
        """By device name, case key, timer and reference kernel, its median over the last runs that timed it."""
        query = """
            SELECT h.device_name, t.case_key, t.timer, t.name,
                   median(list_aggregate(t.samples_us, 'median')) AS median_us
            FROM reference_times t JOIN hosts h USING (host_id)
            WHERE t.run_id IN (SELECT unnest(?)) AND len(t.samples_us) > 0 GROUP BY ALL
        """
        found = self._database.rows(query, [self._runs_before(run)])
        return {(row["device_name"], row["case_key"], row["timer"], row["name"]): row["median_us"] for row in found}

    def reference_histories(self, run: Run) -> ReferenceHistories:
        """What each reference kernel took beside each case in the last runs up to and with `run`."""
        return read_references(self._database, run)

    def usual_clocks(self, run: Run) -> dict[Series, float]:
        """By series, the median SM clock in MHz over the last USUAL_RUNS, of those whose GPU told it."""
        query = """
            SELECT m.case_key, m.provider, m.timer, h.device_name, median(t.clock_mhz) AS clock_mhz
            FROM measurements m JOIN hosts h USING (host_id),
                 unnest(json_extract(m.trials, '$[*].state.sm_clock_mhz')::INTEGER[]) AS t(clock_mhz)
            WHERE m.run_id IN (SELECT unnest(?)) AND m.status = 'ok'
            GROUP BY ALL
        """
        found = self._database.rows(query, [self._runs_before(run)])
        return {rows.row_to_series(row): row["clock_mhz"] for row in found}

    def _runs_before(self, run: Run) -> list[str]:
        """Ids of the last runs of the suite before this one."""
        query = """
            SELECT run_id FROM runs
            WHERE suite = ? AND seed = ? AND number < (SELECT number FROM runs WHERE run_id = ?)
            ORDER BY number DESC LIMIT ?
        """
        found = self._database.rows(query, [run.suite, run.seed, run.run_id, USUAL_RUNS])
        return [row["run_id"] for row in found]

    def unit_costs(self, run_id: str) -> list[UnitCost]:
        """Where the seconds of each unit of a run went."""
        query = "SELECT * FROM unit_costs WHERE run_id = ? ORDER BY layer_key, host_id"
        return [rows.row_to_cost(row) for row in self._database.rows(query, [run_id])]

    def last_unit_seconds(self) -> dict[tuple[str, str], float]:
        """By layer key and device name, the total seconds of each unit in the last run that measured it."""
        query = """
            SELECT u.layer_key, h.device_name, arg_max((u.seconds->>'total')::DOUBLE, r.number) AS seconds
            FROM unit_costs u JOIN hosts h USING (host_id) JOIN runs r USING (run_id) GROUP BY ALL
        """
        return {(row["layer_key"], row["device_name"]): row["seconds"] for row in self._database.rows(query)}

    def measurements(self, run_id: str) -> list[Measurement]:
        """What one run measured, in the order of cases and providers."""
        query = f"{JOINED} WHERE m.run_id = ? ORDER BY kernel, layer_key, case_key, provider, timer"
        return [rows.row_to_measurement(row) for row in self._database.rows(query, [run_id])]

    def trends(self, run: Run) -> Histories:
        """Every series' nights up to and with `run`, oldest first; only of its seed, which draws the routing."""
        return read_histories(self._database, run)

    def previous_series(self, run: Run) -> set[Series]:
        """Series that the last complete run with the same suite, arguments and seed tried or missed, and any run since.

        Those that could not run there are no loss.
        """
        same = """
            WHERE suite = ? AND arguments::VARCHAR = ? AND seed = ? AND status IN ('complete', 'partial')
            AND number < (SELECT number FROM runs WHERE run_id = ?)
        """
        row = rows.run_to_row(run)
        found: set[Series] = set()
        for earlier in reversed(self._runs(same, [row["suite"], row["arguments"], row["seed"], run.run_id])):
            found |= {v.series for v in self.journal.verdicts(earlier.run_id) if v.state is State.MISSING}
            tried = self.measurements(earlier.run_id)
            found |= {m.series for m in tried if m.status is not Status.UNSUPPORTED}
            if earlier.status == "complete":
                break
        return found

    def hosts(self, run_id: str) -> list[Host]:
        """The hosts that a run measured on."""
        query = "FROM hosts WHERE host_id IN (SELECT host_id FROM measurements WHERE run_id = ?) ORDER BY host_id"
        return [rows.row_to_host(row) for row in self._database.rows(query, [run_id])]

    def night(self, run_id: str = "") -> Night:
        """Everything a report of one run shows; the newest run without an id."""
        bare = self.bare_night(run_id)
        run = bare.run
        verdicts = tuple(self.journal.verdicts(run.run_id))
        measured = dict.fromkeys(m.series for m in bare.measurements)
        known = [*measured, *(verdict.series for verdict in verdicts)]
        return replace(
            bare,
            verdicts=verdicts,
            trends=narrow_histories(read_histories(self._database, run), list(dict.fromkeys(known))),
            marks=tuple(self.journal.marks()),
            ceilings=tuple(self.ceilings(run.run_id)),
            references=tuple(self.references(run.run_id)),
            costs=tuple(self.unit_costs(run.run_id)),
            reference_trends=self.reference_trends(run),
            usual_references=self.usual_references(run),
            incidents=tuple(self.journal.incidents_of(run.run_id)),
            tuned_sets=tuple(self.notebook.listed_sets(run.run_id)),
            missing_cases=read_cases(self._database, [s.case_key for s in known if s not in measured]),
        )

    def bare_night(self, run_id: str = "") -> Night:
        """What one run measured and on what, without its history and verdicts; the newest run without an id."""
        run = self.find_run(run_id)
        receipts = self._database.rows(
            "SELECT * FROM weights WHERE run_id = ? ORDER BY layer_key, host_id", [run.run_id]
        )
        return Night(
            run=run,
            hosts=tuple(self.hosts(run.run_id)),
            receipts=tuple(map(rows.row_to_receipt, receipts)),
            measurements=tuple(self.measurements(run.run_id)),
        )


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
    if stored.git_dirty != run.git_dirty:
        was, now = ("a clean", "has uncommitted changes") if run.git_dirty else ("a changed", "is clean")
        raise RunMismatchError(
            f"run {run.run_id} was started from {was} working tree, which now {now}; "
            "resume it from the same source, or leave out --run-id"
        )
