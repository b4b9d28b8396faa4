"""Bars on other scales than speed-ups: the share of the bandwidth, and one configuration against another."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dashboards.axes import BAR_HEIGHT, CASE_GAP, RIGHT, TOP, Axis, draw_bar, draw_x
from dashboards.charts import BOTTOM, WIDTH, draw_speedups, tell_row
from dashboards.comparisons import find_speedup
from dashboards.paper import Paper, round_ticks
from dashboards.rows import Panel, Row, group
from dashboards.svg import INK, Drawing, Mark, Tag

DEFAULT_CONFIG = "vllm-triton-default"
LEFT = 130
"""Pixels for the names of options."""
CONFIGS = (DEFAULT_CONFIG, "vllm-triton-shipped", "vllm-triton-tuned")
"""The same kernel of vLLM with launch configurations of three origins."""


def draw_utilisation(panels: Sequence[Panel], marks: Mapping[str, Mark], chart_id: str) -> Drawing | None:
    """How much of the copy rate each provider reaches, by options and tokens; None where nobody knows.

    Args:
        panels: of one layer, device and timer; of a kernel that only moves bytes.
    """
    rows = [(panel, row) for panel in panels for row in panel.rows if row.share_of_floor is not None]
    if not rows:
        return None
    cases = group(rows, lambda pair: (pair[0].options or "uniform", pair[1].num_tokens))
    height = BOTTOM + TOP + BAR_HEIGHT * len(rows) + CASE_GAP * (len(cases) - 1)
    paper = Paper(WIDTH, height)
    highest = 1.12 * max(1.0, *(row.share_of_floor or 0.0 for _, row in rows))
    axis = Axis(0.0, highest, LEFT, WIDTH - LEFT - RIGHT, is_log=False)
    ticks = [(tick, f"{tick:.0%}") for tick in round_ticks(0.0, highest, 5)]
    draw_x(paper, axis, BOTTOM, ticks, "share of the rate that the device copies at")
    whole = float(axis.place(1.0))
    paper.line([whole, whole], [BOTTOM, height - TOP], INK, linewidth=1)
    tags: dict[str, Tag] = {}
    top = float(height - TOP)
    for (options, tokens), found in cases.items():
        for n, (_, row) in enumerate(sorted(found, key=lambda pair: pair[1].provider)):
            gid, share = f"bar-{len(tags) // 3}", row.share_of_floor or 0.0
            y, end = top - BAR_HEIGHT * (n + 0.5), float(axis.place(share))
            draw_bar(paper, marks[row.provider], axis.start, end, y, gid, f"{share:.0%}", "left")
            tags |= {gid: Tag(row.provider, (f"{tell_row(row)}, {share:.1%} of the copy rate",))}
            tags |= {f"{gid}-{part}": Tag(row.provider) for part in ("body", "word")}
        middle = top - BAR_HEIGHT * len(found) / 2
        paper.write(LEFT - 6, middle + 7, options, "right")
        paper.write(LEFT - 6, middle - 7, f"M={tokens}", "right")
        top -= BAR_HEIGHT * len(found) + CASE_GAP
    best = max((row for _, row in rows), key=lambda row: row.share_of_floor or 0.0)
    label = f"Bar chart: share of the copy rate. Largest: {best.provider} {best.share_of_floor:.0%}, {best.case_label}."
    return Drawing(paper.figure, chart_id, label, tags)


def draw_configs(panel: Panel, marks: Mapping[str, Mark], chart_id: str) -> Drawing | None:
    """Tuned against shipped against default configuration of vLLM's Triton kernel; None where fewer than two ran."""
    rows = [row for row in panel.rows if row.provider in CONFIGS]
    default = {row.num_tokens: row for row in rows if row.provider == DEFAULT_CONFIG}
    against = [against_default(row, default[row.num_tokens]) for row in rows if row.num_tokens in default]
    if len({row.provider for row in against if row.speedup}) < 2:
        return None
    return draw_speedups(replace(panel, rows=tuple(against)), marks, chart_id)


def against_default(row: Row, default: Row) -> Row:
    """A row that is compared with that of the default configuration, and with nothing else."""
    speedup = find_speedup(row.measurement, default.measurement)
    return replace(row, reference=DEFAULT_CONFIG, speedup_over_vllm=speedup, speedup_over_baseline=None)
