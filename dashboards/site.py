"""One Night -> a folder of pages that open from disk: index.html, kernel-<name>.html and data-<name>.csv."""

import csv
import io
import os
import re
import shutil
from pathlib import Path

from dashboards.arrangement import arrange_night
from dashboards.charts import assign_marks
from dashboards.pages import render_index, render_kernel
from dashboards.rows import KernelRows, Row
from tasks.errors import UsageError
from tasks.nights import Night

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
FILE_NAME = re.compile(r"index\.html|kernel-[\w-]+\.html|data-[\w-]+\.csv")
"""What render_site calls its files; write_site removes nothing else."""


def write_site(night: Night, out: Path) -> Path:
    """Write the site of a night into a folder; the old site stays until the new one is complete.

    Args:
        out: a new or empty folder, or one that holds an older site.
    Returns:
        The page to open: out/index.html.
    Raises:
        UsageError: the folder cannot be written, or holds something that is not a site; the message names it.
    """
    files = render_site(night)
    folder = out.resolve()
    try:
        _refuse_foreign(folder)
        _swap_in(files, folder)
    except OSError as error:
        raise UsageError(
            f"cannot write the site to {folder}: {error.strerror}; choose a folder that you can write to"
        ) from error
    return out / "index.html"


def render_site(night: Night) -> dict[str, str]:
    """Every file of the site by name; the same night gives the same bytes."""
    kernels = arrange_night(night)
    marks = assign_marks([row.provider for row in kernel.rows] for kernel in kernels)
    files = {"index.html": render_index(night, kernels)}
    for kernel in kernels:
        files[f"kernel-{kernel.slug}.html"] = render_kernel(night, kernels, kernel, marks)
        files[f"data-{kernel.slug}.csv"] = render_csv(night.run.run_id, kernel)
    return files


def render_csv(run_id: str, kernel: KernelRows) -> str:
    """What the charts and tables of a kernel show, unrounded."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_tell_row(run_id, row) for row in kernel.rows)
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


def _refuse_foreign(folder: Path) -> None:
    """The old folder is removed later, so it must be empty or hold nothing but an older site."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"cannot write the site to {folder}: it is a file; choose a new or empty folder")
    foreign = sorted(path.name for path in folder.iterdir() if not FILE_NAME.fullmatch(path.name))
    if foreign:
        raise UsageError(f"will not replace {folder}: it holds {foreign[0]!r}, no part of a site; choose a new folder")


def _swap_in(files: dict[str, str], folder: Path) -> None:
    """Write the files into a hidden sibling and rename it; if that fails the old folder is back in its place."""
    new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{age}") for age in ("new", "old"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        new.mkdir()
        for name, text in files.items():
            (new / name).write_text(text, encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
