"""What `kernel-nightly list` prints."""

from pathlib import Path

from flows.coverage import coverage_lines
from kernels.registry import kernels
from tasks.commits.refs import SHORT
from tasks.planning.shapes import list_models
from tasks.planning.suites import SUITES
from tasks.storage.comparison_store import ComparisonStore
from tasks.storage.store import Store


def list_lines(what: str, save_dir: Path, parquet: Path | None = None) -> list[str]:
    """One line per model, kernel, provider, scheme, option, timer, suite, run or comparison; "coverage" is a table.

    Args:
        parquet: what `kernel-nightly export` wrote, read instead of the database of save_dir.
    """
    match what:
        case "models":
            return list(list_models())
        case "suites":
            return [f"{suite.name}: {suite.description}" for suite in SUITES.values()]
        case "runs":
            return list_runs(Store.from_parquet(parquet) if parquet else Store.read(save_dir))
        case "branches":
            return list_comparisons(
                ComparisonStore.from_parquet(parquet) if parquet else ComparisonStore.read(save_dir)
            )
        case "timers":
            from kernels.timing.timers import TIMERS  # imports torch, which takes seconds

            return [f"{timer.name} ({timer.device_type}): {timer.description}" for timer in TIMERS.values()]
        case _:
            return list_declared(what)


def list_declared(what: str) -> list[str]:
    """What the kernels declare, all of which this imports."""
    registry = kernels()
    match what:
        case "kernels":
            return [f"{kernel.name}: {kernel.title}" for kernel in registry.values()]
        case "providers":
            return [f"{kernel.name}: {name}" for kernel in registry.values() for name in kernel.providers]
        case "schemes":
            return [f"{kernel.name}: {scheme}" for kernel in registry.values() for scheme in kernel.schemes]
        case "options":
            options = {(name, values) for kernel in registry.values() for name, values in kernel.options.items()}
            return [f"{name}: {', '.join(values)}" for name, values in sorted(options)]
        case _:
            return coverage_lines()


def list_runs(opened: Store) -> list[str]:
    """One line per stored run, oldest first."""
    with opened as store:
        runs = store.runs()
    return [f"{run.run_id}  {run.suite}  {run.status}  {run.git_commit[:12]}{'+' * run.git_dirty}" for run in runs]


def list_comparisons(opened: ComparisonStore) -> list[str]:
    """One line per comparison of a branch, and of a step of a bisection, oldest first."""
    with opened as store:
        found = store.comparisons()
    return [
        f"{one.comparison_id}  {one.head} ({one.head_commit[:SHORT]}) against {one.base} ({one.base_commit[:SHORT]})  "
        f"{one.status}"
        for one in found
    ]
