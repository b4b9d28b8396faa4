"""One series that changed between two commits -> the commit that did it."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner
from rich.console import Console

from flows.arguments import BUDGET_SECONDS
from flows.attempts import MOST_WORKERS
from flows.branch import compare
from flows.choice import choose_least_change, choose_suite
from flows.culprit import Finding, Step, make_markdown
from flows.pull_request import deliver
from tasks.channels.secrets import hide_secrets
from tasks.commits.bisection import decide, find_culprit, find_size, is_sought
from tasks.commits.comparisons import Comparison, Contrast
from tasks.commits.refs import SHORT, find_commit, list_commits, tell_commit
from tasks.comparison_session import ComparisonSession, open_comparisons
from tasks.errors import WorkerError
from tasks.naming import find_asked
from tasks.records import WorkUnit


@flow(
    name="bisect",
    task_runner=ThreadPoolTaskRunner(max_workers=MOST_WORKERS),  # type: ignore[arg-type]  # Prefect's own hint is off
)
def bisect(
    series: str,
    good: str,
    bad: str = "HEAD",
    least_change: float | None = None,
    budget_seconds: float = BUDGET_SECONDS,
    device: str = "auto",
    save_dir: Path = Path("results"),
    address: str = "",
    markdown: Path | None = None,
) -> Finding:
    """Find the commit that changed a series, by measuring commits beside the good one.

    Args:
        series: an incident's id, or words that only one series has: kernel, scheme, num_tokens=16, provider, timer.
        good: a branch, tag or commit from before the change, on the first-parent line of `bad`.
        bad: one that has it.
        least_change: relative change that is to be told from none; by default 0.01 on a GPU, 0.2 on a CPU.
        budget_seconds: after so long a commit that is still in doubt gets no more sittings.
        device: "cuda", "cpu", or "auto" for a GPU if there is one.
        save_dir: folder of the database, which knows the series and keeps what was measured of each commit.
        address: of a running Ray cluster; empty is RAY_ADDRESS, and without that one is started on this machine.
        markdown: file for what was found.
    Returns:
        What was found.
    Raises:
        UsageError: there is no such series or commit.
        WorkerError: the device of the series is not there.
    """
    console, chosen = Console(), choose_suite("auto", device, address)
    sought = choose_least_change(least_change, budget_seconds, chosen.device_type)
    with (
        hide_secrets(os.environ),
        open_comparisons(chosen.device_type, save_dir, chosen.address, console, budget_seconds) as session,
    ):
        trial = Trial(session, series, find_commit(good, "--good"), sought)
        finding = search(trial, find_commit(bad, "--bad"))
        deliver(make_markdown(finding), "What the bisection has found", console, markdown, os.environ)
    return finding


class Trial:
    """One series on some commits, each beside another; what was measured before is remembered."""

    def __init__(self, session: ComparisonSession, asked: str, good: str, least_change: float) -> None:
        self.series, case, self._seed = find_asked(session.store, asked)
        self.good = good
        self.least_change = least_change
        self.steps: list[Step] = []
        """What was tried, in order."""
        self._session = session
        self._unit = WorkUnit(case.layer, (case,), (self.series.provider,), (self.series.timer,))
        if self.series.device_name not in session.workers.devices():
            there_is = ", ".join(session.workers.devices())
            raise WorkerError(
                f"the series is of {self.series.device_name}, and there is only {there_is}; give --address"
            )

    def compare(self, head: str, base: str, least_change: float) -> Contrast:
        """The series on one commit against another."""
        question = Comparison(
            comparison_id="",
            head="bisect",
            head_commit=head,
            base=base[:SHORT],
            base_commit=base,
            arguments={"series": [self._unit.cases[0].key, self.series.provider, self.series.timer]},
            seed=self._seed,
            least_change=least_change,
            started_at=datetime.now(UTC),
        )
        outcome = self._session.recall(question, self.series)
        is_new = outcome is None
        if outcome is None:
            outcome = compare(self._session, question, [self._unit], [self.series.device_name])
            self._session.workers.refuse_leftovers()
        [contrast] = [contrast for contrast in outcome.contrasts if contrast.series == self.series]
        step = Step(tell_commit(head), tell_commit(base), contrast, is_new)
        if all((step.head, step.base) != (earlier.head, earlier.base) for earlier in self.steps):
            self.steps.append(step)
        return contrast


def search(trial: Trial, bad: str) -> Finding:
    """Whether there is a change at all, the first commit that has it, and that commit beside the one before it."""
    commits = list_commits(trial.good, bad)
    whole = trial.compare(commits[-1], trial.good, trial.least_change)
    finding = Finding(trial.series, tell_commit(trial.good), tell_commit(bad), whole.state, ())
    if not is_sought(whole):
        return replace(finding, steps=tuple(trial.steps))
    sought = find_size(whole, trial.least_change)
    culprit = find_culprit(
        trial.good, commits, lambda commit: decide(trial.compare(commit, trial.good, sought), whole.state)
    )
    is_one = len(culprit.suspects) == 1
    evidence = trial.compare(culprit.commit, culprit.before, trial.least_change) if is_one else None
    suspects = tuple(map(tell_commit, culprit.suspects))
    return replace(finding, steps=tuple(trial.steps), culprit=culprit, suspects=suspects, evidence=evidence)
