"""Records become rows and rows become the same records; the store's tests take them through DuckDB as well."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import duckdb
import pytest
from records import (
    COMPILED,
    GPU,
    STARTED,
    insert_known,
    make_case,
    make_ceiling,
    make_cost,
    make_crash,
    make_host,
    make_layer,
    make_measurement,
    make_receipt,
    make_reference,
    make_run,
    make_trial,
    make_unit,
)

from kernels.spec import Case, Layer
from tasks.records import Crash, Measurement, ReferenceTime, Run, State, Status, UnitCost, Verdict
from tasks.storage import rows
from tasks.storage.database import database_path
from tasks.storage.schema import MIGRATIONS
from tasks.storage.store import Store

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


def test_a_ceiling_comes_back_from_its_row() -> None:
    assert rows.row_to_ceiling(rows.ceiling_to_row(make_ceiling())) == make_ceiling()


def test_a_measurement_comes_back_from_its_row_joined_with_case_and_host() -> None:
    measurement = make_measurement(relative_error=0.01, share_close=0.999, config={"BLOCK_SIZE_M": 64}, flops=5)
    joined = rows.case_to_row(make_case()) | rows.host_to_row(make_host()) | rows.measurement_to_row(measurement)
    assert rows.row_to_measurement(joined) == measurement


def test_the_trials_and_the_source_of_a_measurement_come_back_from_its_row() -> None:
    trials = (make_trial(), make_trial(1, 0, is_slow_clock=True, set_aside_us=(9.5, 1 / 3)), make_trial(2, state=None))
    of_source = make_measurement(source_sha256="ef" * 32, compiled=(COMPILED, replace(COMPILED, spill_bytes=64)))
    measurement = replace(of_source, trials=trials)
    joined = rows.case_to_row(make_case()) | rows.host_to_row(make_host()) | rows.measurement_to_row(measurement)
    assert rows.row_to_measurement(joined) == measurement


def test_a_reference_time_comes_back_from_its_row() -> None:
    assert rows.row_to_reference(rows.reference_to_row(make_reference())) == make_reference()


def test_the_cost_of_a_unit_comes_back_from_its_row_in_order() -> None:
    cost = rows.row_to_cost(rows.cost_to_row(make_cost()))
    assert cost == make_cost()
    assert list(cost.seconds) == list(make_cost().seconds)


@pytest.mark.parametrize("status", [Status.CRASHED, Status.HUNG, Status.OUT_OF_MEMORY])
def test_a_crash_comes_back_from_its_row(status: Status) -> None:
    crash = make_crash(status=status)
    assert rows.row_to_crash(rows.crash_to_row(crash)) == crash


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


def test_a_linear_layer_keeps_its_module() -> None:
    case = replace(make_case(), layer=replace(make_layer("Llama-3.1-8B"), module="qkv_proj"))
    assert rows.row_to_case(rows.case_to_row(case)) == case
    assert rows.row_to_case(rows.case_to_row(case)).layer.module == "qkv_proj"


SILU = Layer("silu_mul_fp8", "grid", 1, 1, "fp8_group128", "bfloat16", {"num_experts": 8, "intermediate_size": 7168})
OLD_KEY = f"{SILU.key}/num_tokens=64/token_strategy="


def write_first_schema(connection: duckdb.DuckDBPyConnection) -> None:
    """A night as it was stored when keys spelled every option: one layer, its default strategy and another."""
    connection.execute((MIGRATIONS / "001_first_schema.sql").read_text())
    case = rows.case_to_row(Case(SILU, 64))
    stored: list[tuple[str, rows.Row]] = [
        ("runs", rows.run_to_row(make_run(status="complete"))),
        ("hosts", rows.host_to_row(make_host())),
        ("weights", rows.receipt_to_row("run-1", make_receipt(SILU))),
    ]
    for strategy in ("uniform", "max_t"):
        key = {"case_key": OLD_KEY + strategy}
        stored += [
            ("cases", case | key | {"options": rows.dump({"token_strategy": strategy})}),
            ("measurements", rows.measurement_to_row(make_measurement(case=Case(SILU, 64))) | key),
            ("verdicts", rows.verdict_to_row(VERDICT) | key),
        ]
    for table, row in stored:
        insert_known(connection, table, row)


def check_second_schema(store: Store) -> None:
    """The default strategy has left the keys; the other one and everything else is as it was."""
    cases = (Case(SILU, 64), Case(SILU, 64, {"token_strategy": "max_t"}))
    night = store.night("run-1")
    assert {m.check.case.key for m in night.measurements} == {case.key for case in cases}
    assert {m.check.case.key: dict(m.check.case.options) for m in night.measurements} == {
        case.key: dict(case.options) for case in cases
    }
    assert {verdict.series.case_key for verdict in night.verdicts} == {case.key for case in cases}
    assert {m.check.case.layer.module for m in night.measurements} == {""}
    assert store.measured_units("run-1") == {(SILU.key, GPU.name)}


def test_a_database_of_the_first_schema_keeps_its_trends(tmp_path: Path) -> None:
    with duckdb.connect(str(database_path(tmp_path))) as connection:
        write_first_schema(connection)
        connection.execute("CREATE TABLE schema_version (version INTEGER); INSERT INTO schema_version VALUES (1)")
    with Store.open(tmp_path) as store:
        check_second_schema(store)
        tonight = make_run("run-2", nights=1)
        store.begin_run(tonight)
        store.commit_unit("run-2", make_unit([make_measurement("run-2", Case(SILU, 64))]))
        trend = store.trends(tonight)[make_measurement(case=Case(SILU, 64)).series]
        assert [point.run_id for point in trend] == ["run-1", "run-2"]


def test_an_export_of_the_first_schema_is_read_with_the_keys_of_today(tmp_path: Path) -> None:
    with duckdb.connect(":memory:") as connection:
        write_first_schema(connection)
        connection.execute("CREATE TABLE schema_version (version INTEGER); INSERT INTO schema_version VALUES (1)")
        for (table,) in connection.execute("SELECT table_name FROM information_schema.tables").fetchall():
            connection.execute(f"COPY {table} TO '{tmp_path / table}.parquet' (FORMAT parquet)")
    with Store.from_parquet(tmp_path) as store:
        check_second_schema(store)


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("runs", {**rows.run_to_row(make_run()), "number": 1}),
        ("hosts", rows.host_to_row(make_host())),
        ("cases", rows.case_to_row(make_case())),
        ("weights", rows.receipt_to_row("run-1", make_receipt(make_layer()))),
        ("ceilings", rows.ceiling_to_row(make_ceiling())),
        ("measurements", rows.measurement_to_row(make_measurement())),
        ("reference_times", rows.reference_to_row(make_reference())),
        ("unit_costs", rows.cost_to_row(make_cost())),
        ("crashes", rows.crash_to_row(make_crash())),
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
    assert set(rows.reference_to_row(make_reference())) == {field.name for field in fields(ReferenceTime)}
    assert set(rows.cost_to_row(make_cost())) == {field.name for field in fields(UnitCost)}
    assert set(rows.crash_to_row(make_crash())) == {field.name for field in fields(Crash)}
