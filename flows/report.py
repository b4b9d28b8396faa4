"""A run as a person reads it in a terminal: the table of results, the verdicts, and the exit code they make."""

from collections import Counter

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kernels.spec import Layer
from tasks.records import Measurement, Night, Series, State, Status, Verdict
from tasks.verdicts import ATTENTION

EXIT_OK, EXIT_REGRESSION, EXIT_USAGE, EXIT_INCOMPLETE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
"""Nothing to report; a series is SLOW, WRONG, FAILED or MISSING; bad input; the run did not finish; Ctrl-C."""

STYLES = {State.SLOW: "red", State.WRONG: "red", State.FAILED: "red", State.MISSING: "yellow", State.FAST: "green"}


def exit_code(night: Night) -> int:
    """What a run's end tells a script."""
    if night.run.status != "complete":
        return EXIT_INCOMPLETE
    return EXIT_REGRESSION if any(verdict.state in ATTENTION for verdict in night.verdicts) else EXIT_OK


def best_vllm_us(measurements: list[Measurement]) -> float | None:
    """Median of the fastest vLLM provider among the measurements of one case, None without one."""
    medians = [m.median_us for m in measurements if m.check.provider.startswith("vllm-") and m.median_us is not None]
    return min(medians, default=None)


def print_report(console: Console, night: Night) -> None:
    """Print one table per layer, the verdict counts, and what needs a look."""
    run = night.run
    devices = ", ".join(sorted({host.device.name for host in night.hosts})) or "no device"
    console.print(f"\n[bold]run {run.run_id}[/]: suite {run.suite} on {devices}, {run.status}", highlight=False)
    verdicts = {verdict.series: verdict for verdict in night.verdicts}
    layers: dict[str, list[Measurement]] = {}
    for measurement in night.measurements:
        layers.setdefault(measurement.check.case.layer.key, []).append(measurement)
    for measurements in layers.values():
        console.print(f"\n[bold]{layer_heading(measurements[0].check.case.layer)}[/]", soft_wrap=True, highlight=False)
        console.print(layer_table(measurements, verdicts))
        for line in unsupported_lines(measurements):
            console.print(f"  [dim]{line}[/]", soft_wrap=True, highlight=False)
    counts = Counter(verdict.state for verdict in night.verdicts)
    console.print("verdicts: " + (", ".join(f"{n} {state}" for state, n in counts.items()) or "none"), highlight=False)


def layer_heading(layer: Layer) -> str:
    """Kernel, model, scheme and sizes of a layer."""
    sizes = ", ".join(f"{name} {size}" for name, size in layer.sizes.items())
    return f"{layer.kernel}  {layer.label}  {layer.scheme}  ({sizes})"


def layer_table(measurements: list[Measurement], verdicts: dict[Series, Verdict]) -> Table:
    """Cases x providers of one layer, without those that cannot run here."""
    table = Table(box=SIMPLE_HEAD)
    for column in ("case", "provider", "timer"):
        table.add_column(column, no_wrap=True)
    for column in ("median us", "speed-up", "error"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict")
    ran = [m for m in measurements if m.status is not Status.UNSUPPORTED]
    by_case: dict[tuple[int, str, str], list[Measurement]] = {}
    for measurement in ran:
        case = measurement.check.case
        by_case.setdefault((case.num_tokens, case.key, measurement.timer), []).append(measurement)
    for _, group in sorted(by_case.items()):
        for index, measurement in enumerate(group):
            options = " ".join(measurement.check.case.options.values())
            name = f"M={measurement.check.case.num_tokens} {options}".strip() if index == 0 else ""
            cells = measurement_cells(measurement, best_vllm_us(group), verdicts.get(measurement.series))
            table.add_row(name, *cells)
    return table


def unsupported_lines(measurements: list[Measurement]) -> list[str]:
    """One line per provider and reason."""
    cases: dict[tuple[str, str], set[str]] = {}
    for measurement in measurements:
        if measurement.status is Status.UNSUPPORTED:
            check = measurement.check
            cases.setdefault((check.provider, check.reason), set()).add(check.case.key)
    return [f"{name}: {reason} ({len(keys)} cases)" for (name, reason), keys in cases.items()]


def measurement_cells(measurement: Measurement, best_us: float | None, verdict: Verdict | None) -> tuple[str, ...]:
    """Provider, timer, time, speed-up against the best vLLM provider, error and verdict of one measurement."""
    check, median_us = measurement.check, measurement.median_us
    speed_up = f"{best_us / median_us:.2f}x" if median_us and best_us else ""
    error = "" if check.relative_error is None else f"{check.relative_error:.1e}"
    state = verdict.state if verdict else None
    style = STYLES.get(state, "dim") if state else "dim"
    explained = check.reason or (f"{verdict.relative_change:+.1%}" if verdict and verdict.relative_change else "")
    told = f"[{style}]{state or measurement.status}[/] {explained}".strip()
    return (
        check.provider,
        measurement.timer,
        f"{median_us:.1f}" if median_us is not None else "-",
        speed_up,
        error,
        told,
    )
