"""Records of the journal to rows of the store and back; measurements and their like are in tasks/storage/rows.py."""

import json
from dataclasses import astuple
from datetime import datetime

from tasks.channels.letters import Letter
from tasks.judgement.history import Mark
from tasks.judgement.incidents import Incident
from tasks.records import Retrial, Series, State, Version
from tasks.storage import rows
from tasks.storage.rows import Row


def retrial_to_row(retrial: Retrial) -> Row:
    row = rows.measurement_to_row(retrial.measurement)
    return {**row, "version": str(retrial.version), "of_run": retrial.of_run}


def row_to_retrial(row: Row) -> Retrial:
    return Retrial(rows.row_to_measurement(row), Version(row["version"]), row["of_run"])


def incident_to_row(incident: Incident) -> Row:
    return {
        "incident_id": incident.incident_id,
        "state": str(incident.state),
        "subject": incident.subject,
        "since_run": incident.since_run,
        "opened_run": incident.opened_run,
        "opened_at": rows.to_utc(incident.opened_at),
        "series": json.dumps([astuple(series) for series in incident.series]),
        "lowest_change": incident.lowest_change,
        "highest_change": incident.highest_change,
        "causes": json.dumps(incident.causes),
        "evidence": incident.evidence,
        "told_at": rows.to_utc(incident.told_at) if incident.told_at else None,
        "resolved_run": incident.resolved_run,
        "acknowledgement": incident.acknowledgement,
        "num_told": incident.num_told,
        "seed": incident.seed,
    }


def row_to_incident(row: Row) -> Incident:
    return Incident(
        incident_id=row["incident_id"],
        state=State(row["state"]),
        subject=row["subject"],
        since_run=row["since_run"],
        opened_run=row["opened_run"],
        opened_at=rows.from_utc(row["opened_at"]),
        series=tuple(Series(*names) for names in json.loads(row["series"])),
        lowest_change=row["lowest_change"],
        highest_change=row["highest_change"],
        causes=tuple(json.loads(row["causes"])),
        evidence=row["evidence"],
        told_at=rows.from_utc(row["told_at"]) if row["told_at"] else None,
        resolved_run=row["resolved_run"],
        acknowledgement=row["acknowledgement"],
        num_told=row["num_told"],
        seed=row["seed"],
    )


def mark_to_row(mark: Mark, made_at: datetime) -> Row:
    return {
        "made_at": rows.to_utc(made_at),
        "made_by": mark.made_by,
        "case_key": mark.series.case_key,
        "provider": mark.series.provider,
        "timer": mark.series.timer,
        "device_name": mark.series.device_name,
        "first_run": mark.first_run,
        "made_after": mark.made_after,
        "reason": mark.reason,
    }


def row_to_mark(row: Row) -> Mark:
    return Mark(rows.row_to_series(row), row["first_run"], row["made_after"], row["reason"], row["made_by"])


def letter_to_row(letter: Letter) -> Row:
    return {
        "alert_id": letter.alert_id,
        "channel": letter.channel,
        "body": letter.body,
        "made_at": rows.to_utc(letter.made_at),
        "attempts": letter.attempts,
        "error": letter.error,
        "sent_at": rows.to_utc(letter.sent_at) if letter.sent_at else None,
        "given_up": letter.given_up,
    }


def row_to_letter(row: Row) -> Letter:
    return Letter(
        alert_id=row["alert_id"],
        channel=row["channel"],
        body=row["body"],
        made_at=rows.from_utc(row["made_at"]),
        attempts=row["attempts"],
        error=row["error"],
        sent_at=rows.from_utc(row["sent_at"]) if row["sent_at"] else None,
        given_up=row["given_up"],
    )
