"""Where the seconds of a run went, unit by unit: the table of `show --table costs`."""

from collections import Counter
from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from dashboards.machines import name_machines
from tasks.nights import Night
from tasks.records import UnitCost

STAGES = ("total", "generate weights", "verify", "time")
"""Wall seconds of a unit; the total has what is around the stages too."""
ACTIVITIES = ("inputs", "reference", "prepare", "first run", "compare", "capture", "sampling")
"""What the worker did inside verify and time; "first run" compiles, "prepare" picks and repacks."""
HEADINGS = {"generate weights": "weights"}


def make_cost_table(night: Night) -> Table:
    """One row per unit, longest first, and one for all; "busy" is what the GPU computed of the time stage."""
    table = Table(box=SIMPLE_HEAD, show_footer=True)
    totals: Counter[str] = Counter()
    for cost in night.costs:
        totals.update(cost.seconds)
    machines, labels = name_machines(night.hosts), label_layers(night)
    several = len({cost.host_id for cost in night.costs}) > 1
    table.add_column("unit", footer=f"all {len(night.costs)} units", no_wrap=True)
    if several:
        table.add_column("machine", no_wrap=True)
    for name, told in tell_seconds(totals).items():
        table.add_column(name, footer=told, justify="right", no_wrap=True)
    for cost in sorted(night.costs, key=find_total_seconds, reverse=True):
        unit = [escape(labels.get(cost.layer_key, cost.layer_key))]
        machine = [machines.get(cost.host_id, cost.host_id)] if several else []
        table.add_row(*unit, *machine, *tell_seconds(cost.seconds).values())
    return table


def tell_seconds(seconds: Mapping[str, float]) -> dict[str, str]:
    """Cells by heading; what was not noted stays empty."""
    told = {HEADINGS.get(name, name): f"{seconds[name]:.2f}" if name in seconds else "" for name in STAGES + ACTIVITIES}
    share = find_busy_share(seconds)
    return told | {"kernels": f"{seconds.get('kernels', 0.0):.2f}", "busy": "" if share is None else f"{share:.0%}"}


def find_busy_share(seconds: Mapping[str, float]) -> float | None:
    """Seconds that the device computed what was timed / seconds of the time stage."""
    timing = seconds.get("time", 0.0)
    return seconds.get("kernels", 0.0) / timing if timing else None


def find_total_seconds(cost: UnitCost) -> float:
    """What a unit took in all."""
    return cost.seconds.get("total", 0.0)


def label_layers(night: Night) -> dict[str, str]:
    """What a person reads of each layer's key: kernel, model, scheme, and the sizes where it belongs to no model."""
    labels = {}
    for layer in (m.check.case.layer for m in night.measurements):
        sizes = ",".join(f"{name}={size}" for name, size in layer.sizes.items()) if layer.model == "grid" else ""
        labels[layer.key] = f"{layer.kernel} {layer.label} {layer.scheme} {sizes}".rstrip()
    return labels
