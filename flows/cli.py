"""The console command kernel-nightly. Heavy imports wait until a command needs them, so that --help is quick."""

import argparse
import atexit
import gc
import os
import signal
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from flows.arguments import make_parser, read_alert_files, read_selection
from kernels.errors import BenchmarkError
from tasks.channels.files import refuse_unwritable
from tasks.errors import UsageError
from tasks.lines import print_line

if TYPE_CHECKING:
    from tasks.storage.store import Store

PLAIN_WIDTH = 160
"""Columns where the output is not a terminal: the widest rows of `show` fit."""
NEW_OBJECTS = 50_000
"""So many before Python looks for garbage among them: with its own 700 that is a fifth of the seconds that importing
torch, Prefect and transformers takes."""


def script() -> None:
    """The process behind the command: `main`, and a quiet end."""
    begin_process()
    sys.exit(main())


def begin_process() -> None:
    """What a process needs that is to call `main`: it starts fast, ends quietly, and by SIGTERM as by Ctrl-C."""
    gc.set_threshold(NEW_OBJECTS)
    end_quietly()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who ends a run by it leaves as little behind as Ctrl-C


def end_quietly() -> None:
    """Drop what is printed after the last exit handler: duckdb's bindings complain there of Prefect's lasting threads.

    Call it first: exit handlers run in reverse order.
    """
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = make_parser().parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    try:
        return COMMANDS[arguments.command](arguments, console)
    except BenchmarkError as error:
        sys.stderr.write(f"kernel-nightly: {error}\n")
        return error.exit_code
    except BaseException as error:
        if not is_of_an_interrupt(error):
            raise
        sys.stderr.write("kernel-nightly: interrupted; what was measured is kept\n")
        return 130


def is_of_an_interrupt(error: BaseException) -> bool:
    """Whether it is Ctrl-C or SIGTERM, or came up while one was told on, say to a Prefect server that has ended too."""
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "TerminationSignal":  # Prefect's, of SIGTERM
        return True
    return error.__context__ is not None and is_of_an_interrupt(error.__context__)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Measure a suite; bad input is found before anything is started."""
    from flows.choice import choose_suite
    from tasks.channels.settings import open_channels
    from tasks.planning import cases
    from tasks.pool import MOST_COMPANIONS_AHEAD
    from tasks.session import new_run
    from tasks.storage.store import Store
    from tasks.tuning.upkeep import choose_budget

    selection = read_selection(arguments)
    chosen = choose_suite(arguments.suite, arguments.device, arguments.address)
    cases.plan_units(chosen.suite, cases.resolve_shapes(chosen.suite, selection), selection, chosen.device_type)
    choose_budget(chosen.suite, selection, arguments.tuning_seconds)
    files = read_alert_files(arguments)
    open_channels(files, os.environ, console)
    run_to_be = new_run(chosen.suite.name, selection, chosen.device_type, arguments.seed, arguments.run_id)
    Store.refuse_early(arguments.save_dir, run_to_be)

    with starting_early(chosen.device_type, chosen.address, most_companions=MOST_COMPANIONS_AHEAD):
        from flows.nightly import nightly, read_night
        from flows.report import exit_code, print_report
    site = nightly(
        suite=arguments.suite,
        selection=selection,
        seed=arguments.seed,
        device=arguments.device,
        save_dir=arguments.save_dir,
        address=arguments.address,
        run_id=arguments.run_id,
        alert_files=files,
        tuning_seconds=arguments.tuning_seconds,
    )
    night = read_night(arguments.save_dir, arguments.run_id)
    print_report(console, night)
    print_line(console, f"site: {site}")
    return exit_code(night)


def branch(arguments: argparse.Namespace, _console: Console) -> int:
    """Measure a branch against its base; bad input is found before anything is started."""
    from flows.choice import choose_least_change, choose_suite
    from tasks.commits.refs import find_commit
    from tasks.planning import cases
    from tasks.storage.comparison_store import ComparisonStore

    selection = read_selection(arguments)
    chosen = choose_suite(arguments.suite, arguments.device, arguments.address)
    choose_least_change(arguments.least_change, arguments.budget, chosen.device_type)
    cases.plan_units(chosen.suite, cases.resolve_shapes(chosen.suite, selection), selection, chosen.device_type)
    if arguments.worktree and arguments.head != "HEAD":
        raise UsageError(f"--worktree measures the checkout as it is: leave out {arguments.head}, or check it out")
    find_commit(arguments.head, "branch")
    find_commit(arguments.base, "--base")
    refuse_unwritable(arguments.markdown, "--markdown")
    ComparisonStore.refuse_early(arguments.save_dir)
    with starting_early(chosen.device_type, chosen.address):
        from flows.branch import branch as compare_branch
        from flows.pull_request import exit_code
    outcome = compare_branch(
        head=arguments.head,
        base=arguments.base,
        worktree=arguments.worktree,
        suite=arguments.suite,
        selection=selection,
        seed=arguments.seed,
        least_change=arguments.least_change,
        budget_seconds=arguments.budget,
        device=arguments.device,
        save_dir=arguments.save_dir,
        address=arguments.address,
        markdown=arguments.markdown,
    )
    return exit_code(outcome)


def bisect(arguments: argparse.Namespace, _console: Console) -> int:
    """Find the commit that changed a series; bad input is found before anything is started."""
    from flows.choice import choose_least_change, choose_suite
    from tasks.commits.refs import find_commit, list_commits
    from tasks.naming import find_asked
    from tasks.storage.comparison_store import ComparisonStore

    chosen = choose_suite("auto", arguments.device, arguments.address)
    choose_least_change(arguments.least_change, arguments.budget, chosen.device_type)
    list_commits(find_commit(arguments.good, "--good"), find_commit(arguments.bad, "--bad"))
    refuse_unwritable(arguments.markdown, "--markdown")
    words = " ".join(arguments.series)
    with closing(ComparisonStore.read(arguments.save_dir)) as store:
        find_asked(store, words)
    ComparisonStore.refuse_early(arguments.save_dir)
    with starting_early(chosen.device_type, chosen.address):
        from flows.bisect import bisect as find_commit_of
        from flows.culprit import exit_code
    finding = find_commit_of(
        series=words,
        good=arguments.good,
        bad=arguments.bad,
        least_change=arguments.least_change,
        budget_seconds=arguments.budget,
        device=arguments.device,
        save_dir=arguments.save_dir,
        address=arguments.address,
        markdown=arguments.markdown,
    )
    return exit_code(finding)


def retune(arguments: argparse.Namespace, _console: Console) -> int:
    """Search launch configurations; bad input is found before anything is started."""
    from flows.choice import choose_device
    from tasks.storage.store import Store
    from tasks.tuning.requests import list_requests

    selection = read_selection(arguments)
    device_type, address = choose_device(arguments.device, arguments.address)
    refuse_unwritable(arguments.markdown, "--markdown")
    list_requests(selection, device_type, arguments.save_dir, arguments.seed, arguments.budget)
    Store.refuse_early(arguments.save_dir)
    with starting_early(device_type, address, most_companions=1):  # a search starts those that it needs
        from flows.retune import retune as retune_layers
    retune_layers(
        selection=selection,
        seed=arguments.seed,
        device=arguments.device,
        save_dir=arguments.save_dir,
        address=arguments.address,
        budget=arguments.budget,
        markdown=arguments.markdown,
    )
    return 0


@contextmanager
def starting_early(device_type: str, address: str, *, most_companions: int = 0) -> Iterator[None]:
    """Start Prefect's server and the workers while the block imports what the flow needs."""
    set_prefect_defaults()
    from flows.server import starting_server
    from tasks.channels.secrets import hide_secrets
    from tasks.pool import abandon_workers, start_workers

    try:
        with starting_server():
            yield
            with hide_secrets(os.environ):
                start_workers(device_type, address, most_companions=most_companions)
    except BaseException:
        abandon_workers()
        raise


def set_prefect_defaults() -> None:
    """Settings Prefect reads when it is imported: quiet, no analytics, and its own folder unless a server is named."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # failures end in one line, or in Python's traceback
    os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")
    if "PREFECT_API_URL" in os.environ:
        return
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "3")  # 5 are 85 s, of a server here that has ended with us
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("PREFECT_HOME") or cache / "kernel-nightly" / "prefect")
    try:
        home.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only
        tempfile.TemporaryFile(dir=home).close()
    except OSError as error:
        raise UsageError(f"cannot write to {home}: {error.strerror}; set PREFECT_HOME to a writable folder") from error
    os.environ["PREFECT_HOME"] = str(home)
    memo = str(home / "memo_store.toml")  # Prefect's default ignores PREFECT_HOME
    os.environ.setdefault("PREFECT_SERVER_MEMO_STORE_PATH", memo)


def show(arguments: argparse.Namespace, console: Console) -> int:
    """Print a run as tables."""
    from flows.report import exit_code, print_report
    from flows.tables import print_tables

    with closing(open_source(arguments)) as store:
        night = store.night(arguments.run_id)
    if arguments.table:
        print_tables(console, night, arguments.table)
    else:
        print_report(console, night)
    return exit_code(night)


def changes(arguments: argparse.Namespace, console: Console) -> int:
    """Print what differs between two runs."""
    from flows.changes import print_changes, read_nights

    with closing(open_source(arguments)) as store:
        older, newer = read_nights(store, arguments.run_ids)
    print_changes(console, older, newer)
    return 0


def incidents(arguments: argparse.Namespace, console: Console) -> int:
    """Print what stands."""
    from flows.answers import print_incidents

    with closing(open_source(arguments)) as store:
        found = store.journal.incidents() if arguments.all else store.journal.standing_incidents()
    shown = [incident for incident in found if arguments.all or incident.is_open]
    print_incidents(console, shown)
    if not shown:
        print_line(console, "no incident" if arguments.all else "no incident is open")
    return 0


def acknowledge(arguments: argparse.Namespace, console: Console) -> int:
    """Store that incidents are expected."""
    from flows.answers import acknowledge as store_acknowledgement
    from tasks.storage.store import Store

    with Store.reopen(arguments.save_dir) as store:
        done = store_acknowledgement(store, arguments.incident_ids, arguments.reason)
        store.publish()
    for incident in done:
        print_line(console, f"acknowledged {incident.incident_id}: {incident.headline}")
    return 0


def baseline(arguments: argparse.Namespace, console: Console) -> int:
    """Store that a run begins the baseline."""
    from flows.answers import mark_baseline
    from tasks.storage.store import Store

    with Store.reopen(arguments.save_dir) as store:
        chosen = arguments.kernel, arguments.provider, arguments.case
        marked = mark_baseline(store, arguments.run_id, arguments.reason, *chosen)
        store.publish()
    print_line(console, f"{len(marked)} series are compared with no night before run {marked[0].first_run}")
    return 0


def site(arguments: argparse.Namespace, console: Console) -> int:
    """Draw the site of a run."""
    from dashboards.site import write_site

    with closing(open_source(arguments)) as store:
        night = store.night(arguments.run_id)
    page = write_site(night, arguments.out or arguments.save_dir / "site")
    print_line(console, f"site: {page}")
    if arguments.open:
        webbrowser.open(page.resolve().as_uri())
    return 0


def export(arguments: argparse.Namespace, console: Console) -> int:
    """Write every table as Parquet."""
    from tasks.storage.store import Store

    with closing(Store.read(arguments.save_dir)) as store:
        store.export_parquet(arguments.folder)
    print_line(console, f"Parquet: {arguments.folder}")
    return 0


def list_names(arguments: argparse.Namespace, console: Console) -> int:
    """Print what exists, one a line."""
    from flows import listings

    lines = listings.list_lines(arguments.what, arguments.save_dir, arguments.parquet)
    for line in lines or [f"no {arguments.what} in {arguments.parquet or arguments.save_dir} yet"]:
        print_line(console, line)
    return 0


def open_source(arguments: argparse.Namespace) -> "Store":
    """The published snapshot, or Parquet tables where --from names them."""
    from tasks.storage.store import Store

    return Store.from_parquet(arguments.parquet) if arguments.parquet else Store.read(arguments.save_dir)


COMMANDS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "run": run,
    "retune": retune,
    "branch": branch,
    "bisect": bisect,
    "show": show,
    "changes": changes,
    "incidents": incidents,
    "acknowledge": acknowledge,
    "baseline": baseline,
    "site": site,
    "export": export,
    "list": list_names,
}
"""What each command calls."""
