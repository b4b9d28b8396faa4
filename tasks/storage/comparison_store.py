"""Comparisons in and out of the database, in tables of their own: what a branch was measured to do is no night."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, groupby
from pathlib import Path
from typing import Any

from kernels.spec import Case
from tasks.commits.comparisons import Comparison, Sitting
from tasks.records import Host, Measurement, Series
from tasks.storage import rows
from tasks.storage.database import Database, database_path, require_writable
from tasks.storage.journal import Journal
from tasks.storage.rows import Row

QUESTION = ("head_commit", "base_commit", "arguments", "seed", "least_change")
"""Columns in which two comparisons that ask the same are alike."""


class ComparisonStore:
    """The comparisons of one database. Every method may be called from any thread.

    Raises:
        NewerSchemaError, StoreLockedError, StoreError: as Database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, save_dir: Path) -> "ComparisonStore":
        """Open the database under `save_dir` for writing, creating or migrating it as needed."""
        return cls(Database.open(save_dir))

    @classmethod
    def read(cls, save_dir: Path) -> "ComparisonStore":
        """Open the published snapshot under `save_dir` read-only."""
        return cls(Database.read(save_dir))

    @classmethod
    def from_parquet(cls, folder: Path) -> "ComparisonStore":
        """Load what `Store.export_parquet` wrote into memory."""
        return cls(Database.from_parquet(folder))

    @classmethod
    def refuse_early(cls, save_dir: Path) -> None:
        """Find what would keep a comparison from being stored under `save_dir`; where nothing is, nothing is made."""
        if not database_path(save_dir).exists():
            require_writable(save_dir)
            return
        cls.open(save_dir).close()

    def publish(self) -> Path:
        """Replace the readers' snapshot by the present state."""
        return self._database.publish()

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def __enter__(self) -> "ComparisonStore":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Writing

    def begin(self, comparison: Comparison) -> Comparison:
        """Store that a comparison starts, or go on with the newest that asked the same and did not end well."""
        row = comparison_to_row(comparison)
        same = " AND ".join(f"{name}::VARCHAR = ?::VARCHAR" for name in QUESTION)
        query = f"SELECT * FROM comparisons WHERE {same} AND status <> 'complete' ORDER BY number DESC LIMIT 1"
        with self._database.transaction():
            for stored in self._database.rows(query, [row[name] for name in QUESTION]):
                unfinished = row_to_comparison(stored)
                self._database.execute(
                    "UPDATE comparisons SET status = 'running' WHERE comparison_id = ?", [unfinished.comparison_id]
                )
                return replace(unfinished, status="running")
            begun = replace(comparison, comparison_id=self._make_id(comparison))
            number = self._database.scalar("SELECT coalesce(max(number), 0) + 1 FROM comparisons")
            self._database.insert("comparisons", [{**comparison_to_row(begun), "number": number}])
        return begun

    def _make_id(self, comparison: Comparison) -> str:
        """From the time, as of a run; with a number where that id exists."""
        known = {one.comparison_id for one in self.comparisons()}
        from_time = f"{comparison.started_at:%Y%m%dT%H%M%SZ}"
        candidates = (from_time if number == 1 else f"{from_time}-{number}" for number in count(1))
        return next(candidate for candidate in candidates if candidate not in known)

    def commit_sitting(self, sitting: Sitting, host: Host) -> None:
        """Commit a sitting, all of it or nothing."""
        ignore = "ON CONFLICT DO NOTHING"
        cases = {one.check.case.key: one.check.case for one in sitting.head}
        sides = [(True, one) for one in sitting.head] + [(False, one) for one in sitting.base]
        with self._database.transaction():
            self._database.insert("hosts", [rows.host_to_row(host)], on_conflict=ignore)
            self._database.insert("cases", map(rows.case_to_row, cases.values()), on_conflict=ignore)
            self._database.insert("sittings", (sitting_to_row(sitting, is_head, one) for is_head, one in sides))

    def finish(self, comparison: Comparison) -> None:
        """Store how a comparison ended, and when."""
        row = comparison_to_row(comparison)
        with self._database.transaction():
            self._database.execute(
                "UPDATE comparisons SET status = ?, finished_at = ? WHERE comparison_id = ?",
                [row["status"], row["finished_at"], row["comparison_id"]],
            )

    # Reading

    def comparisons(self) -> list[Comparison]:
        """All of them in the order they were started."""
        return list(map(row_to_comparison, self._database.rows("SELECT * FROM comparisons ORDER BY number")))

    def measured_series(self) -> dict[Series, tuple[Case, int]]:
        """Every series that a night or a comparison has timed, with its case and the seed it was last timed with."""
        query = """
            WITH timed AS (
                SELECT m.case_key, m.provider, m.timer, m.host_id, m.status, r.seed, m.measured_at
                FROM measurements m JOIN runs r USING (run_id)
                UNION ALL
                SELECT s.case_key, s.provider, s.timer, s.host_id, s.status, c.seed, s.measured_at
                FROM sittings s JOIN comparisons c USING (comparison_id)
            )
            SELECT c.*, t.provider, t.timer, h.device_name, arg_max(t.seed, t.measured_at) AS seed
            FROM timed t JOIN cases c USING (case_key) JOIN hosts h USING (host_id)
            WHERE t.status = 'ok' GROUP BY ALL ORDER BY ALL
        """
        found = self._database.rows(query)
        return {rows.row_to_series(row): (rows.row_to_case(row), row["seed"]) for row in found}

    def series_of_incident(self, incident_id: str) -> tuple[Series, ...]:
        """What an incident is about; nothing if there is none of that name."""
        incidents = {incident.incident_id: incident for incident in Journal(self._database).incidents()}
        return incidents[incident_id].series if incident_id in incidents else ()

    def sittings(self, comparison_id: str) -> list[Sitting]:
        """Of one comparison, by unit and device in the order they were made."""
        query = """
            SELECT s.comparison_id AS run_id, s.* EXCLUDE (comparison_id, layer_key, device_name),
                   c.* EXCLUDE (case_key), h.* EXCLUDE (host_id)
            FROM sittings s JOIN cases c USING (case_key) JOIN hosts h USING (host_id) WHERE s.comparison_id = ?
            ORDER BY c.kernel, c.layer_key, s.device_name, s.number, c.num_tokens, s.case_key, s.provider, s.timer
        """
        found = self._database.rows(query, [comparison_id])
        keyed = groupby(found, lambda row: (row["layer_key"], row["device_name"], row["number"]))
        return [rows_to_sitting(list(of_sitting)) for _, of_sitting in keyed]


def comparison_to_row(comparison: Comparison) -> Row:
    return {
        "comparison_id": comparison.comparison_id,
        "head": comparison.head,
        "head_commit": comparison.head_commit,
        "base": comparison.base,
        "base_commit": comparison.base_commit,
        "arguments": rows.dump(comparison.arguments),
        "seed": comparison.seed,
        "least_change": comparison.least_change,
        "started_at": rows.to_utc(comparison.started_at),
        "status": comparison.status,
        "finished_at": rows.to_utc(comparison.finished_at) if comparison.finished_at else None,
    }


def row_to_comparison(row: Row) -> Comparison:
    return Comparison(
        comparison_id=row["comparison_id"],
        head=row["head"],
        head_commit=row["head_commit"],
        base=row["base"],
        base_commit=row["base_commit"],
        arguments=json.loads(row["arguments"]),
        seed=row["seed"],
        least_change=row["least_change"],
        started_at=rows.from_utc(row["started_at"]),
        status=row["status"],
        finished_at=rows.from_utc(row["finished_at"]) if row["finished_at"] else None,
    )


def sitting_to_row(sitting: Sitting, is_head: bool, measurement: Measurement) -> Row:
    row = rows.measurement_to_row(measurement)
    del row["run_id"]
    return {
        "comparison_id": sitting.comparison_id,
        "layer_key": sitting.layer_key,
        "device_name": sitting.device_name,
        "number": sitting.number,
        "seconds": sitting.seconds,
        "is_head": is_head,
        **row,
    }


def rows_to_sitting(found: Sequence[dict[str, Any]]) -> Sitting:
    sides: dict[bool, list[Measurement]] = {True: [], False: []}
    for row in found:
        sides[row["is_head"]].append(rows.row_to_measurement(row))
    return Sitting(
        comparison_id=found[0]["run_id"],
        layer_key=found[0]["layer_key"],
        device_name=found[0]["device_name"],
        number=found[0]["number"],
        seconds=found[0]["seconds"],
        head=tuple(sides[True]),
        base=tuple(sides[False]),
    )
