"""A Night as pages and tables show it: kernel -> layer -> panel (one set of axes) -> row (one provider on one case)."""

from dataclasses import replace

import numpy as np

from dashboards.comparisons import About, add_errors, add_floors, add_machines, compare_rows, describe_kernel
from dashboards.incidents import add_incidents, find_starts
from dashboards.rows import MAIN_TIMER, Footprint, KernelRows, LayerRows, Panel, Row, group
from kernels.spec import Layer, label_option
from tasks.intervals import find_interval
from tasks.nights import Night
from tasks.records import Measurement, Series, Verdict


def arrange_night(night: Night) -> tuple[KernelRows, ...]:
    """Arrange a night by kernel, layer and panel."""
    layers = {m.check.case.layer.key: m.check.case.layer for m in night.measurements}
    starts = find_starts(night)
    kernels = []
    for name, rows in group(collect_rows(night), lambda row: row.series.case_key.partition("/")[0]).items():
        about = describe_kernel(name)
        compared = add_floors(compare_rows(rows, about.baseline), night, about)
        compared = add_incidents(add_machines(add_errors(compared, night), night), night, starts)
        by_layer = group(compared, lambda row: row.layer_key)
        kernels.append(
            KernelRows(
                name=name,
                title=about.title,
                baseline=about.baseline,
                layers=tuple(
                    arrange_layer(key, layers.get(key), find_footprint(layers.get(key), night, about), found)
                    for key, found in by_layer.items()
                ),
                gemm_dtype=about.gemm_dtype or {},
                defaults=about.defaults,
                trends=night.trends,
            )
        )
    return tuple(kernels)


def arrange_layer(key: str, layer: Layer | None, footprint: Footprint | None, rows: list[Row]) -> LayerRows:
    """Split the rows of a layer into panels; a layer that was not measured is known by its key alone."""
    panels = group(rows, lambda row: (row.options, row.series.device_name, row.series.timer))
    return LayerRows(
        key=key,
        label=layer.label if layer else key.partition("/")[2].rpartition("/")[0] or key,
        scheme=layer.scheme if layer else "",
        model=layer.model if layer else "".join(key.split("/")[1:2]),
        sizes=", ".join(f"{name} {size}" for name, size in layer.sizes.items()) if layer else "",
        footprint=footprint,
        panels=tuple(
            Panel(*axes, rows=tuple(sorted(panels[axes], key=lambda row: row.num_tokens)))
            for axes in sorted(panels, key=lambda axes: axes[2] != MAIN_TIMER)
        ),
    )


def find_footprint(layer: Layer | None, night: Night, about: About) -> Footprint | None:
    """Bytes of the layer's receipt and how many weights they hold."""
    if layer is None or about.num_weights is None:
        return None
    num_weights = about.num_weights(layer)
    sizes = (receipt.size_bytes for receipt in night.receipts if receipt.layer_key == layer.key)
    size_bytes = next(sizes, 0)
    return Footprint(size_bytes, num_weights) if size_bytes and num_weights else None


def collect_rows(night: Night) -> list[Row]:
    """One row per measurement, in their order, then one per verdict on a series that was not measured."""
    verdicts = {verdict.series: verdict for verdict in night.verdicts}
    measured = {measurement.series for measurement in night.measurements}
    rows = [make_row(m.series, m, verdicts.get(m.series)) for m in night.measurements]
    return rows + [make_row(series, None, verdict) for series, verdict in verdicts.items() if series not in measured]


def make_row(series: Series, measurement: Measurement | None, verdict: Verdict | None) -> Row:
    """Read the case off the series' key and the quantiles off the samples."""
    layer_key, _, tail = series.case_key.rpartition("/num_tokens=")
    tokens, *options = tail.split("/")
    row = Row(
        series=series,
        layer_key=layer_key or series.case_key,
        num_tokens=int(tokens) if tokens.isdigit() else 0,
        options=" ".join(label_option(*option.partition("=")[::2]) for option in options),
        measurement=measurement,
        verdict=verdict,
    )
    if measurement is None or not measurement.samples_us:
        return row
    p20, p80 = np.percentile(measurement.samples_us, (20, 80))
    interval = find_interval(measurement)
    return replace(row, median_us=interval.median, p20_us=float(p20), p80_us=float(p80), interval=interval)
