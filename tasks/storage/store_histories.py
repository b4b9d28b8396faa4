"""Histories out of the database, in four queries whatever their number, and what their keys stand for."""

from collections.abc import Collection, Sequence

import numpy as np

from kernels.spec import Case
from tasks.judgement.histories import Floats, Histories, History, Setting
from tasks.judgement.reference_histories import ReferenceHistories, ReferenceKey, arrange_references
from tasks.records import Host, Run
from tasks.statistics.screening import NUM_NIGHTS
from tasks.storage import rows
from tasks.storage.database import Database

SERIES = "hash(m.case_key, m.provider, m.timer, h.device_name)"
SETTING = "hash(m.host_id, m.config, m.source_sha256, m.compiled)"
"""Numbers stand for texts, which would be read millions of times."""
TIMED = """
    FROM measurements m JOIN runs r USING (run_id) JOIN hosts h USING (host_id)
    WHERE m.status = 'ok' AND r.seed = ? AND r.number <= (SELECT number FROM runs WHERE run_id = ?)
"""
"""Only runs of one seed, which draws the routing, up to and with one run."""
REFERENCE_RUNS = 2 * NUM_NIGHTS
"""Runs whose reference kernels are looked at: more than nights of a series are, since not every run measures each."""
REFERENCE = "hash(h.device_name, t.case_key, t.timer, t.name)"
TIMED_REFERENCES = """
    FROM reference_times t JOIN runs r USING (run_id) JOIN hosts h USING (host_id)
    WHERE len(t.samples_us) > 0 AND run_id IN (
        SELECT run_id FROM runs WHERE seed = ? AND number <= (SELECT number FROM runs WHERE run_id = ?)
        ORDER BY number DESC LIMIT ?
    )
"""


def read_histories(database: Database, run: Run) -> Histories:
    """Every series' nights up to and with `run`."""
    which = [run.seed, run.run_id]
    runs, numbers = _read_runs(database, which)
    hosts = {row["host_id"]: rows.row_to_host(row) for row in database.rows("SELECT * FROM hosts ORDER BY host_id")}
    series = database.rows(
        f"""SELECT {SERIES} AS id, any_value(m.case_key) AS case_key, any_value(m.provider) AS provider,
            any_value(m.timer) AS timer, any_value(h.device_name) AS device_name {TIMED} GROUP BY id ORDER BY id""",
        which,
    )
    settings = database.rows(
        f"""SELECT {SETTING} AS id, any_value(m.host_id) AS host_id, any_value(m.config)::VARCHAR AS config,
            any_value(m.source_sha256) AS source_sha256, any_value(m.compiled)::VARCHAR AS compiled
            {TIMED} GROUP BY id ORDER BY id""",
        which,
    )
    known = database.columns(
        f"""SELECT {SERIES} AS series, r.number AS night, {SETTING} AS setting,
            coalesce(m.relative_error, 'nan'::DOUBLE) AS relative_error,
            coalesce(m.share_close, 'nan'::DOUBLE) AS share_close,
            list_aggregate(m.samples_us, 'median') AS median_us,
            list_aggregate(m.samples_us, 'quantile_cont', 0.2) AS p20_us,
            list_aggregate(m.samples_us, 'quantile_cont', 0.8) AS p80_us
            {TIMED} ORDER BY series, night""",
        which,
    )
    nights = np.searchsorted(numbers, known["night"])
    of_setting = np.searchsorted(np.array([row["id"] for row in settings], dtype=np.uint64), known["setting"])
    ids = np.array([row["id"] for row in series], dtype=np.uint64)
    starts, ends = (np.searchsorted(known["series"], ids, side) for side in ("left", "right"))
    return Histories(
        runs=runs,
        hosts=hosts,
        settings=tuple(
            Setting(row["host_id"], row["config"], row["source_sha256"], row["compiled"]) for row in settings
        ),
        columns={
            rows.row_to_series(row): History(
                nights[start:end],
                known["median_us"][start:end],
                known["p20_us"][start:end],
                known["p80_us"][start:end],
                known["relative_error"][start:end],
                known["share_close"][start:end],
                of_setting[start:end],
            )
            for row, start, end in zip(series, starts, ends, strict=True)
        },
        rates=_read_rates(database, runs, hosts),
    )


def read_references(database: Database, run: Run) -> ReferenceHistories:
    """Medians beside each case in the last REFERENCE_RUNS up to and with `run`; runs are numbered as in Store.runs."""
    which = [run.seed, run.run_id, REFERENCE_RUNS]
    numbers = {
        row["number"]: place for place, row in enumerate(database.rows("SELECT number FROM runs ORDER BY number"))
    }
    keys = database.rows(
        f"""SELECT {REFERENCE} AS id, any_value(h.device_name) AS device_name, any_value(t.case_key) AS case_key,
            any_value(t.timer) AS timer, any_value(t.name) AS name {TIMED_REFERENCES} GROUP BY id ORDER BY id""",
        which,
    )
    known = database.columns(
        f"""SELECT {REFERENCE} AS id, r.number AS night, hash(h.device_uuid) AS card,
            list_aggregate(t.samples_us, 'median') AS median_us {TIMED_REFERENCES} ORDER BY night, t.measured_at""",
        which,
    )
    nights, columns = np.unique(known["night"], return_inverse=True)
    of_keys = np.searchsorted(np.array([row["id"] for row in keys], dtype=np.uint64), known["id"])
    values = np.full((len(keys), len(nights)), np.nan)
    values[of_keys, columns] = np.log(known["median_us"])
    cards = np.zeros(values.shape, dtype=np.int64)
    cards[of_keys, columns] = np.unique(known["card"], return_inverse=True)[1]
    places = np.array([numbers[night] for night in nights.tolist()], dtype=np.int64)
    named = [ReferenceKey(row["device_name"], row["case_key"], row["timer"], row["name"]) for row in keys]
    return arrange_references(named, places, values, cards)


def read_cases(database: Database, keys: Collection[str]) -> dict[str, Case]:
    """By key, the cases that were ever measured."""
    found = database.rows("SELECT * FROM cases WHERE case_key IN (SELECT unnest(?))", [list(keys)]) if keys else []
    return {row["case_key"]: rows.row_to_case(row) for row in found}


def _read_runs(database: Database, which: Sequence[object]) -> tuple[tuple[Run, ...], list[int]]:
    """The runs in order, and their numbers."""
    query = """
        SELECT * FROM runs WHERE seed = ? AND number <= (SELECT number FROM runs WHERE run_id = ?) ORDER BY number
    """
    found = database.rows(query, which)
    return tuple(map(rows.row_to_run, found)), [row["number"] for row in found]


def _read_rates(database: Database, runs: Sequence[Run], hosts: dict[str, Host]) -> dict[str, Floats]:
    """What the hosts of each run were measured to do at best."""
    night_of = {run.run_id: number for number, run in enumerate(runs)}
    host_of = {host_id: number for number, host_id in enumerate(hosts)}
    rates: dict[str, Floats] = {}
    for row in database.rows("SELECT * FROM ceilings ORDER BY name"):
        if row["run_id"] in night_of and row["host_id"] in host_of:
            of_name = rates.setdefault(row["name"], np.full((len(runs), len(hosts)), np.nan))
            of_name[night_of[row["run_id"]], host_of[row["host_id"]]] = row["value"]
    return rates
