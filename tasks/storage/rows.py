"""Records to rows of the store and back: the one place that knows how a record is spelled in SQL."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from kernels.spec import Case, CompiledKernel, Device, Layer
from tasks.records import (
    Ceiling,
    Check,
    Crash,
    DeviceState,
    Host,
    Measurement,
    Point,
    ReferenceTime,
    Run,
    Series,
    State,
    Status,
    Trial,
    UnitCost,
    Verdict,
    WeightsReceipt,
)

Row = dict[str, Any]


def to_utc(moment: datetime) -> datetime:
    """A time as the store keeps it: UTC without an offset (DuckDB's TIMESTAMP)."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def from_utc(moment: datetime) -> datetime:
    """A time out of the store, with its offset again."""
    return moment.replace(tzinfo=UTC)


def dump(mapping: Mapping[str, Any]) -> str:
    """JSON in the order given: the order of a layer's sizes is part of its key."""
    return json.dumps(dict(mapping), default=str)


def dump_records(records: Iterable[Any]) -> str:
    """JSON list of flat or nested dataclasses."""
    return json.dumps([asdict(record) for record in records])


def run_to_row(run: Run) -> Row:
    return {
        "run_id": run.run_id,
        "suite": run.suite,
        "arguments": dump(run.arguments),
        "seed": run.seed,
        "git_commit": run.git_commit,
        "git_dirty": run.git_dirty,
        "started_at": to_utc(run.started_at),
        "status": run.status,
        "finished_at": to_utc(run.finished_at) if run.finished_at else None,
        "stage_seconds": dump(run.stage_seconds),
    }


def row_to_run(row: Row) -> Run:
    return Run(
        run_id=row["run_id"],
        suite=row["suite"],
        arguments=json.loads(row["arguments"]),
        seed=row["seed"],
        git_commit=row["git_commit"],
        git_dirty=row["git_dirty"],
        started_at=from_utc(row["started_at"]),
        status=row["status"],
        finished_at=from_utc(row["finished_at"]) if row["finished_at"] else None,
        stage_seconds=json.loads(row["stage_seconds"]),
    )


def host_to_row(host: Host) -> Row:
    return {
        "host_id": host.host_id,
        "device_type": host.device.type,
        "device_name": host.device.name,
        "capability": f"{host.device.capability[0]}.{host.device.capability[1]}",
        "device_uuid": host.device_uuid,
        "driver": host.driver,
        "cuda": host.cuda,
        "python": host.python,
        "torch": host.torch,
        "triton": host.triton,
        "vllm": host.vllm,
        "num_cpus": host.num_cpus,
    }


def row_to_device(row: Row) -> Device:
    major, minor = row["capability"].split(".")
    return Device(row["device_type"], row["device_name"], (int(major), int(minor)))


def row_to_host(row: Row) -> Host:
    return Host(
        host_id=row["host_id"],
        device=row_to_device(row),
        device_uuid=row["device_uuid"],
        driver=row["driver"],
        cuda=row["cuda"],
        python=row["python"],
        torch=row["torch"],
        triton=row["triton"],
        vllm=row["vllm"],
        num_cpus=row["num_cpus"],
    )


def case_to_row(case: Case) -> Row:
    layer = case.layer
    return {
        "case_key": case.key,
        "layer_key": layer.key,
        "kernel": layer.kernel,
        "model": layer.model,
        "module": layer.module,
        "tp_size": layer.tp_size,
        "ep_size": layer.ep_size,
        "scheme": layer.scheme,
        "dtype": layer.dtype,
        "sizes": dump(layer.sizes),
        "num_tokens": case.num_tokens,
        "options": dump(case.options),
    }


def row_to_case(row: Row) -> Case:
    layer = Layer(
        kernel=row["kernel"],
        model=row["model"],
        tp_size=row["tp_size"],
        ep_size=row["ep_size"],
        scheme=row["scheme"],
        dtype=row["dtype"],
        sizes=json.loads(row["sizes"]),
        module=row["module"],
    )
    return Case(layer, row["num_tokens"], json.loads(row["options"]))


def receipt_to_row(run_id: str, receipt: WeightsReceipt) -> Row:
    return {
        "run_id": run_id,
        "layer_key": receipt.layer_key,
        "seed": receipt.seed,
        "sha256": receipt.sha256,
        "size_bytes": receipt.size_bytes,
        "seconds": receipt.seconds,
        "host_id": receipt.host_id,
    }


def row_to_receipt(row: Row) -> WeightsReceipt:
    return WeightsReceipt(
        layer_key=row["layer_key"],
        seed=row["seed"],
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        seconds=row["seconds"],
        host_id=row["host_id"],
    )


def ceiling_to_row(ceiling: Ceiling) -> Row:
    return {
        "run_id": ceiling.run_id,
        "host_id": ceiling.host_id,
        "name": ceiling.name,
        "value": ceiling.value,
        "unit": ceiling.unit,
    }


def row_to_ceiling(row: Row) -> Ceiling:
    return Ceiling(row["run_id"], row["host_id"], row["name"], row["value"], row["unit"])


def measurement_to_row(measurement: Measurement) -> Row:
    check = measurement.check
    return {
        "run_id": measurement.run_id,
        "case_key": check.case.key,
        "provider": check.provider,
        "timer": measurement.timer,
        "host_id": check.host_id,
        "status": str(check.status),
        "reason": check.reason,
        "relative_error": check.relative_error,
        "share_close": check.share_close,
        "config": dump(check.config),
        "flops": check.flops,
        "bytes_moved": check.bytes_moved,
        "measured_at": to_utc(measurement.measured_at),
        "samples_us": list(measurement.samples_us),
        "trials": dump_records(measurement.trials),
        "source_sha256": check.source_sha256,
        "compiled": dump_records(check.compiled),
    }


def load_trial(fields: dict[str, Any]) -> Trial:
    state = fields["state"]
    if state:
        state = DeviceState(**{**state, "throttle_reasons": tuple(state["throttle_reasons"])})
    return Trial(**{**fields, "state": state, "set_aside_us": tuple(fields["set_aside_us"])})


def row_to_measurement(row: Row) -> Measurement:
    """From a row of measurements joined with its case and its host."""
    check = Check(
        case=row_to_case(row),
        provider=row["provider"],
        status=Status(row["status"]),
        host_id=row["host_id"],
        reason=row["reason"],
        relative_error=row["relative_error"],
        share_close=row["share_close"],
        config=json.loads(row["config"]),
        flops=row["flops"],
        bytes_moved=row["bytes_moved"],
        source_sha256=row["source_sha256"],
        compiled=tuple(CompiledKernel(**fields) for fields in json.loads(row["compiled"])),
    )
    return Measurement(
        run_id=row["run_id"],
        check=check,
        timer=row["timer"],
        device=row_to_device(row),
        measured_at=from_utc(row["measured_at"]),
        samples_us=tuple(row["samples_us"]),
        trials=tuple(map(load_trial, json.loads(row["trials"]))),
    )


def reference_to_row(reference: ReferenceTime) -> Row:
    return {
        "run_id": reference.run_id,
        "case_key": reference.case_key,
        "timer": reference.timer,
        "host_id": reference.host_id,
        "name": reference.name,
        "measured_at": to_utc(reference.measured_at),
        "samples_us": list(reference.samples_us),
    }


def row_to_reference(row: Row) -> ReferenceTime:
    return ReferenceTime(
        run_id=row["run_id"],
        case_key=row["case_key"],
        timer=row["timer"],
        host_id=row["host_id"],
        name=row["name"],
        measured_at=from_utc(row["measured_at"]),
        samples_us=tuple(row["samples_us"]),
    )


def cost_to_row(cost: UnitCost) -> Row:
    return {
        "run_id": cost.run_id,
        "layer_key": cost.layer_key,
        "host_id": cost.host_id,
        "seconds": dump(cost.seconds),
    }


def row_to_cost(row: Row) -> UnitCost:
    return UnitCost(row["run_id"], row["layer_key"], row["host_id"], json.loads(row["seconds"]))


def crash_to_row(crash: Crash) -> Row:
    return {
        "run_id": crash.run_id,
        "case_key": crash.case_key,
        "provider": crash.provider,
        "device_name": crash.device_name,
        "status": str(crash.status),
        "reason": crash.reason,
        "crashed_at": to_utc(crash.crashed_at),
    }


def row_to_crash(row: Row) -> Crash:
    return Crash(
        run_id=row["run_id"],
        case_key=row["case_key"],
        provider=row["provider"],
        device_name=row["device_name"],
        status=Status(row["status"]),
        reason=row["reason"],
        crashed_at=from_utc(row["crashed_at"]),
    )


def row_to_series(row: Row) -> Series:
    return Series(row["case_key"], row["provider"], row["timer"], row["device_name"])


def row_to_point(row: Row) -> Point:
    return Point(
        run_id=row["run_id"],
        started_at=from_utc(row["started_at"]),
        median_us=row["median_us"],
        p20_us=row["p20_us"],
        p80_us=row["p80_us"],
        relative_error=row["relative_error"],
        share_close=row["share_close"],
        device_uuid=row["device_uuid"],
    )


def verdict_to_row(verdict: Verdict) -> Row:
    return {
        "run_id": verdict.run_id,
        "case_key": verdict.series.case_key,
        "provider": verdict.series.provider,
        "timer": verdict.series.timer,
        "device_name": verdict.series.device_name,
        "state": str(verdict.state),
        "evidence": verdict.evidence,
        "median_us": verdict.median_us,
        "baseline_us": verdict.baseline_us,
        "relative_change": verdict.relative_change,
        "low": verdict.low,
        "high": verdict.high,
        "p_value": verdict.p_value,
        "since_run": verdict.since_run,
        "baseline_run": verdict.baseline_run,
        "is_confirmed": verdict.is_confirmed,
        "is_machine": verdict.is_machine,
    }


def row_to_verdict(row: Row) -> Verdict:
    return Verdict(
        run_id=row["run_id"],
        series=row_to_series(row),
        state=State(row["state"]),
        evidence=row["evidence"],
        median_us=row["median_us"],
        baseline_us=row["baseline_us"],
        relative_change=row["relative_change"],
        low=row["low"],
        high=row["high"],
        p_value=row["p_value"],
        since_run=row["since_run"],
        baseline_run=row["baseline_run"],
        is_confirmed=row["is_confirmed"],
        is_machine=row["is_machine"],
    )
