"""One layer tuned on the workers of a pool: from what is used today to winners in the store and in vLLM's file.

weights on every worker -> what is used today -> search -> winners into the store -> file, summary
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from kernels.moe.vllm_config_files import Config, ConfigFile, Reading
from kernels.moe.vllm_triton import NOTES
from kernels.source import hash_sources
from kernels.spec import Case
from tasks.checkout import read_git_state
from tasks.errors import TuningError, WorkerRaised
from tasks.lines import print_line
from tasks.pool import WorkerPool
from tasks.progress import SearchProgress
from tasks.records import Host, WorkUnit
from tasks.storage.notebook import Notebook, Search
from tasks.tuning.files import find_entry, read_older, write_config_file
from tasks.tuning.lanes import opening_lanes
from tasks.tuning.plan import Effort, Outcome, Task
from tasks.tuning.search import run_search
from tasks.tuning.sets import Provenance, SetKey
from tasks.tuning.space import distinct, prune
from tasks.tuning.spaces import VLLM_PROVIDERS, problem_of, space_of
from tasks.tuning.staleness import DEFAULT, OURS, TUNED, key_of
from tasks.tuning.summary import Environment, format_summary, write_summary
from tasks.tuning.trials import Replay
from tasks.workers import Worker

BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096)
"""As vLLM's tuner has them, of a shape without a file."""
FOLDER = "tuned_configs"
"""Of a --save-dir: give it to vLLM as VLLM_TUNED_CONFIG_FOLDER."""
THOROUGH = Effort()
ASK_LIMIT_SECONDS = 120.0
"""Of a question about what is used today, which may import vLLM first."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be tuned, and how thoroughly."""

    unit: WorkUnit
    """A layer with its cases, one provider and one timer."""
    save_dir: Path
    seed: int = 0
    effort: Effort = THOROUGH

    @property
    def launcher(self) -> str:
        """The provider that launches given configurations: vLLM's are one kernel."""
        return launcher_of(self.unit.providers[0])


@dataclass(frozen=True, slots=True)
class Retuned:
    """What came of a request."""

    key: SetKey
    outcomes: tuple[Outcome, ...]
    summary: str
    """Markdown."""
    summary_path: Path
    config_path: Path | None
    """vLLM's file; None where nothing was replaced, and for our own kernels, which read none."""

    @property
    def told_file(self) -> str:
        """Where the configurations are, for people."""
        if self.config_path:
            return f"configurations: {self.config_path}"
        if self.key.provider == OURS:
            return "configurations: our own kernels choose theirs in code; the store and the summary have them"
        return "configurations: nothing was replaced, so no file was written"


def launcher_of(provider: str) -> str:
    """The provider that launches given configurations."""
    return DEFAULT if provider in VLLM_PROVIDERS else provider


def set_key_of(case: Case, provider: str, device_name: str) -> SetKey:
    """The set that a search makes: of vLLM's providers it is the user's own."""
    return key_of(case.layer, TUNED if provider in VLLM_PROVIDERS else OURS, device_name)


def provenance_of(case: Case, provider: str, host: Host) -> Provenance:
    """What a set is tuned with on a host."""
    source = f"vllm {host.vllm}" if provider in VLLM_PROVIDERS else hash_sources(case.layer.kernel)
    return Provenance(source, host.triton, space_of(case, provider).sha256)


def retune(request: Request, pool: WorkerPool, device_name: str, notebook: Notebook, console: Console) -> Retuned:
    """Tune a layer on all idle workers of a device, side by side.

    Raises:
        TuningError: the provider cannot run there, no configuration is left, or files cannot be written.
        WorkerError: no worker is left; what was measured is kept.
    """
    key = set_key_of(request.unit.cases[0], request.launcher, device_name)
    older = request.save_dir / FOLDER / key.config_key.file_name
    written = None
    if key.provider == TUNED and older.exists():
        written = read_older(older)  # before hours are spent on what could not be written
    with pool.lend(device_name) as workers:
        unit = replace(request.unit, providers=(request.launcher,))
        with opening_lanes(workers, pool.start_companions, unit, request.seed) as lanes:
            used = find_used(lanes.workers[0], unit.cases, request.launcher)
            for line in used.faults:
                print_line(console, f"not read: {line}")
            provenance = provenance_of(unit.cases[0], request.launcher, lanes.host)
            tasks = [
                make_task(case, request.launcher, lanes.host, used, written, notebook.list_seeds(key, provenance, size))
                for size, case in ((case.num_tokens, case) for case in unit.cases)
            ]
            search = make_search(request, key, provenance, tasks)
            kept = notebook.begin(search)
            if kept:
                print_line(console, f"{key.label}: {len(kept)} answers of this search were kept; it goes on from there")
            numbers = iter(range(len(kept), 10**9))
            bench = Replay(lanes, kept, lambda asked, answer: notebook.keep(search, next(numbers), asked, answer))
            space, num_devices = space_of(unit.cases[0], request.launcher), len(lanes.workers)
            with SearchProgress(console, key.label) as progress:
                outcomes = run_search(space, tasks, bench, request.effort, request.seed, num_devices, progress.tell)
    notebook.finish(search, outcomes)
    kept_entries = {**(used.file.configs if used.file else {}), **(written.configs if written else {})}
    return hand_over(request, key, lanes.host, used.faults, kept_entries, outcomes)


@dataclass(frozen=True, slots=True)
class Used:
    """What a layer is launched with today."""

    defaults: dict[int, Config] = field(hash=False)
    """By number of tokens, what the provider chooses without a file."""
    readings: tuple[Reading, ...] = ()
    """Of vLLM's files for the shape, in the order in which vLLM looks for them."""

    @property
    def file(self) -> ConfigFile | None:
        """The first that can be used."""
        return next((reading.file for reading in self.readings if reading.file and reading.file.configs), None)

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with the files, a line each."""
        return tuple(fault.line for reading in self.readings for fault in reading.faults)

    def find_incumbent(self, batch_size: int) -> Config | None:
        """The entry that vLLM takes."""
        return find_entry(self.file, batch_size) if self.file else None


def find_used(worker: Worker, cases: Sequence[Case], launcher: str) -> Used:
    """Ask a worker that has the layer's weights what it would be launched with.

    Raises:
        TuningError: the provider cannot run there.
    """

    def ask(method: str, *arguments: object) -> Any:
        return worker.call(method, *arguments, limit_seconds=ASK_LIMIT_SECONDS)

    try:
        defaults = {case.num_tokens: strip_notes(ask("find_default", case, launcher)) for case in cases}
        readings = tuple(ask("read_tuned_files", cases[0])) if launcher in VLLM_PROVIDERS else ()
    except WorkerRaised as refused:
        raise TuningError(f"{refused}; see kernel-nightly list coverage") from refused
    return Used(defaults, readings)


def strip_notes(config: Config) -> Config:
    """The configuration without what is noted beside it."""
    return {name: value for name, value in config.items() if name not in NOTES}


def make_task(
    case: Case, launcher: str, host: Host, used: Used, written: ConfigFile | None, seeds: Sequence[Config]
) -> Task:
    """What is searched for one batch size.

    Args:
        written: the file that an earlier search wrote; seeds: what other searches found.
    """
    space, problem = space_of(case, launcher), problem_of(case, launcher, host.device.arch)
    incumbent = used.find_incumbent(case.num_tokens)
    entry = find_entry(written, case.num_tokens) if written and written.configs else None
    known = [space.canonicalize(config, problem) for config in seeds]
    return Task(
        batch_size=case.num_tokens,
        candidates=prune(space, problem),
        incumbent=space.canonicalize(incumbent, problem) if incumbent else None,
        default=space.canonicalize(used.defaults[case.num_tokens], problem),
        seeds=tuple(distinct(config for config in known if not space.refusal(config, problem))),
        written=space.canonicalize(entry, problem) if entry else None,
    )


def make_search(request: Request, key: SetKey, provenance: Provenance, tasks: Sequence[Task]) -> Search:
    """The search, under a digest of all that decides what it asks, but for how long and on how many devices: the
    answers to what is asked with more of either stay true."""
    layer_key, sizes = request.unit.key, tuple(task.batch_size for task in tasks)
    given = [[task.batch_size, task.incumbent, task.default, task.seeds] for task in tasks]
    options = [case.key for case in request.unit.cases]
    decides = [
        asdict(key),
        options,
        asdict(provenance),
        request.seed,
        asdict(replace(request.effort, most_seconds=math.inf)),
        given,
        request.unit.timers,
    ]
    search_id = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    return Search(search_id, key, layer_key, sizes, provenance, request.seed)


def hand_over(
    request: Request,
    key: SetKey,
    host: Host,
    faults: Sequence[str],
    others: Mapping[int, Config],
    outcomes: Sequence[Outcome],
) -> Retuned:
    """Write vLLM's file, if something was replaced, and the summary.

    Args:
        faults: of the files that were read.
        others: what the file says of batch sizes that were not searched: vLLM looks no further than the first file that
            it finds, so that it has every one.
    """
    folder, config_path = request.save_dir / FOLDER, None
    if key.provider == TUNED and any(outcome.is_replaced for outcome in outcomes):
        winners = {outcome.batch_size: outcome.winner for outcome in outcomes}
        config_path = write_config_file(folder, ConfigFile(key.config_key, host.triton, {**others, **winners}))
    name = key.config_key.file_name.removesuffix(".json") if key.provider == TUNED else key.label
    environment = Environment(
        title=name,
        device_name=key.device_name,
        driver=host.driver,
        triton=host.triton,
        torch=host.torch,
        vllm=host.vllm,
        commit=read_git_state()[0],
    )
    summary = format_summary(environment, outcomes) + "".join(f"- not read: {line}\n" for line in faults)
    summary_path = folder / f"{name.replace('/', '_').replace(' ', '_')}.md"
    write_summary(summary_path, summary)
    return Retuned(key, tuple(outcomes), summary, summary_path, config_path)
