"""Every series of a night in one list that a script filters: ten thousand rows of HTML would be slow to open."""

import json
from collections.abc import Iterable, Mapping

from dashboards.rows import KernelRows
from dashboards.series.views import name_page
from tasks.judgement.histories import Histories
from tasks.records import Run, Series

FIELDS = (
    *("kernel", "model", "layer", "case", "provider", "timer", "device", "state", "status"),
    *("median", "change", "month", "href"),
)
"""Of one series; change is against its baseline, month the ratio to 30 nights ago."""


def list_series(kernels: Iterable[KernelRows], histories: Histories, ratios: Mapping[Series, tuple[float, int]]) -> str:
    """The script that holds the list."""
    rows = []
    for kernel in kernels:
        for layer in kernel.layers:
            for row in layer.rows:
                change = row.verdict.relative_change if row.verdict else None
                ratio = ratios.get(row.series)
                has_page = row.series in histories.columns
                rows.append(
                    (
                        *(kernel.name, layer.model, f"{layer.label} {layer.scheme}".rstrip(), row.case_label),
                        *(row.provider, row.series.timer, row.series.device_name, row.state or "", row.status),
                        float(f"{row.median_us:.4g}") if row.median_us else None,
                        None if change is None else round(change, 4),
                        round(ratio[0] - 1, 4) if ratio else None,
                        name_page(row) if has_page else f"kernel-{kernel.slug}.html#{row.anchor}",
                    )
                )
    return f"const SERIES = {_dump({'fields': FIELDS, 'rows': rows})};\n"


def list_nights(runs: Iterable[Run]) -> str:
    """The script that tells every page of a series when its nights were, and of which commit."""
    nights = [(run.run_id, f"{run.started_at:%Y-%m-%d %H:%M} UTC", run.git_commit[:12]) for run in runs]
    return f"const NIGHTS = {_dump(nights)};\n"


def _dump(value: object) -> str:
    """JSON, compact."""
    return json.dumps(value, separators=(",", ":"))
