"""A run as a person reads it in a terminal: the table of results, the verdicts, and the exit code they make."""

from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dashboards.arrangement import arrange_night
from dashboards.comparisons import same_case
from dashboards.rows import KernelRows, LayerRows, Row, group
from dashboards.words import tell_change, tell_figure, tell_size
from tasks.records import Night, State, Status
from tasks.verdicts import ATTENTION

EXIT_OK, EXIT_REGRESSION, EXIT_USAGE, EXIT_INCOMPLETE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
"""Nothing to report; a series is SLOW, WRONG, FAILED or MISSING; bad input; the run did not finish; Ctrl-C."""

STYLES = {State.SLOW: "red", State.WRONG: "red", State.FAILED: "red", State.MISSING: "yellow", State.FAST: "green"}


def exit_code(night: Night) -> int:
    """What a run's end tells a script."""
    if night.run.status != "complete":
        return EXIT_INCOMPLETE
    return EXIT_REGRESSION if any(verdict.state in ATTENTION for verdict in night.verdicts) else EXIT_OK


def print_report(console: Console, night: Night) -> None:
    """Print one table per layer in which anything could run, the verdict counts, and what needs a look."""
    print_run(console, night)
    for kernel in arrange_night(night):
        for layer in kernel.layers:
            console.print(f"\n[bold]{escape(layer_heading(kernel, layer))}[/]", soft_wrap=True, highlight=False)
            if any(row.status != Status.UNSUPPORTED for row in layer.rows):
                console.print(layer_table(layer))
            for line in layer_lines(layer):
                console.print(f"  [dim]{escape(line)}[/]", soft_wrap=True, highlight=False)
    counts = Counter(verdict.state for verdict in night.verdicts)
    console.print("verdicts: " + (", ".join(f"{n} {state}" for state, n in counts.items()) or "none"), highlight=False)


def print_run(console: Console, night: Night) -> None:
    """Print what ran where, and what the devices were measured to do at best."""
    run = night.run
    devices = ", ".join(sorted({host.device.name for host in night.hosts})) or "no device"
    console.print(f"\n[bold]run {run.run_id}[/]: suite {run.suite} on {devices}, {run.status}", highlight=False)
    for host in night.hosts:
        ceilings = [ceiling for ceiling in night.ceilings if ceiling.host_id == host.host_id]
        told = ", ".join(f"{c.name} {tell_figure(c.value)} {c.unit}" for c in ceilings)
        if told:
            console.print(f"at best on {host.device.name}: {told}", soft_wrap=True, highlight=False)


def layer_heading(kernel: KernelRows, layer: LayerRows) -> str:
    """Kernel, model, scheme and sizes of a layer."""
    sizes = f"({layer.sizes})" if layer.sizes else "(not measured in this run)"
    return "  ".join(part for part in (kernel.name, layer.label, layer.scheme, sizes) if part)


def layer_table(layer: LayerRows) -> Table:
    """Cases x providers of one layer, without those that cannot run here."""
    table = Table(box=SIMPLE_HEAD)
    for column in ("case", "provider", "timer"):
        table.add_column(column, no_wrap=True)
    for column in ("median us", "speed-up", "error"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict")
    ran = sorted(
        (row for row in layer.rows if row.status != Status.UNSUPPORTED),
        key=lambda row: (row.num_tokens, row.series.case_key, row.series.timer),
    )
    for rows in group(ran, same_case).values():
        for index, row in enumerate(rows):
            table.add_row(row.case_label if index == 0 else "", *row_cells(row))
    return table


def row_cells(row: Row) -> tuple[str, ...]:
    """Provider, timer, time, speed-up against the reference of the case, error and verdict of one row."""
    style = STYLES.get(row.state, "dim") if row.state else "dim"
    explained = row.measurement.check.reason if row.measurement else row.verdict.evidence if row.verdict else ""
    if not explained and row.verdict:
        explained = tell_change(row.verdict.relative_change)
    return (
        row.provider,
        row.series.timer,
        f"{row.median_us:.1f}" if row.median_us is not None else "-",
        f"{row.speedup:.2f}x" if row.speedup is not None else "",
        f"{row.relative_error:.1e}" if row.relative_error is not None else "",
        f"[{style}]{row.state or row.status}[/] {escape(explained)}".strip(),
    )


def layer_lines(layer: LayerRows) -> list[str]:
    """What stands beneath the table: who cannot run and why, and what the format saves."""
    lines = unsupported_lines(layer.rows)
    weights = layer.footprint
    if weights:
        saved = f"{weights.times_smaller:.2f}x smaller than with 16 bits each ({tell_size(weights.saved_bytes)} saved)"
        lines.append(f"weights: {tell_size(weights.size_bytes)}, {saved}")
    return lines


def unsupported_lines(rows: Sequence[Row]) -> list[str]:
    """One line per provider and reason."""
    cases: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        if row.measurement and row.status == Status.UNSUPPORTED:
            cases.setdefault((row.provider, row.measurement.check.reason), set()).add(row.series.case_key)
    return [f"{name}: {reason} ({len(keys)} case{'s' * (len(keys) > 1)})" for (name, reason), keys in cases.items()]
