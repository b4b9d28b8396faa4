"""The stages of a run as Prefect tasks: thin wrappers around plain functions, and their clock.

They stand in one file so that worker processes, which import the plain functions, never import Prefect.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import alerts, evidence, measure, retrial
from tasks.channels.files import AlertFiles
from tasks.judgement import verdicts
from tasks.judgement.incidents import Alert
from tasks.measure import UnitBench
from tasks.planning import cases
from tasks.planning.entries import Suite
from tasks.records import Check, Measurement, ModelShape, Suspect, UnitResult, Verdict, WeightsReceipt, WorkUnit
from tasks.session import Session, Workshop
from tasks.tuning import retuning, staleness, upkeep
from tasks.workers import Worker


@task(name="resolve model shapes", cache_policy=NO_CACHE)
def resolve_shapes(suite: Suite, selection: cases.Selection) -> tuple[ModelShape, ...]:
    """Models of the suite, or of the selection, as the sizes one rank computes with."""
    return cases.resolve_shapes(suite, selection)


@task(name="list cases", cache_policy=NO_CACHE)
def list_cases(
    suite: Suite, shapes: tuple[ModelShape, ...], selection: cases.Selection, device_type: str
) -> cases.Plan:
    """Work units of the run, each with its cases and timers, and what does not fit."""
    return cases.plan_units(suite, shapes, selection, device_type)


@task(name="measure ceilings", cache_policy=NO_CACHE)
def measure_ceilings(session: Session, bench: UnitBench) -> None:
    """Copy and GEMM rates of the worker's device, into the store."""
    session.progress.begin_stage("measuring ceilings", bench.unit)
    with session.clock.measure("measure ceilings"):
        ceilings, reason = bench.measure_ceilings(session.run.run_id)
        session.store.commit_ceilings(ceilings)
    if reason:
        told = f"no ceilings of {bench.host.device.name}: {reason}; shares of the floor stay empty"
        session.tell(told)


@task(name="generate weights", cache_policy=NO_CACHE)
def generate_weights(session: Session, bench: UnitBench) -> WeightsReceipt | None:
    """Quantized weights of the unit, on its worker."""
    session.progress.begin_stage("generating weights", bench.unit)
    with session.clock.measure("generate weights"), bench.clock.measure("generate weights"):
        return bench.load()


@task(name="verify", cache_policy=NO_CACHE)
def verify(session: Session, bench: UnitBench) -> list[Check]:
    """Every provider of the unit against the reference."""
    session.progress.begin_stage("verifying", bench.unit)
    with session.clock.measure("verify"), bench.clock.measure("verify"):
        return measure.check_unit(bench, session.progress.tell)


@task(name="time", cache_policy=NO_CACHE)
def time_providers(
    session: Session, bench: UnitBench, receipt: WeightsReceipt | None, checks: list[Check]
) -> UnitResult:
    """What passed, timed with every timer of the unit: with that, the unit is measured."""
    session.progress.begin_stage("timing", bench.unit)
    run_id = session.run.run_id
    with session.clock.measure("time"), bench.clock.measure("time"):
        measurements, references = measure.time_unit(bench, checks, run_id, session.progress.tell)
    cost = bench.take_cost(run_id)
    result = UnitResult(bench.host, receipt, tuple(measurements), tuple(references), cost)
    session.tell_of_missing_clocks(result)
    return result


@task(name="persist", cache_policy=NO_CACHE)
def persist(session: Session, unit: WorkUnit, result: UnitResult) -> None:
    """Commit the unit: all of it or nothing."""
    with session.clock.measure("persist"):
        session.store.commit_unit(session.run.run_id, result)
    session.progress.end_unit(unit, result.host.device.name, count_statuses(result.measurements))


@task(name="retune stale configs", cache_policy=NO_CACHE)
def retune_stale_configs(session: Session, save_dir: Path, seconds: float) -> list[staleness.TunedSet]:
    """The sets of configurations of tonight's shapes; what is stale is retuned while the seconds last."""
    store, run, workers, deadline = session.store, session.run, session.workers, time.monotonic() + seconds
    with session.clock.measure("find stale configs"):
        files = upkeep.read_files(session.tell)
        sets = upkeep.list_sets(store, run, files)
        if seconds:
            sets = upkeep.compare_neighbours(sets, files, store, run, workers, deadline, session.tell)
        upkeep.keep_sets(store, run, sets)
    upkeep.tell_sets(sets, session.tell)
    if seconds:
        with session.clock.measure("retune stale configs"):
            budget = upkeep.Budget(max(0.0, deadline - time.monotonic()))
            upkeep.retune_stale(sets, store, run, workers, session.console, save_dir, budget)
    return sets


@task(
    name="retune", task_run_name="retune {request.unit.layer.kernel} {request.unit.layer.label}", cache_policy=NO_CACHE
)
def retune_layer(workshop: Workshop, request: retuning.Request) -> list[retuning.Retuned]:
    """One layer on every kind of device there is, side by side on all workers of it."""
    return [
        retuning.retune(request, workshop.workers, device, workshop.store.notebook, workshop.console)
        for device in workshop.workers.devices()
    ]


@task(name="find suspects", cache_policy=NO_CACHE)
def find_suspects(session: Session) -> list[Suspect]:
    """The series whose times seem to have changed, or to have changed back."""
    with session.clock.measure("find suspects"):
        measurements = session.store.measurements(session.run.run_id)
        session.past = evidence.gather_past(session.store, session.run, measurements)
        suspects = evidence.gather_suspects(session.store, session.past, measurements)
    if suspects:
        session.tell(f"{len(suspects)} series seem to have changed: measuring them again")
    return suspects


@task(name="measure again", cache_policy=NO_CACHE)
def measure_again(session: Session, unit: WorkUnit, worker: Worker, suspects: Sequence[Suspect]) -> None:
    """The suspects of one layer, beside their last good configuration and the code of before, into the store."""
    with session.clock.measure("measure again"):
        retrials = retrial.measure_again(worker, unit, suspects, session.run, session.archive)
        session.store.journal.commit_retrials(retrials)


@task(name="judge", cache_policy=NO_CACHE)
def judge(session: Session) -> list[Verdict]:
    """A verdict for every series of the run, and for those that are missing."""
    with session.clock.measure("judge"):
        run, store = session.run, session.store
        measurements = store.measurements(run.run_id)
        left = session.workers.list_left()
        session.past = evidence.gather_past(store, run, measurements, left, session.past)
        found = verdicts.judge_night(measurements, session.past)
        store.journal.commit_verdicts(run.run_id, found)
    return found


@task(name="alert", cache_policy=NO_CACHE)
def alert(session: Session, judged: Sequence[Verdict], files: AlertFiles) -> list[Alert]:
    """What is new, worse, over, or due to be told again, through every channel."""
    with session.clock.measure("alert"):
        past = session.past or evidence.gather_past(session.store, session.run, ())
        news = evidence.follow_incidents(session.store, past, judged)
        letters = alerts.write_letters(news.alerts, session.channels)
        session.store.journal.commit_incidents(news.incidents, letters)
        told = alerts.deliver(session.store.journal, session.channels)
        standing = session.store.journal.incidents_of(session.run.run_id)
        ended = replace(session.run, status="partial" if session.workers.num_left else "complete")
        told += alerts.write_summaries(files, os.environ, ended, judged, standing)
    for delivery in told:
        if delivery.error or (delivery.num_sent and delivery.channel != "console"):
            session.tell(f"alerts: {delivery.line}")
    return list(news.alerts)


def count_statuses(measurements: Sequence[Measurement]) -> str:
    """E.g. "12 ok, 3 unsupported"."""
    counts: dict[str, int] = {}
    for measurement in measurements:
        counts[measurement.status] = counts.get(measurement.status, 0) + 1
    return ", ".join(f"{count} {status}" for status, count in counts.items())
