"""What tonight ran on and with that the night before did not."""

from collections.abc import Iterable

import numpy as np

from dashboards.series.chronicle import shorten
from tasks.judgement.changes import ANOTHER_CARD, differences, host_facts
from tasks.nights import Night
from tasks.records import Host, Run


def tell_environment(night: Night) -> list[str]:
    """A line for each difference; [] if there is none, and a line that says so where no night is known before."""
    before = find_run_before(night)
    if before is None:
        return ["nothing to compare with: no earlier night of these series"]
    number, run = before
    told = [f"commit {_arrow(run.git_commit, night.run.git_commit)}"] if run.git_commit != night.run.git_commit else []
    older, newer = gather_facts(list_hosts_of(night, number)), gather_facts(night.hosts)
    for device in newer:
        if device not in older:
            told.append(f"{device}: new")
            continue
        told += [f"{device}: {what} {_arrow(was, now)}" for what, was, now in differences(older[device], newer[device])]
    return told + [f"{device}: not there tonight" for device in older if device not in newer]


def find_run_before(night: Night) -> tuple[int, Run] | None:
    """The last run before tonight's that timed a series of tonight's suite, and its number among the runs."""
    runs = night.trends.runs
    for number in range(len(runs) - 1, -1, -1):
        run = runs[number]
        if run.run_id != night.run.run_id and run.suite == night.run.suite and list_hosts_of(night, number):
            return number, run
    return None


def list_hosts_of(night: Night, number: int) -> list[Host]:
    """The hosts that a run timed tonight's series on."""
    trends, settings = night.trends, set[int]()
    for history in trends.columns.values():
        row = int(np.searchsorted(history.nights, number))
        if row < len(history) and history.nights[row] == number:
            settings.add(int(history.settings[row]))
    ids = dict.fromkeys(trends.settings[setting].host_id for setting in sorted(settings))
    return [trends.hosts[host_id] for host_id in ids if host_id in trends.hosts]


def gather_facts(hosts: Iterable[Host]) -> dict[str, dict[str, str]]:
    """By device, everything but which card; several hosts' values side by side."""
    facts: dict[str, dict[str, list[str]]] = {}
    for host in hosts:
        for name, value in host_facts(host).items():
            if name != ANOTHER_CARD:
                facts.setdefault(host.device.name, {}).setdefault(name, []).append(value)
    return {
        device: {name: ", ".join(sorted(set(values))) for name, values in found.items()}
        for device, found in facts.items()
    }


def _arrow(was: str, now: str) -> str:
    return f"{shorten(was) or 'none'} \N{RIGHTWARDS ARROW} {shorten(now) or 'none'}"
