"""What was judged, told and answered: verdicts and retrials, incidents, people's marks, and messages on their way.

The other half of the store, on the same database: measurements are in tasks/storage/store.py.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from tasks.channels.letters import Letter
from tasks.judgement.history import Mark
from tasks.judgement.incidents import Incident
from tasks.records import Retrial, Run, Verdict
from tasks.storage import rows
from tasks.storage.database import Database
from tasks.storage.journal_rows import (
    incident_to_row,
    letter_to_row,
    mark_to_row,
    retrial_to_row,
    row_to_incident,
    row_to_letter,
    row_to_mark,
    row_to_retrial,
)


class Journal:
    """Every method may be called from any thread. It is an Outbox (tasks/channels/letters.py)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Verdicts and retrials

    def commit_verdicts(self, run_id: str, verdicts: Iterable[Verdict]) -> None:
        """Replace the verdicts of a run."""
        with self._database.transaction():
            self._database.execute("DELETE FROM verdicts WHERE run_id = ?", [run_id])
            self._database.insert("verdicts", map(rows.verdict_to_row, verdicts))

    def verdicts(self, run_id: str) -> list[Verdict]:
        """Of one run, in a fixed order."""
        found = self._database.rows("SELECT * FROM verdicts WHERE run_id = ? ORDER BY ALL", [run_id])
        return [rows.row_to_verdict(row) for row in found]

    def latest_verdicts(self, run: Run) -> list[Verdict]:
        """The newest verdict of each series before a run, of runs with its seed, after the newest with a time."""
        query = """
            SELECT v.* FROM verdicts v JOIN runs r USING (run_id)
            WHERE r.seed = ? AND r.number < (SELECT number FROM runs WHERE run_id = ?)
            QUALIFY row_number() OVER (
                PARTITION BY case_key, provider, timer, device_name, v.median_us IS NULL ORDER BY r.number DESC) = 1
            ORDER BY r.number, v.*
        """
        return [rows.row_to_verdict(row) for row in self._database.rows(query, [run.seed, run.run_id])]

    def commit_retrials(self, retrials: Sequence[Retrial]) -> None:
        """Commit what measuring some suspects again gave, all of it or nothing."""
        with self._database.transaction():
            self._database.insert("retrials", map(retrial_to_row, retrials), on_conflict="ON CONFLICT DO NOTHING")

    def retrials(self, run_id: str) -> list[Retrial]:
        """What one run measured again."""
        query = """
            SELECT m.*, c.* EXCLUDE (case_key), h.* EXCLUDE (host_id)
            FROM retrials m JOIN cases c USING (case_key) JOIN hosts h USING (host_id)
            WHERE m.run_id = ? ORDER BY kernel, layer_key, case_key, provider, timer, version
        """
        return [row_to_retrial(row) for row in self._database.rows(query, [run_id])]

    # Incidents and marks

    def commit_incidents(self, incidents: Iterable[Incident], letters: Sequence[Letter] = ()) -> None:
        """Add incidents, or replace those of the same id, with the messages that tell of them: all or nothing."""
        found = list(map(incident_to_row, incidents))
        with self._database.transaction():
            for row in found:
                self._database.execute("DELETE FROM incidents WHERE incident_id = ?", [row["incident_id"]])
            self._database.insert("incidents", found)
            self._insert_letters(letters)

    def incidents(self) -> list[Incident]:
        """All of them, in the order in which they were opened."""
        return self._incidents()

    def standing_incidents(self) -> list[Incident]:
        """Those that are not over, acknowledged or not."""
        return self._incidents("WHERE resolved_run = ''")

    def incidents_of(self, run_id: str) -> list[Incident]:
        """Those of the series that a run judged that stood after it, and those that it found over."""
        query = """
            WHERE opened_run IN (SELECT run_id FROM runs WHERE number <= (SELECT number FROM runs WHERE run_id = ?))
            AND resolved_run NOT IN (SELECT run_id FROM runs WHERE number < (SELECT number FROM runs WHERE run_id = ?))
        """
        judged = {verdict.series for verdict in self.verdicts(run_id)}
        return [one for one in self._incidents(query, [run_id, run_id]) if not judged.isdisjoint(one.series)]

    def _incidents(self, where: str = "", parameters: Sequence[object] = ()) -> list[Incident]:
        query = f"SELECT * FROM incidents {where} ORDER BY opened_at, incident_id"
        return [row_to_incident(row) for row in self._database.rows(query, parameters)]

    def acknowledge(self, incident: Incident, marks: Sequence[Mark], made_at: datetime) -> None:
        """Store that a person expects an incident, with the marks that make its times the baseline."""
        with self._database.transaction():
            self._database.execute(
                "UPDATE incidents SET acknowledgement = ?, resolved_run = ? WHERE incident_id = ?",
                [incident.acknowledgement, incident.resolved_run, incident.incident_id],
            )
            self._insert_marks(marks, made_at)

    def commit_marks(self, marks: Sequence[Mark], made_at: datetime) -> None:
        """Store what a person said of some series."""
        with self._database.transaction():
            self._insert_marks(marks, made_at)

    def _insert_marks(self, marks: Sequence[Mark], made_at: datetime) -> None:
        self._database.insert("marks", (mark_to_row(mark, made_at) for mark in marks))

    def marks(self) -> list[Mark]:
        """All that people said, in order."""
        return [row_to_mark(row) for row in self._database.rows("SELECT * FROM marks ORDER BY made_at")]

    # Letters: an Outbox

    def put(self, letters: Sequence[Letter]) -> None:
        """Add messages; those that are there already stay as they are."""
        with self._database.transaction():
            self._insert_letters(letters)

    def _insert_letters(self, letters: Sequence[Letter]) -> None:
        self._database.insert("letters", map(letter_to_row, letters), on_conflict="ON CONFLICT DO NOTHING")

    def pending(self) -> list[Letter]:
        """Messages that are neither sent nor given up, the oldest first."""
        query = "SELECT * FROM letters WHERE sent_at IS NULL AND NOT given_up ORDER BY made_at, alert_id, channel"
        return [row_to_letter(row) for row in self._database.rows(query)]

    def mark_sent(self, letter: Letter, sent_at: datetime) -> None:
        """Note that a message has arrived."""
        change = "attempts = attempts + 1, error = '', sent_at = ?"
        self._update_letter(letter, change, [rows.to_utc(sent_at)])

    def mark_failed(self, letter: Letter, error: str, failed_at: datetime) -> None:
        """Note that it has not, and whether that was the last attempt."""
        change = "attempts = attempts + 1, error = ?, failed_at = ?, given_up = ?"
        self._update_letter(letter, change, [error, rows.to_utc(failed_at), letter.given_up])

    def _update_letter(self, letter: Letter, change: str, values: Sequence[object]) -> None:
        where = [letter.alert_id, letter.channel]
        with self._database.transaction():
            self._database.execute(f"UPDATE letters SET {change} WHERE alert_id = ? AND channel = ?", [*values, *where])
