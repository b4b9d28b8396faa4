"""A run as a person reads it in a terminal: the table of results, the verdicts, and the exit code they make."""

from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dashboards.arrangement import arrange_night
from dashboards.comparisons import same_case
from dashboards.flags import Flag, list_flags
from dashboards.machines import ReferenceLine, list_references, name_machines
from dashboards.rows import KernelRows, LayerRows, Row, group
from dashboards.trials import summarize_trials, tell_slow_clocks
from dashboards.words import tell_change, tell_figure, tell_half_width, tell_size
from flows.answers import print_incidents
from flows.tuned import print_sets
from tasks.lines import STYLES, print_line
from tasks.nights import Night
from tasks.records import State, Status

EXIT_OK, EXIT_REGRESSION, EXIT_USAGE, EXIT_INCOMPLETE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
"""Nothing to report; an incident is open that nobody expects; bad input; the run did not finish; Ctrl-C."""
URGENT = (State.SLOW, State.WRONG, State.FAILED, State.MISSING)
"""States of incidents that somebody should look at."""


def exit_code(night: Night) -> int:
    """What a run's end tells a script."""
    if night.run.status != "complete":
        return EXIT_INCOMPLETE
    is_urgent = any(incident.is_open and incident.state in URGENT for incident in night.incidents)
    return EXIT_REGRESSION if is_urgent else EXIT_OK


def print_report(console: Console, night: Night) -> None:
    """Print how steady the machines were, one table per layer in which anything could run, and the verdict counts."""
    print_run(console, night)
    for reference in list_references(night):
        print_line(console, tell_reference(reference))
    for kernel in arrange_night(night):
        for layer in kernel.layers:
            print_line(console, f"\n{layer_heading(kernel, layer)}", "bold")
            if any(row.status != Status.UNSUPPORTED for row in layer.rows):
                console.print(layer_table(layer))
            for line in layer_lines(layer):
                print_line(console, f"  {line}", "dim")
    print_sets(console, night.tuned_sets)
    shown = [incident for incident in night.incidents if not incident.resolved_run]
    if shown:
        print_line(console, "\nincidents", "bold")
        print_incidents(console, shown, with_evidence=False)
    counts = Counter(verdict.state for verdict in night.verdicts)
    print_line(console, "verdicts: " + (", ".join(f"{n} {state}" for state, n in counts.items()) or "none"))


def print_run(console: Console, night: Night) -> None:
    """Print what ran where, and what the devices were measured to do at best."""
    run = night.run
    devices = ", ".join(sorted({host.device.name for host in night.hosts})) or "no device"
    print_line(console, f"\nrun {run.run_id}: suite {run.suite} on {devices}, {run.status}", "bold")
    for host_id, machine in name_machines(night.hosts).items():
        ceilings = [ceiling for ceiling in night.ceilings if ceiling.host_id == host_id]
        told = ", ".join(f"{c.name} {tell_figure(c.value)} {c.unit}" for c in ceilings)
        if told:
            print_line(console, f"at best on {machine}: {told}")


def tell_reference(reference: ReferenceLine) -> str:
    """How fast a kernel that never changes was over the run, and beside which case it was slowest."""
    spread = f"p20-p80 {tell_change(reference.low_change)} to {tell_change(reference.high_change)}"
    over = f"{tell_figure(reference.median_us)} us beside {reference.num_times} cases ({spread})"
    slowest = f"slowest {tell_change(reference.slowest_change)} beside {reference.slowest}"
    return f"reference {reference.name} on {reference.machine}: {over}, {slowest}"


def layer_heading(kernel: KernelRows, layer: LayerRows) -> str:
    """Kernel, model, scheme and sizes of a layer."""
    sizes = f"({layer.sizes})" if layer.sizes else "(not measured in this run)"
    return "  ".join(part for part in (kernel.name, layer.label, layer.scheme, sizes) if part)


def layer_table(layer: LayerRows) -> Table:
    """Cases x providers of one layer, without those that cannot run here."""
    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    table.add_column("case", overflow="fold")
    for column in ("provider", "timer"):
        table.add_column(column, no_wrap=True)
    for column in ("median us", "\N{PLUS-MINUS SIGN}", "n", " speed-up", "share", "error"):
        table.add_column(column, justify="left" if column == " speed-up" else "right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    ran = sorted(
        (row for row in layer.rows if row.status != Status.UNSUPPORTED),
        key=lambda row: (row.num_tokens, row.series.case_key, row.series.timer),
    )
    for rows in group(ran, same_case).values():
        told: set[Flag] = set()
        for index, row in enumerate(rows):
            flags = [flag for flag in list_flags(row) if flag not in told]
            told |= {flag for flag in flags if flag.is_of_case}
            table.add_row(row.case_label if index == 0 else "", *row_cells(row, flags))
    return table


def row_cells(row: Row, flags: Sequence[Flag]) -> tuple[str, ...]:
    """Provider, timer, time, samples, speed-up against the case's reference, share of the floor, error and verdict."""
    style = STYLES.get(row.state, "dim") if row.state else "dim"
    explained = row.measurement.check.reason if row.measurement else row.verdict.evidence if row.verdict else ""
    if not explained and row.verdict:
        explained = tell_change(row.verdict.relative_change)
    verdict = f"[{style}]{row.state or row.status}[/] {escape(explained)}".strip()
    return (
        row.provider,
        row.series.timer,
        f"{row.median_us:.1f}" if row.median_us is not None else "-",
        tell_half_width(row.half_width),
        str(row.num_samples or ""),
        f"{row.speedup.ratio:5.2f}x {tell_half_width(row.speedup.half_width):>6}" if row.speedup else "",
        f"{row.share_of_floor:.0%}" if row.share_of_floor is not None else "",
        f"{row.relative_error:.1e}" if row.relative_error is not None else "",
        ", ".join((verdict, *(flag.label for flag in flags))),
    )


def layer_lines(layer: LayerRows) -> list[str]:
    """What stands beneath the table: who cannot run and why, on what clocks, and what the format saves."""
    lines = unsupported_lines(layer.rows)
    slow = [row.measurement for row in layer.rows if row.measurement and row.trials and row.trials.num_slow]
    if slow:
        told = tell_slow_clocks(summarize_trials(trial for measurement in slow for trial in measurement.trials))
        lines.append(f"{len(slow)} series: {told}")
    weights = layer.footprint
    if weights:
        saved = f"{weights.times_smaller:.2f}x smaller than with 16 bits each ({tell_size(weights.saved_bytes)} saved)"
        lines.append(f"weights: {tell_size(weights.size_bytes)}, {saved if weights.saved_bytes else '16 bits each'}")
    return lines


def unsupported_lines(rows: Sequence[Row]) -> list[str]:
    """One line per reason and the providers that it keeps from the same cases."""
    cases: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        if row.measurement and row.status == Status.UNSUPPORTED:
            cases.setdefault((row.provider, row.measurement.check.reason), set()).add(row.series.case_key)
    together = group(cases, lambda kept: (kept[1], frozenset(cases[kept])))
    return [
        f"{', '.join(name for name, _ in found)}: {reason} ({len(keys)} case{'s' * (len(keys) > 1)})"
        for (reason, keys), found in together.items()
    ]
