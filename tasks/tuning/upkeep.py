"""The tuning of a night: every set that its measurements tell of, and the stale ones retuned while a budget lasts."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from kernels.moe.vllm_config_files import ConfigFile, Reading
from kernels.moe.vllm_configs import TUNED_FOLDER_VARIABLE, shipped_folder, tuned_folder
from kernels.spec import Case
from kernels.timing.timers import timers_for
from tasks.errors import TunedFileError, TuningError, UsageError, WorkerError
from tasks.lines import print_line
from tasks.planning.cases import Selection
from tasks.planning.entries import Suite
from tasks.pool import WorkerPool
from tasks.records import Measurement, Run, Status, WorkUnit
from tasks.storage.notebook import Notebook
from tasks.storage.store import Store
from tasks.tuning.files import list_config_files
from tasks.tuning.lanes import opening_lanes, start_none
from tasks.tuning.listed import ListedSet, tell_states
from tasks.tuning.neighbours import time_neighbours
from tasks.tuning.plan import Effort
from tasks.tuning.retuning import BATCH_SIZES, FOLDER, THOROUGH, Request, launcher_of, provenance_of, retune, set_key_of
from tasks.tuning.sets import Provenance, SetKey, SetState
from tasks.tuning.staleness import (
    OURS,
    RIVALS,
    SHIPPED,
    TUNED,
    Loss,
    TunedSet,
    add_losses,
    is_tunable,
    key_of,
    known_from_files,
    list_tuned_sets,
    sort_sets,
)

Tell = Callable[[str], None]
Files = Mapping[str, Sequence[ConfigFile]]
"""By the provider that reads them."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a night searches."""

    seconds: float
    """Of all its searches together."""
    effort: Effort = THOROUGH
    """Of each."""
    batch_sizes: tuple[int, ...] = BATCH_SIZES


def choose_budget(suite: Suite, selection: Selection, asked: float | None) -> float:
    """Seconds that a run may search for: what was asked for, else the suite's, and none where it was narrowed.

    Raises:
        UsageError: less than none was asked for.
    """
    if asked is not None:
        if not asked >= 0:
            raise UsageError(f"--tuning-seconds {asked:g} is below 0; 0 only lists stale sets")
        return asked
    return suite.tuning_seconds if selection == Selection() else 0.0


def list_sets(store: Store, run: Run, files: Files) -> list[TunedSet]:
    """Every set of the run's shapes, what costs most first."""
    measurements = store.measurements(run.run_id)
    cases, hosts = map_cases(measurements), {host.device.name: host for host in store.hosts(run.run_id)}

    def current(key: SetKey) -> Provenance:
        return provenance_of(cases[key], launcher_of(key.provider), hosts[key.device_name])

    return list_tuned_sets(measurements, find_known(store.notebook, files), current)


def keep_sets(store: Store, run: Run, sets: Sequence[TunedSet]) -> None:
    """Put them into the store, in place of those that were listed of the run before."""
    store.notebook.keep_sets(run.run_id, [ListedSet(s.key, s.state, s.reasons, s.lost_us) for s in sets])


def map_cases(measurements: Sequence[Measurement]) -> dict[SetKey, Case]:
    """By every set that may serve it, a measured case, with as few options as there is."""
    found: dict[SetKey, Case] = {}
    for measurement in sorted(measurements, key=lambda m: (len(m.check.case.options), m.check.case.key)):
        case = measurement.check.case
        for provider in RIVALS:
            if is_tunable(case.layer, provider):
                found.setdefault(key_of(case.layer, provider, measurement.device.name), case)
    return found


def read_files(tell: Tell) -> Files:
    """What vLLM has and the user tuned; tells of what cannot be used."""
    readings: dict[str, list[Reading]] = {}
    for provider, folder in {SHIPPED: shipped_folder(), TUNED: tuned_folder()}.items():
        try:
            readings[provider] = list_config_files(folder) if folder else []
        except TunedFileError as error:
            tell(f"not read: {error}")
    for reading in (reading for found in readings.values() for reading in found):
        for fault in reading.faults:
            tell(f"not read: {fault.line}")
    return {provider: [reading.file for reading in found if reading.file] for provider, found in readings.items()}


def find_file(files: Files, key: SetKey) -> ConfigFile | None:
    """The file of a set; None where it has none, or nothing of it can be used."""
    found = (file for file in files.get(key.provider, ()) if file.key == key.config_key and file.configs)
    return next(found, None)


def find_known(notebook: Notebook, files: Files) -> Callable[[SetKey], Provenance | None]:
    """What sets were tuned with: as files say, and for what was tuned here as the store does."""
    from_files = known_from_files(files)

    def known(key: SetKey) -> Provenance | None:
        tuned = notebook.find_tuned(key)
        if key.provider == OURS:
            return tuned.provenance if tuned else None
        file = find_file(files, key) if key.provider == TUNED else None
        is_ours = file and tuned and all(file.configs.get(size) == config for size, config in tuned.configs.items())
        return tuned.provenance if is_ours and tuned else from_files(key)

    return known


def compare_neighbours(
    sets: Sequence[TunedSet], files: Files, store: Store, run: Run, pool: WorkerPool, deadline: float, tell: Tell
) -> list[TunedSet]:
    """The same sets; those that nothing beat so far are held against their own neighbours until the deadline.

    Args:
        deadline: as time.monotonic counts.
    """
    measurements = store.measurements(run.run_id)
    cases, hosts = map_cases(measurements), {host.device.name: host for host in store.hosts(run.run_id)}
    compared = []
    for tuned in sets:
        key, losses = tuned.key, list[Loss]()
        file = find_file(files, key) if tuned.state in (SetState.FRESH, SetState.UNKNOWN) else None
        if file and time.monotonic() < deadline:
            case, device_type = cases[key], hosts[key.device_name].device.type
            unit = make_unit(case, key.provider, device_type, list_batch_sizes(measurements, key))
            try:
                with pool.lend(key.device_name) as workers, opening_lanes(workers, start_none, unit, run.seed) as lanes:
                    losses = time_neighbours(file, unit.cases, lanes)
            except (TuningError, WorkerError) as failure:
                tell(f"not compared: {key.label}: {failure}")
        compared.append(add_losses(tuned, losses))
    return sort_sets(compared)


def list_batch_sizes(measurements: Sequence[Measurement], key: SetKey) -> list[int]:
    """Those at which a set was timed."""
    timed = (m for m in measurements if m.status is Status.OK and m.check.provider == key.provider)
    own = (m.check.case for m in timed if key_of(m.check.case.layer, key.provider, m.device.name) == key)
    return sorted({case.num_tokens for case in own})


def tell_sets(sets: Sequence[TunedSet], tell: Tell) -> None:
    """A line for each set that is not fresh, and how many there are of each kind."""
    for tuned in sets:
        if tuned.state is not SetState.FRESH:
            lost = f"; {tuned.lost_us:.1f} us lost" if tuned.lost_us else ""
            tell(f"{tuned.state} configs: {tuned.key.label}: {'; '.join(tuned.reasons)}{lost}")
    tell(f"tuning: {len(sets)} sets of configurations: {tell_states([tuned.state for tuned in sets])}")


def retune_stale(
    sets: Sequence[TunedSet], store: Store, run: Run, pool: WorkerPool, console: Console, save_dir: Path, budget: Budget
) -> int:
    """Retune what is stale, what costs most first, until the seconds are spent; what fails costs its own set.

    Returns:
        How many sets were retuned.
    """
    cases = map_cases(store.measurements(run.run_id))
    hosts = {host.device.name: host for host in store.hosts(run.run_id)}
    deadline, done = time.monotonic() + budget.seconds, dict[SetKey, bool]()

    def tell(line: str) -> None:
        print_line(console, line)

    for tuned in sets:
        case, left = cases[tuned.key], deadline - time.monotonic()
        key = set_key_of(case, tuned.key.provider, tuned.key.device_name)
        if tuned.state is not SetState.STALE or key in done:
            continue
        if left <= 0:
            tell(f"not retuned: {tuned.key.label}: the {budget.seconds:.0f} s of tuning are spent")
            continue
        found, now = store.notebook.find_tuned(key), provenance_of(case, key.provider, hosts[key.device_name])
        if found and found.provenance == now and found.configs.keys() >= set(budget.batch_sizes):
            tell(f"not retuned: {tuned.key.label}: a search with the same code has ended{where_it_is(key, save_dir)}")
            continue
        unit = make_unit(case, key.provider, hosts[key.device_name].device.type, budget.batch_sizes)
        request = Request(unit, save_dir, run.seed, replace(budget.effort, most_seconds=left))
        try:
            retuned = retune(request, pool, key.device_name, store.notebook, console)
        except (TuningError, WorkerError) as failure:
            tell(f"not retuned: {tuned.key.label}: {failure}")
            done[key] = False
        else:
            num_replaced = sum(outcome.is_replaced for outcome in retuned.outcomes)
            tell(f"retuned {key.label}: {num_replaced} batch sizes replaced; {retuned.summary_path}")
            done[key] = True
    return sum(done.values())


def where_it_is(key: SetKey, save_dir: Path) -> str:
    """What a person does to use what was found, if that is in a file."""
    folder = save_dir / FOLDER
    if key.provider == TUNED and (folder / key.config_key.file_name).exists():
        return f"; vLLM reads what it found with {TUNED_FOLDER_VARIABLE}={folder}"
    return ""


def make_unit(case: Case, provider: str, device_type: str, batch_sizes: Sequence[int]) -> WorkUnit:
    """A case's layer at all batch sizes, for a search."""
    cases = tuple(replace(case, num_tokens=size) for size in batch_sizes)
    return WorkUnit(case.layer, cases, (launcher_of(provider),), (timers_for(device_type)[0].name,))
