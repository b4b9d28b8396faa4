"""A branch against its base: both run on the same devices in the same minutes, and a pull request is told of it."""

import os
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner
from rich.console import Console

from flows.arguments import BUDGET_SECONDS
from flows.attempts import MOST_WORKERS, attempt, wait_for
from flows.choice import choose_least_change, choose_suite
from flows.pull_request import deliver, make_markdown
from tasks.channels.secrets import hide_secrets
from tasks.commits.comparisons import Comparison
from tasks.commits.paired import LOOKS
from tasks.commits.refs import find_branch, find_commit
from tasks.comparison_session import ComparisonSession, Outcome, noting_the_end, open_comparisons
from tasks.planning.cases import Selection
from tasks.records import WorkUnit
from tasks.session import new_run, tell_left_out
from tasks.stages import list_cases, resolve_shapes
from tasks.workers import Worker

WHOLE_SUITE = Selection()
WORKTREE = "uncommitted work"
"""What a comparison of it is called after, behind the branch's name."""


@flow(
    name="branch",
    task_runner=ThreadPoolTaskRunner(max_workers=MOST_WORKERS),  # type: ignore[arg-type]  # Prefect's own hint is off
)
def branch(
    head: str = "HEAD",
    base: str = "main",
    worktree: bool = False,
    suite: str = "auto",
    selection: Selection = WHOLE_SUITE,
    seed: int = 0,
    least_change: float | None = None,
    budget_seconds: float = BUDGET_SECONDS,
    device: str = "auto",
    save_dir: Path = Path("results"),
    address: str = "",
    markdown: Path | None = None,
) -> Outcome:
    """Measure a branch against its base and say what it changes.

    Args:
        head: the branch, tag or commit that is asked about.
        base: the branch, tag or commit that it is measured against.
        worktree: asks about the uncommitted work in the checkout instead of `head`.
        suite: name of a suite; "auto" is nightly on a GPU and smoke without one.
        selection: what replaces or narrows the suite's own choices.
        seed: of weights and inputs, the same on both sides.
        least_change: relative change that is to be told from none; by default 0.01 on a GPU, 0.2 on a CPU.
        budget_seconds: after so long a layer whose series are still in doubt gets no more sittings.
        device: "cuda", "cpu", or "auto" for a GPU if there is one.
        save_dir: folder of the database.
        address: of a running Ray cluster; empty is RAY_ADDRESS, and without that one is started on this machine.
        markdown: file for the pull request's text.
    Returns:
        What was found; it is in the database too, under the branch's name and apart from every night.
    Raises:
        UsageError: there is no such branch, suite or device.
        WorkerError: no worker is left for some units; all others are stored and told.
    """
    console = Console()
    chosen = choose_suite(suite, device, address)
    sought = choose_least_change(least_change, budget_seconds, chosen.device_type)
    shapes = resolve_shapes(chosen.suite, selection)
    plan = list_cases(chosen.suite, shapes, selection, chosen.device_type)
    tell_left_out(console, plan)
    run = new_run(chosen.suite.name, selection, chosen.device_type, seed)
    with (
        hide_secrets(os.environ),
        open_comparisons(chosen.device_type, save_dir, chosen.address, console, budget_seconds) as session,
    ):
        question = Comparison(
            comparison_id="",
            head=name_head(head, worktree),
            head_commit=session.archive.take_snapshot() if worktree else find_commit(head, "branch"),
            base=base,
            base_commit=find_commit(base, "--base"),
            arguments={"suite": run.suite, **run.arguments},
            seed=seed,
            least_change=sought,
            started_at=datetime.now(UTC),
        )
        outcome = compare(session, question, plan.units, session.workers.devices())
        deliver(make_markdown(outcome), "What the branch changes", console, markdown, os.environ)
    session.workers.refuse_leftovers()
    return outcome


def name_head(head: str, worktree: bool) -> str:
    """What a comparison is called after: HEAD is the branch that is checked out, if there is one."""
    if worktree:
        return f"{find_branch()}, {WORKTREE}"
    return find_branch() if head == "HEAD" else head


def compare(
    session: ComparisonSession, question: Comparison, units: Sequence[WorkUnit], devices: Collection[str]
) -> Outcome:
    """Sittings until every series is told from its base or its time is up; goes on with one that was interrupted."""
    comparison = session.store.begin(question)
    with noting_the_end(session.store, comparison):
        session.announce(comparison, units)
        for look in LOOKS:
            lines = session.list_undecided(comparison, units, devices, look)
            shared = session.workers.share_out(lines, session.tell)
            wait_for([attempt(session, worker, sit_until, comparison, unit, look) for unit, worker in shared])
        return session.conclude(comparison)


@task(name="sit", task_run_name="{unit.layer.kernel} {unit.layer.label}, {look} sittings", cache_policy=NO_CACHE)
def sit_until(session: ComparisonSession, worker: Worker, comparison: Comparison, unit: WorkUnit, look: int) -> None:
    """One unit on both commits until it has so many sittings, into the store."""
    with session.workers.returning(worker, unit):
        session.sit_until(comparison, worker, unit, look)
