"""From a suite, and what the command line asks for, to units of work.

--model, --tp-size, --batch-size, --option and --timer replace what the suite has, as vLLM's scripts do: with --model
everything that the suite runs, runs on the given models. Every other option narrows.
"""

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar

from kernels.errors import ShapeError
from kernels.spec import Case, Kernel, Layer
from tasks.errors import UnknownNameError, UsageError
from tasks.planning.entries import GridEntry, KernelEntry, ModelEntry, Options, Suite
from tasks.planning.shapes import DTYPES, find_vendored, resolve_model_shapes
from tasks.records import PRECISION, ModelShape, WorkUnit

LEAST_PRECISION = 1e-4
"""Of --precision: event timers do not resolve less."""

_T = TypeVar("_T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Selection:
    """What is to be measured of a suite; an empty field asks for nothing and leaves the suite as it is."""

    __pydantic_config__: ClassVar = {"use_attribute_docstrings": True}  # they describe the fields of Prefect's form

    models: tuple[str, ...] = ()
    """Replace the suite's models: vendored names, folders with a config.json, or org/name on the Hub."""
    tp_sizes: tuple[int, ...] = ()
    """Replace the suite's; without them a model given by name keeps the suite's, and one the suite lacks gets 1."""
    enable_expert_parallel: bool = False
    """Split experts, not their columns, over the ranks."""
    dtype: str = "auto"
    """Of the activations; "auto" is the model's own."""
    batch_sizes: tuple[int, ...] = ()
    """Numbers of tokens (M): replace the suite's."""
    options: tuple[str, ...] = ()
    """NAME=VALUE each: replace the suite's values of an option, where a kernel has it."""
    timers: tuple[str, ...] = ()
    """Replace the suite's: graph, cold and eager on a GPU, wall on a CPU."""
    precision: float = PRECISION
    """Of a median, relative: sampling goes on until its interval is no wider than +- that."""
    limit_k: tuple[int, ...] = ()
    """Keep layers of these hidden sizes, or input features of a linear layer per rank (K)."""
    limit_n: tuple[int, ...] = ()
    """Keep layers of these intermediate sizes, or output features of a linear layer, per rank (N)."""
    kernels: tuple[str, ...] = ()
    """Keep these kernels."""
    providers: tuple[str, ...] = ()
    """Keep these providers."""
    schemes: tuple[str, ...] = ()
    """Keep these quantization schemes."""
    trust_remote_code: bool = False
    """Let a model's own code read its config."""
    model_prefix: str = ""
    """Attribute of the config that holds the language model's."""
    allow_download: bool = False
    """Let a model's config be fetched from the Hub."""

    def __post_init__(self) -> None:
        counts = {"--tp-size": self.tp_sizes, "--batch-size": self.batch_sizes}
        for option, values in {**counts, "--limit-k": self.limit_k, "--limit-n": self.limit_n}.items():
            for value in values:
                if value < 1:
                    raise UsageError(f"{option} {value} is below 1; give whole numbers from 1 up")
        if not LEAST_PRECISION <= self.precision <= 1:
            raise UsageError(f"--precision {self.precision:g} is not between {LEAST_PRECISION:g} and 1; 0.005 is 0.5 %")
        if self.dtype not in DTYPES:
            raise UsageError(f"--dtype {self.dtype!r} is not supported; give one of {', '.join(DTYPES)}")


@dataclass(frozen=True, slots=True)
class Plan:
    """What will run, and what was asked for and will not."""

    units: tuple[WorkUnit, ...]
    left_out: tuple[str, ...]
    """One line each: the combination and why it does not fit."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A layer the suite or the command line asks for, before it is known to fit."""

    kernel: Kernel
    layer: Layer
    entry: KernelEntry
    sizes: Mapping[str, int] = field(hash=False)
    """Every size known of the layer, also those its kernel does not take."""


@dataclass(frozen=True, slots=True)
class _Parallelism:
    """How a model is split over ranks."""

    tp_size: int
    enable_expert_parallel: bool


def resolve_shapes(suite: Suite, selection: Selection) -> tuple[ModelShape, ...]:
    """The model shapes of the suite, or those that the selection puts in their place."""
    shapes = (
        resolve_model_shapes(
            model,
            parallelism.tp_size,
            enable_expert_parallel=parallelism.enable_expert_parallel,
            dtype=selection.dtype,
            trust_remote_code=selection.trust_remote_code,
            model_prefix=selection.model_prefix,
            allow_download=selection.allow_download,
        )
        for model, parallelism in _list_models(suite, selection)
    )
    return _unique(itertools.chain.from_iterable(shapes))


def plan_units(
    suite: Suite,
    shapes: tuple[ModelShape, ...],
    selection: Selection,
    device_type: str,
    registry: Mapping[str, Kernel] | None = None,
) -> Plan:
    """One unit per kernel, layer and scheme, with all its cases; needs no device.

    Args:
        shapes: as `resolve_shapes` gives them for the same suite and selection.
        device_type: "cuda" or "cpu": which timers there are.
        registry: kernels by name; by default every kernel there is.
    Raises:
        UnknownNameError: no such kernel, provider, scheme, option, value or timer; UsageError: a filter leaves nothing,
        or a timer is of another device;
        ShapeError: a combination asked for by scheme does not fit, or nothing fits on one of the shapes.
    """
    known = _find_kernels() if registry is None else registry
    _check_names(selection, known)
    timers = _choose_timers(suite, selection, device_type)
    options = _read_options(selection, known)
    candidates = tuple(_list_candidates(suite, shapes, selection, known))
    if not candidates:
        raise UsageError(f"suite {suite.name} has no layer for the models given; give --model, or another suite")
    candidates, unmatched = _narrow(suite, candidates, selection)
    _refuse_idle_options(candidates, options)
    fitting, unfit = _drop_unfit(candidates, selection)
    return Plan(_make_units(fitting, selection, options, timers), (*unmatched, *unfit))


def _find_kernels() -> Mapping[str, Kernel]:
    from kernels.registry import kernels  # imports every kernel file

    return kernels()


def _choose_timers(suite: Suite, selection: Selection, device_type: str) -> tuple[str, ...]:
    """Names of the timers of the selection, else of the suite, else the device's first."""
    from kernels.timing.timers import TIMERS, timers_for  # imports torch

    usable = [timer.name for timer in timers_for(device_type)]
    chosen = selection.timers or suite.timers or tuple(usable[:1])
    for name in chosen:
        if name not in TIMERS:
            raise UnknownNameError("timer", name, TIMERS)
        if name not in usable:
            raise UsageError(
                f"--timer {name} works on {TIMERS[name].device_type}, this run is on {device_type}; "
                f"give {' or '.join(usable)}"
            )
    return _unique(chosen)


def _list_models(suite: Suite, selection: Selection) -> Iterator[tuple[str, _Parallelism]]:
    entries = [entry for entry in suite.entries if isinstance(entry, ModelEntry)]
    if not selection.models:
        for entry in entries:
            yield from ((entry.model, parallelism) for parallelism in _list_parallelism(entry, selection))
    for model in selection.models:
        of_suite = [entry for entry in entries if entry.model == find_vendored(model)] or [ModelEntry(model, 1, ())]
        for entry in of_suite:
            yield from ((model, parallelism) for parallelism in _list_parallelism(entry, selection))


def _list_parallelism(entry: ModelEntry, selection: Selection) -> Iterator[_Parallelism]:
    for tp_size in selection.tp_sizes or (entry.tp_size,):
        yield _Parallelism(tp_size, entry.enable_expert_parallel or selection.enable_expert_parallel)


def _check_names(selection: Selection, known: Mapping[str, Kernel]) -> None:
    everything = known.values()
    for kind, names, existing in (
        ("kernel", selection.kernels, set(known)),
        ("scheme", selection.schemes, {scheme for kernel in everything for scheme in kernel.schemes}),
        ("provider", selection.providers, {name for kernel in everything for name in kernel.providers}),
    ):
        for name in names:
            if name not in existing:
                raise UnknownNameError(kind, name, existing)


def _read_options(selection: Selection, known: Mapping[str, Kernel]) -> Options:
    """The selection's options by name, each a value that some kernel takes."""
    existing: dict[str, list[str]] = {}
    for kernel in known.values():
        for name, values in kernel.options.items():
            existing.setdefault(name, []).extend(values)
    wanted: dict[str, tuple[str, ...]] = {}
    for pair in selection.options:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--option {pair} has no value; give NAME=VALUE (all: kernel-nightly list options)")
        if name not in existing:
            raise UnknownNameError("option", name, existing)
        if value not in existing[name]:
            taken = ", ".join(dict.fromkeys(existing[name]))
            raise UsageError(f"--option {pair}: {name} has no value {value!r}; give one of {taken}")
        wanted[name] = (*wanted.get(name, ()), value)
    return wanted


def _list_candidates(
    suite: Suite, shapes: tuple[ModelShape, ...], selection: Selection, known: Mapping[str, Kernel]
) -> Iterator[_Candidate]:
    if selection.models:
        entries = tuple(itertools.chain.from_iterable(map(_list_kernel_entries, suite.entries)))
        for shape in shapes:
            yield from _list_model_candidates(shape, entries, known)
        return
    for entry in suite.entries:
        if isinstance(entry, GridEntry):
            dtype = "bfloat16" if selection.dtype == "auto" else selection.dtype
            shape = ModelShape("grid", tp_size=1, ep_size=1, dtype=dtype, sizes=entry.sizes)
            yield from _list_model_candidates(shape, _list_kernel_entries(entry), known)
            continue
        wanted = tuple(_list_parallelism(entry, selection))
        for shape in shapes:
            if shape.model == entry.model and any(_is_split_as(shape, parallelism) for parallelism in wanted):
                yield from _list_model_candidates(shape, entry.kernels, known)


def _is_split_as(shape: ModelShape, parallelism: _Parallelism) -> bool:
    """Expert parallelism leaves a dense model's shape as it is."""
    splits_experts = parallelism.enable_expert_parallel and not shape.module
    return (shape.tp_size, shape.ep_size) == (parallelism.tp_size, parallelism.tp_size if splits_experts else 1)


def _list_model_candidates(
    shape: ModelShape, entries: Iterable[KernelEntry], known: Mapping[str, Kernel]
) -> Iterator[_Candidate]:
    for entry in entries:
        kernel = _find_kernel(entry.kernel, known)
        sizes = {name: shape.sizes[name] for name in kernel.size_names if name in shape.sizes}
        parallelism = (shape.tp_size, shape.ep_size)
        for scheme in entry.schemes or kernel.schemes[:1]:
            layer = Layer(kernel.name, shape.model, *parallelism, scheme, shape.dtype, sizes, shape.module)
            yield _Candidate(kernel, layer, entry, shape.sizes)


def _find_kernel(name: str, known: Mapping[str, Kernel]) -> Kernel:
    if name not in known:
        raise UnknownNameError("kernel", name, known)
    return known[name]


def _list_kernel_entries(entry: ModelEntry | GridEntry) -> tuple[KernelEntry, ...]:
    if isinstance(entry, ModelEntry):
        return entry.kernels
    return (KernelEntry(entry.kernel, entry.schemes, entry.batch_sizes, entry.options),)


def _narrow(
    suite: Suite, candidates: tuple[_Candidate, ...], selection: Selection
) -> tuple[tuple[_Candidate, ...], tuple[str, ...]]:
    """Keep what every filter asks for; also one line for each value that a filter finds nowhere."""
    filters: tuple[tuple[str, tuple[Hashable, ...], Callable[[_Candidate], Iterable[Hashable]]], ...] = (
        ("--kernel", selection.kernels, lambda candidate: (candidate.kernel.name,)),
        ("--scheme", selection.schemes, lambda candidate: (candidate.layer.scheme,)),
        ("--limit-k", selection.limit_k, lambda candidate: _known_sizes(candidate, "hidden_size", "k")),
        ("--limit-n", selection.limit_n, lambda candidate: _known_sizes(candidate, "intermediate_size", "n")),
        ("--provider", selection.providers, lambda candidate: tuple(candidate.kernel.providers)),
    )
    unmatched: list[str] = []
    for option, wanted, values in filters:
        if not wanted:
            continue
        found = _unique(value for candidate in candidates for value in values(candidate))
        there_is = f"there is {', '.join(map(str, found)) or 'none'}"
        unmatched += [
            f"{option} {value}: not in suite {suite.name}; {there_is}" for value in wanted if value not in found
        ]
        candidates = tuple(candidate for candidate in candidates if set(wanted) & set(values(candidate)))
        if not candidates:
            asked = " ".join(map(str, wanted))
            raise UsageError(f"{option} {asked} leaves nothing of suite {suite.name}; {there_is}")
    return candidates, tuple(unmatched)


def _refuse_idle_options(candidates: tuple[_Candidate, ...], options: Options) -> None:
    """Refuse an option that none of the kernels has: the run would be another than the one asked for."""
    for name in options:
        if not any(name in candidate.kernel.options for candidate in candidates):
            chosen = ", ".join(_unique(candidate.kernel.name for candidate in candidates))
            having = _unique(option for candidate in candidates for option in candidate.kernel.options)
            raise UsageError(f"--option {name}: {chosen} does not have it; there is {', '.join(having) or 'none'}")


def _known_sizes(candidate: _Candidate, *names: str) -> tuple[int, ...]:
    return tuple(candidate.sizes[name] for name in names if name in candidate.sizes)


def _drop_unfit(
    candidates: tuple[_Candidate, ...], selection: Selection
) -> tuple[tuple[_Candidate, ...], tuple[str, ...]]:
    """Split off what does not fit, unless it was asked for by scheme or nothing of its shape remains."""
    errors = [_find_misfit(candidate) for candidate in candidates]
    pairs = tuple(zip(candidates, errors, strict=True))
    fitting = tuple(candidate for candidate, error in pairs if error is None)
    remaining = {_shape_of(candidate.layer) for candidate in fitting}
    left_out = []
    for candidate, error in pairs:
        if error is None:
            continue
        layer = candidate.layer
        asked_for = layer.scheme in selection.schemes and not _lacks_sizes(candidate)
        if asked_for or _shape_of(layer) not in remaining:
            raise error
        combination = "" if _lacks_sizes(candidate) else f"{layer.kernel} {layer.scheme} on {layer.label}: "
        left_out.append(f"{combination}{error}")
    return fitting, _unique(left_out)


def _lacks_sizes(candidate: _Candidate) -> bool:
    """Whether the kernel is of another kind of layer: of experts on a dense model, or of linear layers on experts."""
    return not set(candidate.kernel.size_names) <= set(candidate.sizes)


def _find_misfit(candidate: _Candidate) -> ShapeError | None:
    if _lacks_sizes(candidate):
        takes, has = ", ".join(candidate.kernel.size_names), ", ".join(candidate.sizes)
        model = replace(candidate.layer, module="").label
        return ShapeError(f"{candidate.kernel.name} takes {takes}; {model} has {has}")
    try:
        candidate.kernel.check_layer(candidate.layer)
    except ShapeError as error:
        return error
    return None


def _shape_of(layer: Layer) -> tuple[str, int, int]:
    return layer.model, layer.tp_size, layer.ep_size


def _make_units(
    candidates: tuple[_Candidate, ...], selection: Selection, options: Options, timers: tuple[str, ...]
) -> tuple[WorkUnit, ...]:
    """One unit per layer: entries that differ only in batch sizes or options share its weights."""
    by_layer: dict[str, list[_Candidate]] = {}
    for candidate in candidates:
        by_layer.setdefault(candidate.layer.key, []).append(candidate)
    return tuple(
        WorkUnit(
            layer=group[0].layer,
            cases=_unique_cases(case for candidate in group for case in _list_cases(candidate, selection, options)),
            providers=_select_providers(group[0].kernel, selection),
            timers=timers,
            precision=selection.precision,
        )
        for group in by_layer.values()
    )


def _list_cases(candidate: _Candidate, selection: Selection, options: Options) -> Iterator[Case]:
    known = candidate.kernel.options
    chosen = {**candidate.entry.options, **options}
    values = [chosen.get(name, existing[:1]) for name, existing in known.items()]
    for num_tokens in selection.batch_sizes or candidate.entry.batch_sizes:
        for combination in itertools.product(*values):
            pairs = zip(known, combination, strict=True)
            yield Case(candidate.layer, num_tokens, {name: value for name, value in pairs if value != known[name][0]})


def _select_providers(kernel: Kernel, selection: Selection) -> tuple[str, ...]:
    return tuple(name for name in kernel.providers if not selection.providers or name in selection.providers)


def _unique_cases(cases: Iterable[Case]) -> tuple[Case, ...]:
    return tuple({case.key: case for case in cases}.values())


def _unique(values: Iterable[_T]) -> tuple[_T, ...]:
    """The values in order, each once."""
    return tuple(dict.fromkeys(values))
