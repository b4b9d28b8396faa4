"""Every GPU's roofline as it was measured, and where the fastest provider of each case stands under it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dashboards.axes import RIGHT, TOP, Axis, draw_x, draw_y, round_decades, widen
from dashboards.paper import Paper
from dashboards.rows import MAIN_TIMER, KernelRows, Row, group, make_safe
from dashboards.svg import INK, SURFACE, Drawing, Mark, Tag
from kernels.rates import COPY
from tasks.floors import group_rates
from tasks.nights import Night

WIDTH, HEIGHT = 760, 420
LEFT, BOTTOM = 58, 48


@dataclass(frozen=True, slots=True)
class Roofline:
    """One kind of device."""

    device_name: str
    slug: str
    """As it stands in file names."""
    drawing: Drawing
    num_cases: int


def draw_rooflines(night: Night, kernels: Sequence[KernelRows]) -> list[Roofline]:
    """One for each kind of device whose ceilings are known and that timed anything."""
    rates: dict[str, Mapping[str, float]] = {}
    of_hosts = group_rates(night.ceilings)
    for host in night.hosts:
        if of_hosts.get(host.host_id, {}).get(COPY):
            rates.setdefault(host.device.name, of_hosts[host.host_id])
    marks = {kernel.name: Mark(slot) for slot, kernel in enumerate(kernels)}
    found: list[Roofline] = []
    for device_name, of_device in rates.items():
        fastest = {kernel.name: list_fastest(kernel, device_name) for kernel in kernels}
        rows = {name: of_kernel for name, of_kernel in fastest.items() if of_kernel}
        if rows:
            drawing = draw_roofline(of_device, rows, marks, f"f{len(found)}")
            found.append(Roofline(device_name, make_safe(device_name), drawing, sum(map(len, rows.values()))))
    return found


def list_fastest(kernel: KernelRows, device_name: str) -> list[Row]:
    """The fastest provider of each case on a device, by the timer that is shown first."""
    timer = MAIN_TIMER if MAIN_TIMER in kernel.timers else kernel.timers[0]
    timed = [
        row
        for row in kernel.rows
        if row.tflops and find_intensity(row) and row.series.device_name == device_name and row.series.timer == timer
    ]
    cases = group(timed, lambda row: row.series.case_key)
    return [min(rows, key=lambda row: row.median_us or 0.0) for rows in cases.values()]


def find_intensity(row: Row) -> float:
    """Operations per byte that the case must move at least; 0 where that is not known."""
    check = row.measurement.check if row.measurement else None
    return check.flops / check.bytes_moved if check and check.bytes_moved else 0.0


def draw_roofline(
    rates: Mapping[str, float], rows: Mapping[str, Sequence[Row]], marks: Mapping[str, Mark], chart_id: str
) -> Drawing:
    """TFLOP/s by operations per byte, under what the device copies and multiplies at best."""
    paper = Paper(WIDTH, HEIGHT)
    xs = [find_intensity(row) for of_kernel in rows.values() for row in of_kernel]
    roofs = [value for name, value in rates.items() if name != COPY]
    left, right = widen([*xs, max(max(xs), 1000.0)], 0.04, 10)
    low, high = widen([row.tflops or 1.0 for found in rows.values() for row in found] + roofs, 0.05, 10)
    across = Axis(left, right, LEFT, WIDTH - LEFT - RIGHT, is_log=True)
    up = Axis(low, high, BOTTOM, HEIGHT - BOTTOM - TOP - 8, is_log=True)
    draw_x(paper, across, BOTTOM, round_decades(left, right), "operations per byte moved")
    draw_y(paper, up, LEFT, round_decades(low, high), "TFLOP/s")
    _draw_roof(paper, across, up, rates)
    tags = {}
    for name, of_kernel in rows.items():
        mark = marks[name]
        ys = up.place([row.tflops or math.nan for row in of_kernel])
        look = {"marker": mark.marker, "markersize": 7, "markeredgecolor": SURFACE, "markeredgewidth": 0.6}
        places = across.place([find_intensity(row) for row in of_kernel])
        paper.line(places, ys, mark.colour, f"dots-{mark.slot}", linestyle="none", **look)
        tags[f"dots-{mark.slot}"] = Tag(name, tuple(tell_place(row) for row in of_kernel))
    told = ", ".join(f"{name} {value:.4g}" for name, value in rates.items())
    label = f"Roofline: TFLOP/s by operations per byte, {len(xs)} cases. Ceilings: {told}."
    return Drawing(paper.figure, chart_id, label, tags)


def _draw_roof(paper: Paper, across: Axis, up: Axis, rates: Mapping[str, float]) -> None:
    """The slope of the copy, and a roof for each dtype of a GEMM."""
    span = np.geomspace(across.low, across.high, 80)
    slope = span * rates[COPY] / 1e3
    free = 0.0
    for name, value in sorted(rates.items(), key=lambda rate: rate[1]):
        if name != COPY:
            xs, roof = across.place(span), np.where(slope >= up.low, np.minimum(slope, value), np.nan)
            paper.line(xs, up.place(roof), INK, linewidth=1.2)
            text = f"{name} {value:.0f}" if value >= 10 else f"{name} {value:.2g}"
            y = max(float(up.place(value)) + (9 if free else -9), free)  # the lowest is told under its roof
            paper.write(WIDTH - RIGHT, y, text, "right")
            free = y + 13
    middle = math.sqrt(max(across.low, 1e3 * up.low / rates[COPY]) * across.high / 30)
    x, y = float(across.place(middle)), float(up.place(middle * rates[COPY] / 1e3))
    paper.write(x - 10, y + 10, f"copy {rates[COPY]:,.0f} GB/s", "right")


def tell_place(row: Row) -> str:
    """What hovering over a case says."""
    share = f", {row.share_of_floor:.0%} of the roofline" if row.share_of_floor else ""
    return f"{row.layer_key.split('/')[1]} {row.case_label}, {row.provider}: {row.tflops:.4g} TFLOP/s{share}"
