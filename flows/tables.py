"""The tables that vLLM's benchmark scripts print, from the store: batch sizes x providers, one table per layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dashboards.arrangement import arrange_night
from dashboards.rows import KernelRows, Panel, Row, group
from dashboards.words import tell_figure, tell_size
from flows.costs import make_cost_table
from flows.report import layer_heading, print_run, unsupported_lines
from tasks.lines import print_line
from tasks.nights import Night
from tasks.records import Status

WIDEST = 1000
"""Columns of a table at most: it is never wrapped, so that a file or a pager gets whole rows."""


@dataclass(frozen=True, slots=True)
class View:
    """What one kind of table says about a row."""

    title: str
    tell: Callable[[Row], str]
    """Row -> cell; called only for rows that were timed."""


def tell_time(row: Row) -> str:
    """Microseconds, as benchmark_moe and benchmark_cutlass_moe_fp8 tell them."""
    return f"{row.median_us:.1f}"


def tell_tflops(row: Row) -> str:
    """Median and the range from p20 to p80, as bench_mxfp4_qutlass tells them; the slow samples are the low rates."""
    if not row.tflops or not (row.median_us and row.p20_us and row.p80_us):
        return ""
    low, high = (row.tflops * row.median_us / us for us in (row.p80_us, row.p20_us))
    return f"{tell_figure(row.tflops)} ({tell_figure(low)}-{tell_figure(high)})"


def tell_gbytes(row: Row) -> str:
    """Gigabytes per second, as benchmark_silu_mul_fp8_quant tells them, and the share of the measured floor."""
    share = "" if row.share_of_floor is None else f" ({row.share_of_floor:.0%})"
    return f"{tell_figure(row.gbytes_per_second)}{share}" if row.gbytes_per_second else ""


def tell_speedups(row: Row) -> str:
    """Against the baseline and against the fastest vLLM provider, "-" where that was not timed."""
    speedups = (row.speedup_over_baseline, row.speedup_over_vllm)
    return " / ".join(f"{speedup.ratio:.2f}x" if speedup else "-" for speedup in speedups)


VIEWS = {
    "times": View("median us per call", tell_time),
    "throughput": View("TFLOP/s: median (p20-p80)", tell_tflops),
    "bandwidth": View("GB/s (share of the floor: floor / median)", tell_gbytes),
    "speedup": View("speed-up over {baseline} / over the fastest vLLM provider", tell_speedups),
}


def print_tables(console: Console, night: Night, name: str) -> None:
    """Print one kind of table, or "all" of them, for every layer of a night."""
    print_run(console, night)
    kernels = arrange_night(night)
    views = list(VIEWS.values()) if name == "all" else [VIEWS[name]] if name in VIEWS else []
    if VIEWS["bandwidth"] in views and not night.ceilings:
        print_line(console, "no ceiling was measured in this run: no shares of the floor")
    for kernel in kernels if views else ():
        for layer in kernel.layers:
            print_line(console, f"\n{layer_heading(kernel, layer)}", "bold")
            for panel in layer.panels:
                print_panel(console, panel, views, kernel.baseline)
            for line in unsupported_lines(layer.rows):
                print_line(console, f"  {line}", "dim")
    if name in ("costs", "all"):
        print_line(console, "\nseconds of each unit, longest first", "bold")
        if night.costs:
            print_whole(console, make_cost_table(night))
        else:
            print_line(console, "none were noted in this run")
    if name in ("memory", "all"):
        print_line(console, "\nmemory of the weights beside 16 bits each", "bold")
        print_whole(console, memory_table(kernels))


def print_panel(console: Console, panel: Panel, views: Sequence[View], baseline: str) -> None:
    """Print the tables of one set of options, device and timer; nothing where nothing could run."""
    if all(row.status == Status.UNSUPPORTED for row in panel.rows):
        return
    axes = ", ".join(filter(None, (panel.options, panel.device_name, panel.timer)))
    for view in views:
        print_line(console, f"  {axes}: {view.title.format(baseline=baseline)}")
        print_whole(console, panel_table(panel, view))


def panel_table(panel: Panel, view: View) -> Table:
    """Batch sizes x providers; a provider that never ran has no column, a row that was not timed has its status."""
    providers = sorted({row.provider for row in panel.rows if row.status != Status.UNSUPPORTED})
    table = Table(box=SIMPLE_HEAD)
    table.add_column("M", justify="right", no_wrap=True)
    for provider in providers:
        table.add_column(provider, justify="right", no_wrap=True)
    for num_tokens, rows in group(panel.rows, lambda row: row.num_tokens).items():
        by_provider = {row.provider: row for row in rows}
        cells = (tell_cell(by_provider.get(provider), view) for provider in providers)
        table.add_row(str(num_tokens), *cells)
    return table


def tell_cell(row: Row | None, view: View) -> str:
    """What the view says, or why there is no time."""
    if row is None or row.status == Status.UNSUPPORTED:
        return "-"
    return view.tell(row) if row.median_us else row.status.replace("_", " ")


def memory_table(kernels: Sequence[KernelRows]) -> Table:
    """One row per layer with weights."""
    table = Table(box=SIMPLE_HEAD)
    for column in ("kernel", "layer", "scheme"):
        table.add_column(column, no_wrap=True)
    for column in ("weights", "stored", "at 16 bits", "saved", "smaller"):
        table.add_column(column, justify="right", no_wrap=True)
    for kernel in kernels:
        for layer in kernel.layers:
            if weights := layer.footprint:
                sizes = map(tell_size, (weights.size_bytes, weights.unquantized_bytes, weights.saved_bytes))
                told = (f"{weights.num_weights / 1e6:,.1f} M", *sizes, f"{weights.times_smaller:.2f}x")
                table.add_row(kernel.name, escape(layer.label), layer.scheme, *told)
    return table


def print_whole(console: Console, table: Table) -> None:
    """Print a table as wide as it is, whatever the terminal's width."""
    table.width = console.measure(table, options=console.options.update(max_width=WIDEST)).maximum
    console.print(table, crop=False)
