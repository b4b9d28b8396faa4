"""Rows against one another, the device's ceilings, the reference kernels beside them, and their own earlier nights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from dashboards.rows import Row, Speedup, group, is_vllm
from kernels.errors import RegistryError
from kernels.registry import find_kernel
from kernels.spec import Layer
from tasks.floors import find_floor_us, group_rates
from tasks.intervals import find_paired_ratio
from tasks.judgement.accuracy import usual_error
from tasks.judgement.references import find_reference_changes
from tasks.nights import Night
from tasks.records import Measurement, Status


@dataclass(frozen=True, slots=True)
class About:
    """What the code says about a kernel; nothing for one that is gone, as an old night may know more kernels."""

    title: str = ""
    baseline: str = ""
    gemm_dtype: Mapping[str, str] | None = field(hash=False, default=None)
    """By scheme, what tensor cores multiply; None where nobody knows."""
    num_weights: Callable[[Layer], int] | None = None
    defaults: Mapping[str, str] = field(hash=False, default_factory=dict)
    """Of the options of its cases."""


def describe_kernel(name: str) -> About:
    """What the registry says about a kernel."""
    try:
        kernel = find_kernel(name)
    except RegistryError:
        return About()
    defaults = {name: values[0] for name, values in kernel.options.items()}
    return About(kernel.title, kernel.baseline, kernel.gemm_dtype, kernel.num_weights, defaults)


def compare_rows(rows: list[Row], baseline: str) -> list[Row]:
    """Give every row its speed-ups; only rows of one case, device and timer compare.

    The reference, which `Row.speedup` is told against, is the fastest vLLM provider, else the baseline.
    """
    by_case = group(rows, same_case)
    best_vllm = {case: find_best_vllm(found) for case, found in by_case.items()}
    baselines = {case: find_baseline(found, baseline) for case, found in by_case.items()}
    compared = []
    for row in rows:
        vllm, plain = best_vllm[same_case(row)], baselines[same_case(row)]
        reference = vllm or plain
        compared.append(
            replace(
                row,
                reference=reference.provider if reference else "",
                speedup_over_vllm=find_speedup(row.measurement, vllm.measurement if vllm else None),
                speedup_over_baseline=find_speedup(row.measurement, plain.measurement if plain else None),
            )
        )
    return compared


def find_speedup(measurement: Measurement | None, other: Measurement | None) -> Speedup | None:
    """How many times as fast as another measurement one is, None unless both have a time.

    Rounds that both were timed in are compared one by one, so that drift of the machine cancels; without any, medians.
    """
    ours_us, others_us = (each.median_us if each else None for each in (measurement, other))
    if not (measurement and other and ours_us and others_us):
        return None
    if other.series == measurement.series:
        return Speedup(1.0)
    ratio = find_paired_ratio(other, measurement)
    if ratio:
        return Speedup(ratio.median, ratio)
    are_noted = bool(other.trials and measurement.trials)
    return Speedup(others_us / ours_us, is_timed_alone=are_noted)


def add_floors(rows: list[Row], night: Night, about: About) -> list[Row]:
    """Give every row the floor of its case on its host; none for a kernel that is no longer in the code."""
    if about.gemm_dtype is None:
        return rows
    rates = group_rates(night.ceilings)
    floored = []
    for row in rows:
        check = row.measurement.check if row.measurement else None
        if check and (not about.gemm_dtype or check.case.layer.scheme in about.gemm_dtype):
            gemm_dtype = about.gemm_dtype.get(check.case.layer.scheme, "")
            row = replace(row, floor_us=find_floor_us(check, rates.get(check.host_id, {}), gemm_dtype))
        floored.append(row)
    return floored


def add_errors(rows: list[Row], night: Night) -> list[Row]:
    """Give every row the usual error of its earlier nights."""
    runs, told = night.trends.runs, []
    for row in rows:
        history = night.trends.columns.get(row.series)
        if history is not None:
            errors = history.relative_error
            if runs[history.nights[-1]].run_id == night.run.run_id:
                errors = errors[:-1]
            row = replace(row, earlier_error=usual_error(errors))
        told.append(row)
    return told


def add_machines(rows: list[Row], night: Night) -> list[Row]:
    """Give every row what the reference kernels say of the machine beside its case."""
    changes = find_reference_changes(night)
    told = []
    for row in rows:
        host_id = row.measurement.check.host_id if row.measurement and row.median_us else ""
        told.append(replace(row, machine=changes.get((host_id, row.series.case_key, row.series.timer))))
    return told


def same_case(row: Row) -> tuple[str, str, str]:
    """What two rows must share to be compared."""
    return row.series.case_key, row.series.device_name, row.series.timer


def find_best_vllm(rows: list[Row]) -> Row | None:
    """The fastest vLLM provider of a case."""
    timed = [row for row in rows if is_vllm(row.provider) and row.status == Status.OK and row.median_us]
    return min(timed, key=lambda row: row.median_us or 0.0, default=None)


def find_baseline(rows: list[Row], baseline: str) -> Row | None:
    """The baseline's row of a case, if it was timed."""
    return next((row for row in rows if row.provider == baseline and row.status == Status.OK and row.median_us), None)
