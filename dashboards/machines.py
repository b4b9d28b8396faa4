"""The machines of a night: what they are called, and what the reference kernels say about each."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from dashboards.rows import Row
from tasks.judgement.references import summarize_references
from tasks.nights import Night
from tasks.records import Host

UUID_DIGITS = 12
"""Of "GPU-4f2c0d1e-...": enough to tell the GPUs of one machine apart."""


@dataclass(frozen=True, slots=True)
class ReferenceLine:
    """One reference kernel on one machine over a run, told for people."""

    machine: str
    name: str
    num_times: int
    """Cases and timers that it was timed beside."""
    median_us: float
    low_change: float
    """p20 and p80 of the times beside each case, as shares of the median."""
    high_change: float
    slowest_change: float
    slowest: str
    """Kernel, case and timer that it was slowest beside."""


def name_machines(hosts: Iterable[Host]) -> dict[str, str]:
    """By host id, the device's name, with the start of its UUID where several have that name."""
    found = {host.host_id: host for host in hosts}
    shared = Counter(host.device.name for host in found.values())
    return {
        host_id: f"{host.device.name} {host.device_uuid[:UUID_DIGITS]}".strip()
        if shared[host.device.name] > 1
        else host.device.name
        for host_id, host in found.items()
    }


def tell_card(row: Row, night: Night) -> str:
    """Which GPU measured a row, and which the last time if that is another: "GPU-8f036074, before GPU-3f34e549".

    "" on a CPU, and where the run had one GPU of that name and it is the same as before.
    """
    if row.measurement is None:
        return ""
    device, host_id = row.measurement.device, row.measurement.check.host_id
    cards = {host.host_id: host.device_uuid for host in night.hosts if host.device.name == device.name}
    card = cards.get(host_id, "")
    before = find_card_before(row, night)
    if before and card and before != card:
        return f"{card[:UUID_DIGITS]}, before {before[:UUID_DIGITS]}"
    return card[:UUID_DIGITS] if len(set(cards.values())) > 1 else ""


def find_card_before(row: Row, night: Night) -> str:
    """The GPU that measured a row's series last, tonight left out; "" if none is known."""
    trends = night.trends
    history = trends.columns.get(row.series)
    if history is None:
        return ""
    for run, setting in zip(history.nights[:-3:-1], history.settings[:-3:-1], strict=True):
        host = trends.hosts.get(trends.settings[setting].host_id)
        if trends.runs[run].run_id != night.run.run_id and host:
            return host.device_uuid
    return ""


def list_references(night: Night) -> list[ReferenceLine]:
    """One line per machine and reference kernel."""
    machines = name_machines(night.hosts)
    labels = {m.check.case.key: f"{m.check.case.layer.kernel} {m.check.case.label}" for m in night.measurements}
    return [
        ReferenceLine(
            machine=machines.get(found.host_id, found.host_id),
            name=found.name,
            num_times=found.num_times,
            median_us=found.median_us,
            low_change=found.p20_us / found.median_us - 1,
            high_change=found.p80_us / found.median_us - 1,
            slowest_change=found.slowest_change,
            slowest=f"{labels.get(found.slowest.case_key, found.slowest.case_key)}, {found.slowest.timer}",
        )
        for found in summarize_references(night.references)
    ]
