"""The nightly: every provider of every kernel of a suite, checked, timed, judged and drawn."""

import os
from collections.abc import Sequence
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner
from rich.console import Console

from dashboards.site import write_site
from flows.artifacts import show_night, show_progress
from flows.attempts import MOST_WORKERS, attempt, wait_for
from flows.choice import choose_suite
from tasks.channels.files import AlertFiles
from tasks.channels.secrets import hide_secrets
from tasks.channels.settings import open_channels
from tasks.measure import UnitBench
from tasks.nights import Night
from tasks.planning.cases import Selection
from tasks.records import Suspect, WorkUnit
from tasks.session import Session, new_run, open_session
from tasks.stages import (
    alert,
    find_suspects,
    generate_weights,
    judge,
    list_cases,
    measure_again,
    measure_ceilings,
    persist,
    resolve_shapes,
    retune_stale_configs,
    time_providers,
    verify,
)
from tasks.storage.store import Store
from tasks.tuning.upkeep import choose_budget
from tasks.workers import Worker

WHOLE_SUITE = Selection()
NO_FILES = AlertFiles()


@flow(
    name="nightly",
    task_runner=ThreadPoolTaskRunner(max_workers=MOST_WORKERS),  # type: ignore[arg-type]  # Prefect's own hint is off
)
def nightly(
    suite: str = "auto",
    selection: Selection = WHOLE_SUITE,
    seed: int = 0,
    device: str = "auto",
    save_dir: Path = Path("results"),
    address: str = "",
    run_id: str = "",
    alert_files: AlertFiles = NO_FILES,
    tuning_seconds: float | None = None,
) -> Path:
    """Measure a suite and say what changed.

    Args:
        suite: name of a suite; "auto" is nightly on a GPU and smoke without one.
        selection: what replaces or narrows the suite's own choices.
        seed: of weights and inputs.
        device: "cuda", "cpu", or "auto" for a GPU if there is one.
        save_dir: folder of the database and the site.
        address: of a running Ray cluster; empty is RAY_ADDRESS, and without that one is started on this machine.
        run_id: resumes that run if it is in the database.
        alert_files: what is written for machines and people besides the channels of the environment.
        tuning_seconds: of searching configurations for stale sets; by default the suite's, and 0 for a part of it.
    Returns:
        The site's front page.
    Raises:
        WorkerError: no worker is left for some units; all others are stored, judged and drawn.
    """
    console = Console()
    chosen = choose_suite(suite, device, address)
    shapes = resolve_shapes(chosen.suite, selection)
    plan = list_cases(chosen.suite, shapes, selection, chosen.device_type)
    run = new_run(chosen.suite.name, selection, chosen.device_type, seed, run_id)
    channels = open_channels(alert_files, os.environ, console)
    with (
        hide_secrets(os.environ),
        open_session(run, plan, chosen.device_type, save_dir, chosen.address, console, channels) as session,
        show_progress(session),
    ):
        wait_for([attempt(session, worker, measure_unit, unit) for unit, worker in session.share_out()])
        retune_stale_configs(session, save_dir, choose_budget(chosen.suite, selection, tuning_seconds))
        suspects = find_suspects(session)
        again = session.share_out_again(suspects)
        wait_for([attempt(session, worker, measure_unit_again, unit, suspects) for unit, worker in again])
        verdicts = judge(session)
        alert(session, verdicts, alert_files)
    site = draw_site(save_dir, session.run.run_id, chosen.site_url)
    session.workers.refuse_leftovers()
    return site


@task(name="measure unit", task_run_name="{unit.layer.kernel} {unit.layer.label}", cache_policy=NO_CACHE)
def measure_unit(session: Session, worker: Worker, unit: WorkUnit) -> None:
    """Weights, checks and times of one unit, on one worker, into the store; before a worker's first, its ceilings."""
    with session.workers.returning(worker, unit):
        session.workers.compile_ahead(worker)
        bench = UnitBench(worker, unit, session.run.seed, session.quarantine)
        if session.lacks_ceilings(bench.host):
            measure_ceilings(session, bench)
        receipt = generate_weights(session, bench)
        checks = verify(session, bench)
        result = time_providers(session, bench, receipt, checks)
        persist(session, unit, result)


@task(name="measure unit again", task_run_name="{unit.layer.kernel} {unit.layer.label} again", cache_policy=NO_CACHE)
def measure_unit_again(session: Session, worker: Worker, unit: WorkUnit, suspects: Sequence[Suspect]) -> None:
    """The suspects of one unit once more, into the store."""
    with session.workers.returning(worker, unit):
        measure_again(session, unit, worker, suspects)


@task(name="draw site", cache_policy=NO_CACHE)
def draw_site(save_dir: Path, run_id: str, site_url: str) -> Path:
    """The site of a run, from the published snapshot."""
    night = read_night(save_dir, run_id)
    site = write_site(night, save_dir / "site")
    show_night(night, site, site_url)
    return site


def read_night(save_dir: Path, run_id: str = "") -> Night:
    """A run out of the published snapshot; the newest without an id."""
    with Store.read(save_dir) as store:
        return store.night(run_id)
