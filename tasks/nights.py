"""A run with everything that a report of it shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kernels.spec import Case
from tasks.judgement.histories import Histories
from tasks.judgement.history import Mark
from tasks.judgement.incidents import Incident
from tasks.records import (
    Ceiling,
    Host,
    Measurement,
    Point,
    ReferenceTime,
    Run,
    UnitCost,
    Verdict,
    WeightsReceipt,
)
from tasks.tuning.listed import ListedSet


@dataclass(frozen=True, slots=True)
class Night:
    """Everything a report of one run shows."""

    run: Run
    hosts: tuple[Host, ...]
    receipts: tuple[WeightsReceipt, ...]
    measurements: tuple[Measurement, ...]
    verdicts: tuple[Verdict, ...] = ()
    trends: Histories = field(hash=False, default_factory=Histories)
    """Every earlier night and this one, oldest first, of each series measured or judged in this run."""
    ceilings: tuple[Ceiling, ...] = ()
    """Of this run's hosts; () for a night of before they were measured."""
    references: tuple[ReferenceTime, ...] = ()
    costs: tuple[UnitCost, ...] = ()
    reference_trends: Mapping[tuple[str, str], tuple[Point, ...]] = field(hash=False, default_factory=dict)
    """By device name and reference kernel, this run and every earlier one, oldest first: medians over the cases."""
    usual_references: Mapping[tuple[str, str, str, str], float] = field(hash=False, default_factory=dict)
    """By device name, case key, timer and reference kernel, its usual median: over the runs before."""
    incidents: tuple[Incident, ...] = ()
    """Those that stood after the run, acknowledged or not, and those that it found over."""
    marks: tuple[Mark, ...] = ()
    """What people said of any series, in order."""
    tuned_sets: tuple[ListedSet, ...] = ()
    """What costs most first; () for a run that has listed none."""
    missing_cases: Mapping[str, Case] = field(hash=False, default_factory=dict)
    """By key, those of series that were judged and not measured."""
