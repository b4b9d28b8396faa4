"""Records become rows and rows become the same records; the store's tests take them through DuckDB as well."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone

import duckdb
import pytest
from records import GPU, STARTED, make_case, make_host, make_layer, make_measurement, make_receipt, make_run

from tasks import rows
from tasks.records import Measurement, Run, State, Verdict
from tasks.store import MIGRATIONS

VERDICT = Verdict("run-1", make_measurement().series, State.SLOW, "12.0 us against 10.0 us", 12.0, 10.0, 0.2)


def test_a_run_comes_back_from_its_row() -> None:
    run = make_run(status="partial", finished_at=STARTED + timedelta(minutes=3), stage_seconds={"time": 1.5})
    assert rows.row_to_run(rows.run_to_row(run)) == run


def test_a_running_run_has_no_end() -> None:
    assert rows.row_to_run(rows.run_to_row(make_run())).finished_at is None


def test_a_host_comes_back_from_its_row() -> None:
    assert rows.row_to_host(rows.host_to_row(make_host())) == make_host()


def test_a_case_comes_back_with_the_same_key() -> None:
    case = rows.row_to_case(rows.case_to_row(make_case()))
    assert case == make_case()
    assert case.key == make_case().key


def test_a_receipt_comes_back_from_its_row() -> None:
    receipt = make_receipt(make_layer())
    assert rows.row_to_receipt(rows.receipt_to_row("run-1", receipt)) == receipt


def test_a_measurement_comes_back_from_its_row_joined_with_case_and_host() -> None:
    measurement = make_measurement(relative_error=0.01, share_close=0.999, config={"BLOCK_SIZE_M": 64}, flops=5)
    joined = rows.case_to_row(make_case()) | rows.host_to_row(make_host()) | rows.measurement_to_row(measurement)
    assert rows.row_to_measurement(joined) == measurement


def test_a_verdict_comes_back_from_its_row() -> None:
    assert rows.row_to_verdict(rows.verdict_to_row(VERDICT)) == VERDICT


def test_the_store_keeps_utc_whatever_the_offset() -> None:
    tokyo = datetime(2026, 11, 20, 11, 0, tzinfo=timezone(timedelta(hours=9)))
    assert rows.to_utc(tokyo) == datetime(2026, 11, 20, 2, 0)
    assert rows.from_utc(rows.to_utc(tokyo)) == tokyo
    assert rows.from_utc(rows.to_utc(tokyo)).tzinfo is UTC


def test_the_order_of_sizes_survives_because_keys_spell_it() -> None:
    layer = replace(make_layer(), sizes={"z": 1, "a": 2})
    case = replace(make_case(), layer=layer)
    assert rows.row_to_case(rows.case_to_row(case)).layer.key == layer.key


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("runs", rows.run_to_row(make_run())),
        ("hosts", rows.host_to_row(make_host())),
        ("cases", rows.case_to_row(make_case())),
        ("weights", rows.receipt_to_row("run-1", make_receipt(make_layer()))),
        ("measurements", rows.measurement_to_row(make_measurement())),
        ("verdicts", rows.verdict_to_row(VERDICT)),
    ],
)
def test_rows_have_exactly_the_columns_of_the_schema(table: str, row: rows.Row) -> None:
    with duckdb.connect(":memory:") as connection:
        for script in sorted(MIGRATIONS.glob("*.sql")):
            connection.execute(script.read_text())
        described = connection.execute(f"DESCRIBE {table}").fetchall()
    assert set(row) == {column[0] for column in described}


def test_every_field_of_a_record_is_stored() -> None:
    assert set(rows.run_to_row(make_run())) == {field.name for field in fields(Run)}
    stored = set(rows.measurement_to_row(make_measurement())) | {"case"}
    known = {field.name for field in fields(Measurement)} | {f.name for f in fields(make_measurement().check)}
    assert known - {"check", "device"} <= stored | {"case_key"}
    assert rows.row_to_device(rows.host_to_row(make_host())) == GPU
