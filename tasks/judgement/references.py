"""What the reference kernels of a run say about its machines: how fast each was, and beside which case it was slow.

A case that takes the device to its power limit slows the GEMM beside it, on every night: a reference kernel is
compared with itself beside the same case in the runs before.
"""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from kernels.spec import Device
from tasks.nights import Night
from tasks.records import ReferenceTime

SLOW_MACHINE = {"cuda": 0.02, "cpu": 0.20}
"""By device type: a case is marked when a reference kernel took this share longer; shared CPUs are that noisy."""
USUAL_RUNS = 40
"""Runs that tell what is usual, on the site and for a clock."""

Beside = tuple[str, str, str]
"""Host id, case key and timer: what a reference kernel was timed beside."""


@dataclass(frozen=True, slots=True)
class ReferenceSummary:
    """One reference kernel on one host over a run."""

    host_id: str
    name: str
    """As of a ReferenceTime."""
    num_times: int
    """Cases and timers that it was timed beside."""
    median_us: float
    """Median of the medians beside each; the quantiles are of them too."""
    p20_us: float
    p80_us: float
    slowest: ReferenceTime
    """The one with the largest median."""

    @property
    def slowest_change(self) -> float:
        """How much longer than the run's median it took, as a share of it."""
        return statistics.median(self.slowest.samples_us) / self.median_us - 1


@dataclass(frozen=True, slots=True)
class ReferenceChange:
    """How a reference kernel fared beside one case."""

    name: str
    relative_change: float
    """Its median beside the case / its usual median beside it - 1."""
    device: Device

    @property
    def is_slow(self) -> bool:
        """Whether the machine was slow there, whatever was timed."""
        return self.relative_change > SLOW_MACHINE[self.device.type]


def summarize_references(references: Iterable[ReferenceTime]) -> list[ReferenceSummary]:
    """One summary per host and reference kernel, in that order."""
    found: dict[tuple[str, str], list[ReferenceTime]] = {}
    for reference in references:
        if reference.samples_us:
            found.setdefault((reference.host_id, reference.name), []).append(reference)
    summaries = []
    for (host_id, name), times in sorted(found.items()):
        medians_us = [statistics.median(reference.samples_us) for reference in times]
        p20_us, p80_us = (float(quantile) for quantile in np.percentile(medians_us, (20, 80)))
        slowest = times[medians_us.index(max(medians_us))]
        median_us = statistics.median(medians_us)
        summaries.append(ReferenceSummary(host_id, name, len(times), median_us, p20_us, p80_us, slowest))
    return summaries


def find_reference_changes(night: Night) -> Mapping[Beside, ReferenceChange]:
    """Beside each case, the reference kernel that was slowed down most, or sped up least, against the runs before.

    Nothing beside a case where no earlier run of the suite timed one on such a device.
    """
    devices = {host.host_id: host.device for host in night.hosts}
    worst: dict[Beside, ReferenceChange] = {}
    for reference in night.references:
        device = devices.get(reference.host_id)
        if device is None or not reference.samples_us:
            continue
        key = device.name, reference.case_key, reference.timer, reference.name
        if key not in night.usual_references:
            continue
        usual_us = night.usual_references[key]
        change = ReferenceChange(reference.name, statistics.median(reference.samples_us) / usual_us - 1, device)
        beside = reference.host_id, reference.case_key, reference.timer
        if beside not in worst or change.relative_change > worst[beside].relative_change:
            worst[beside] = change
    return worst
