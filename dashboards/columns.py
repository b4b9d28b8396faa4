"""What the charts and tables show, unrounded: rows -> CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from dashboards.rows import KernelRows, Row

OF_THE_ROW = (
    *("num_tokens", "options", "status", "median_us", "p20_us", "p80_us", "half_width", "num_samples", "reference"),
    *("tflops", "gbytes_per_second", "floor_us", "share_of_floor", "relative_error", "earlier_error", "error_ratio"),
    *("state", "incident_id"),
)
"""Columns that a row has by the same name."""
OF_THE_VERDICT = (
    *("evidence", "baseline_us", "relative_change", "p_value", "since_run", "baseline_run"),
    *("is_confirmed", "is_machine"),
)
"""Those that a row's verdict has by the same name."""
OF_THE_TRIALS = ("num_trials", "num_slow", "num_set_aside")
"""Those that a row's trials have by the same name."""
COLUMNS = (
    *("run_id", "case_key", "provider", "device", "timer", "num_tokens", "options", "status", "reason"),
    *("median_us", "p20_us", "p80_us", "half_width", "num_samples"),
    *("reference", "speedup", "speedup_low", "speedup_high", "speedup_over_baseline", "speedup_over_vllm"),
    *("timed_alone", "tflops", "gbytes_per_second", "floor_us", "share_of_floor"),
    *("relative_error", "earlier_error", "error_ratio", "share_close"),
    *(*OF_THE_TRIALS, "lowest_clock_mhz", "highest_clock_mhz", "throttle_reasons"),
    *("machine_kernel", "machine_change", "state", "evidence", "baseline_us", "relative_change"),
    *("change_low", "change_high", "p_value", "since_run", "baseline_run", "is_confirmed", "is_machine", "incident_id"),
)
"""Columns of data-<name>.csv."""


def render_csv(run_id: str, kernel: KernelRows) -> str:
    """What the charts and tables of a kernel show, unrounded."""
    return write_csv(COLUMNS, (_tell_row(run_id, row) for row in kernel.rows))


def write_csv(columns: Sequence[str], lines: Iterable[Mapping[str, object]]) -> str:
    """Lines under a header; what is not known stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _tell_row(run_id: str, row: Row) -> dict[str, object]:
    """One line of the CSV; what is not known stays empty."""
    line: dict[str, object] = {
        "run_id": run_id,
        "case_key": row.series.case_key,
        "provider": row.provider,
        "device": row.series.device_name,
        "timer": row.series.timer,
    }
    line |= {name: getattr(row, name) for name in OF_THE_ROW}
    if row.measurement:
        check = row.measurement.check
        line |= {"reason": check.reason, "share_close": check.share_close}
    if row.machine:
        line |= {"machine_kernel": row.machine.name, "machine_change": row.machine.relative_change}
    if row.verdict:
        line |= {name: getattr(row.verdict, name) for name in OF_THE_VERDICT}
        line |= {"change_low": row.verdict.low, "change_high": row.verdict.high}
    return line | _tell_speedups(row) | _tell_trials(row)


def _tell_speedups(row: Row) -> dict[str, object]:
    """Ratios to others, with the interval of the one that the charts show."""
    ratios = {
        "speedup": row.speedup,
        "speedup_over_baseline": row.speedup_over_baseline,
        "speedup_over_vllm": row.speedup_over_vllm,
    }
    told: dict[str, object] = {name: speedup.ratio for name, speedup in ratios.items() if speedup}
    if row.speedup:
        told["timed_alone"] = row.speedup.is_timed_alone
        if row.speedup.interval and row.speedup.half_width is not None:
            told |= {"speedup_low": row.speedup.interval.low, "speedup_high": row.speedup.interval.high}
    return told


def _tell_trials(row: Row) -> dict[str, object]:
    """How the samples were taken, and on what clocks."""
    trials = row.trials
    if trials is None:
        return {}
    told: dict[str, object] = {name: getattr(trials, name) for name in OF_THE_TRIALS}
    if trials.clock_mhz:
        told["lowest_clock_mhz"], told["highest_clock_mhz"] = trials.clock_mhz
    return told | {"throttle_reasons": " ".join(trials.throttle_reasons)}
