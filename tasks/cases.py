"""From a suite, and what the command line asks for, to units of work.

--model, --tp-size and --batch-size replace what the suite has, as vLLM's scripts do: with --model every kernel of the
suite runs on the given models. Every other option narrows.
"""

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from kernels.errors import ShapeError
from kernels.spec import Case, Kernel, Layer
from tasks.errors import UnknownNameError, UsageError
from tasks.records import ModelShape, WorkUnit
from tasks.shapes import DTYPES, find_vendored, resolve_model_shape
from tasks.suites import GridEntry, KernelEntry, ModelEntry, Suite

_T = TypeVar("_T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Selection:
    """What the command line asks for; an empty field asks for nothing and leaves the suite as it is."""

    models: tuple[str, ...] = ()
    """Replace the suite's models."""
    tp_sizes: tuple[int, ...] = ()
    """Replace the suite's; without them a model given by name keeps the suite's, and one the suite lacks gets 1."""
    enable_expert_parallel: bool = False
    dtype: str = "auto"
    batch_sizes: tuple[int, ...] = ()
    """Replace the suite's."""
    limit_k: tuple[int, ...] = ()
    """Keep layers of these hidden sizes (K)."""
    limit_n: tuple[int, ...] = ()
    """Keep layers of these intermediate sizes per rank (N)."""
    kernels: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()
    trust_remote_code: bool = False
    model_prefix: str = ""
    allow_download: bool = False

    def __post_init__(self) -> None:
        counts = {"--tp-size": self.tp_sizes, "--batch-size": self.batch_sizes}
        for option, values in {**counts, "--limit-k": self.limit_k, "--limit-n": self.limit_n}.items():
            for value in values:
                if value < 1:
                    raise UsageError(f"{option} {value} is below 1; give whole numbers from 1 up")
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


def resolve_shapes(suite: Suite, selection: Selection) -> tuple[ModelShape, ...]:
    """The model shapes of the suite, or those that the selection puts in their place."""
    shapes = (
        resolve_model_shape(
            model,
            tp_size,
            enable_expert_parallel=selection.enable_expert_parallel,
            dtype=selection.dtype,
            trust_remote_code=selection.trust_remote_code,
            model_prefix=selection.model_prefix,
            allow_download=selection.allow_download,
        )
        for model, tp_size in _list_model_tp_sizes(suite, selection)
    )
    return _unique(shapes)


def plan_units(
    suite: Suite, shapes: tuple[ModelShape, ...], selection: Selection, registry: Mapping[str, Kernel] | None = None
) -> Plan:
    """One unit per kernel, layer and scheme, with all its cases; needs no device.

    Args:
        shapes: as `resolve_shapes` gives them for the same suite and selection.
        registry: kernels by name; by default every kernel there is.
    Raises:
        UnknownNameError: no such kernel, provider or scheme; UsageError: a filter leaves nothing;
        ShapeError: a combination asked for by scheme does not fit, or nothing fits on one of the shapes.
    """
    known = _find_kernels() if registry is None else registry
    _check_names(selection, known)
    candidates = tuple(_list_candidates(suite, shapes, selection, known))
    if not candidates:
        raise UsageError(f"suite {suite.name} has no layer for the models given; give --model, or another suite")
    candidates, unmatched = _narrow(suite, candidates, selection)
    fitting, unfit = _drop_unfit(candidates, selection)
    return Plan(_make_units(fitting, selection), (*unmatched, *unfit))


def _find_kernels() -> Mapping[str, Kernel]:
    from kernels.registry import kernels  # imports every kernel file

    return kernels()


def _list_model_tp_sizes(suite: Suite, selection: Selection) -> Iterator[tuple[str, int]]:
    entries = [entry for entry in suite.entries if isinstance(entry, ModelEntry)]
    if not selection.models:
        for entry in entries:
            yield from ((entry.model, tp_size) for tp_size in selection.tp_sizes or (entry.tp_size,))
    for model in selection.models:
        of_suite = tuple(entry.tp_size for entry in entries if entry.model == find_vendored(model))
        yield from ((model, tp_size) for tp_size in selection.tp_sizes or of_suite or (1,))


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


def _list_candidates(
    suite: Suite, shapes: tuple[ModelShape, ...], selection: Selection, known: Mapping[str, Kernel]
) -> Iterator[_Candidate]:
    if selection.models:
        merged = _merge_entries(suite, known)
        for shape in shapes:
            yield from _list_model_candidates(shape, merged, known)
        return
    for entry in suite.entries:
        if isinstance(entry, GridEntry):
            dtype = "bfloat16" if selection.dtype == "auto" else selection.dtype
            shape = ModelShape("grid", tp_size=1, ep_size=1, dtype=dtype, sizes=entry.sizes)
            yield from _list_model_candidates(shape, _list_kernel_entries(entry), known)
            continue
        for shape in shapes:
            if shape.model == entry.model and shape.tp_size in (selection.tp_sizes or (entry.tp_size,)):
                yield from _list_model_candidates(shape, entry.kernels, known)


def _list_model_candidates(
    shape: ModelShape, entries: Iterable[KernelEntry], known: Mapping[str, Kernel]
) -> Iterator[_Candidate]:
    for entry in entries:
        kernel = _find_kernel(entry.kernel, known)
        sizes = {name: shape.sizes[name] for name in kernel.size_names if name in shape.sizes}
        for scheme in entry.schemes or kernel.schemes[:1]:
            layer = Layer(kernel.name, shape.model, shape.tp_size, shape.ep_size, scheme, shape.dtype, sizes)
            yield _Candidate(kernel, layer, entry, shape.sizes)


def _find_kernel(name: str, known: Mapping[str, Kernel]) -> Kernel:
    if name not in known:
        raise UnknownNameError("kernel", name, known)
    return known[name]


def _list_kernel_entries(entry: ModelEntry | GridEntry) -> tuple[KernelEntry, ...]:
    if isinstance(entry, ModelEntry):
        return entry.kernels
    return (KernelEntry(entry.kernel, (), entry.batch_sizes, entry.options),)


def _merge_entries(suite: Suite, known: Mapping[str, Kernel]) -> tuple[KernelEntry, ...]:
    """Everything the suite runs, once per kernel: what models that it does not have are run on."""
    by_kernel: dict[str, list[KernelEntry]] = {}
    for entry in itertools.chain.from_iterable(_list_kernel_entries(entry) for entry in suite.entries):
        by_kernel.setdefault(entry.kernel, []).append(entry)
    return tuple(_join_entries(_find_kernel(name, known), entries) for name, entries in by_kernel.items())


def _join_entries(kernel: Kernel, entries: list[KernelEntry]) -> KernelEntry:
    return KernelEntry(
        kernel=kernel.name,
        schemes=_unique(scheme for entry in entries for scheme in entry.schemes or kernel.schemes[:1]),
        batch_sizes=tuple(sorted({size for entry in entries for size in entry.batch_sizes})),
        options={
            name: _unique(value for entry in entries for value in entry.options.get(name, values[:1]))
            for name, values in kernel.options.items()
        },
    )


def _narrow(
    suite: Suite, candidates: tuple[_Candidate, ...], selection: Selection
) -> tuple[tuple[_Candidate, ...], tuple[str, ...]]:
    """Keep what every filter asks for; also one line for each value that a filter finds nowhere."""
    filters: tuple[tuple[str, tuple[Hashable, ...], Callable[[_Candidate], Iterable[Hashable]]], ...] = (
        ("--kernel", selection.kernels, lambda candidate: (candidate.kernel.name,)),
        ("--scheme", selection.schemes, lambda candidate: (candidate.layer.scheme,)),
        ("--limit-k", selection.limit_k, lambda candidate: _known_size(candidate, "hidden_size")),
        ("--limit-n", selection.limit_n, lambda candidate: _known_size(candidate, "intermediate_size")),
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


def _known_size(candidate: _Candidate, name: str) -> tuple[int, ...]:
    return (candidate.sizes[name],) if name in candidate.sizes else ()


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
        if layer.scheme in selection.schemes or _shape_of(layer) not in remaining:
            raise error
        left_out.append(f"{layer.kernel} {layer.scheme} on {layer.label}: {error}")
    return fitting, tuple(left_out)


def _find_misfit(candidate: _Candidate) -> ShapeError | None:
    missing = [name for name in candidate.kernel.size_names if name not in candidate.sizes]
    if missing:
        has = ", ".join(candidate.sizes)
        return ShapeError(f"{candidate.kernel.name} also takes {', '.join(missing)}; {candidate.layer.label} has {has}")
    try:
        candidate.kernel.check_layer(candidate.layer)
    except ShapeError as error:
        return error
    return None


def _shape_of(layer: Layer) -> tuple[str, int, int]:
    return layer.model, layer.tp_size, layer.ep_size


def _make_units(candidates: tuple[_Candidate, ...], selection: Selection) -> tuple[WorkUnit, ...]:
    """One unit per layer: entries that differ only in batch sizes or options share its weights."""
    by_layer: dict[str, list[_Candidate]] = {}
    for candidate in candidates:
        by_layer.setdefault(candidate.layer.key, []).append(candidate)
    return tuple(
        WorkUnit(
            layer=group[0].layer,
            cases=_unique_cases(case for candidate in group for case in _list_cases(candidate, selection)),
            providers=_select_providers(group[0].kernel, selection),
        )
        for group in by_layer.values()
    )


def _list_cases(candidate: _Candidate, selection: Selection) -> Iterator[Case]:
    options = candidate.kernel.options
    values = [candidate.entry.options.get(name, known[:1]) for name, known in options.items()]
    for num_tokens in selection.batch_sizes or candidate.entry.batch_sizes:
        for combination in itertools.product(*values):
            yield Case(candidate.layer, num_tokens, dict(zip(options, combination, strict=True)))


def _select_providers(kernel: Kernel, selection: Selection) -> tuple[str, ...]:
    return tuple(name for name in kernel.providers if not selection.providers or name in selection.providers)


def _unique_cases(cases: Iterable[Case]) -> tuple[Case, ...]:
    return tuple({case.key: case for case in cases}.values())


def _unique(values: Iterable[_T]) -> tuple[_T, ...]:
    """The values in order, each once."""
    return tuple(dict.fromkeys(values))
