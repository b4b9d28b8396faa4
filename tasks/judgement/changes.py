"""What differs between two runs, and how the times of the series that it concerns moved with it.

Run, device, weights, provider, machine code: the same difference of many series is one Change. What a run of an earlier
version did not note is no difference.
"""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from kernels.spec import CompiledKernel
from tasks.errors import UsageError
from tasks.nights import Night
from tasks.records import Host, Measurement, Run, Series, Status

ANOTHER_CARD = "another card"
MACHINE_CODE = "machine code"
COUNTED = {
    "num_warps": "warps",
    "registers": "registers",
    "spill_bytes": "bytes spilled",
    "shared_bytes": "bytes of shared memory",
}
"""Figures of a compiled kernel, and what each counts."""


@dataclass(frozen=True, slots=True)
class TimeRatios:
    """How the medians of some series moved: newer / older, over those that were timed in both runs."""

    num_series: int
    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two runs."""

    subject: str
    """What it is of: "run", a device, a kernel, a kernel and its provider, or a jit function."""
    what: str
    """E.g. "commit", "triton", "config BLOCK_SIZE_M", "registers"."""
    before: str
    """"" if there was none, or of several cards; of several digests, how many."""
    after: str
    num_series: int
    """Series that it concerns."""
    times: TimeRatios | None
    """None if none of them was timed in both runs."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One series in two runs."""

    series: Series
    kernel: str
    layer_key: str
    older: Measurement | None
    """None if the run has no row of it."""
    newer: Measurement | None

    @property
    def layer_on_device(self) -> tuple[str, str]:
        """Whose weights it has: devices draw other random numbers."""
        return self.layer_key, self.series.device_name

    @property
    def ratio(self) -> float | None:
        """Newer / older median; None unless both were timed."""
        if self.older is None or self.newer is None:
            return None
        before, after = self.older.median_us, self.newer.median_us
        return after / before if before and after else None


Difference = tuple[str, str, str]
"""What differs, before, after."""
Weights = Mapping[tuple[str, str], str]
"""Digests by the layer's key and the device's name."""


def find_changes(older: Night, newer: Night) -> list[Change]:
    """Everything that differs: of the run, of devices, of weights, of providers, of compiled kernels.

    Within each, what many series share comes first. Empty if nothing that both runs noted differs; which series only
    one of them has, `count_alone` tells.
    """
    pairs = pair_series(older, newer)
    changes = [make_change("run", d, pairs) for d in differences(run_facts(older), run_facts(newer))]
    changes += most_first(host_changes(pairs, older.hosts, newer.hosts))
    changes += most_first(weights_changes(pairs, digests_of_weights(older), digests_of_weights(newer)))
    changes += most_first(provider_changes(pairs))
    changes += most_first(compiled_changes(pairs))
    return changes


def summarize_times(pairs: Iterable[Pair]) -> TimeRatios | None:
    """How the times of some series moved; None if none was timed in both runs."""
    ratios = [pair.ratio for pair in pairs if pair.ratio is not None]
    return TimeRatios(len(ratios), statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


def find_most_moved(pairs: Iterable[Pair], number: int) -> list[Pair]:
    """Those whose times moved furthest, in either direction, first."""
    timed = [(abs(math.log(pair.ratio)), pair) for pair in pairs if pair.ratio]
    return [pair for _, pair in sorted(timed, key=lambda moved: -moved[0])[:number]]


def count_alone(pairs: Iterable[Pair]) -> tuple[int, int]:
    """How many series only the older run has, and how many only the newer."""
    found = [(pair.newer is None, pair.older is None) for pair in pairs]
    return sum(gone for gone, _ in found), sum(new for _, new in found)


def pair_series(older: Night, newer: Night) -> list[Pair]:
    """Every series of either run."""
    before, after = ({m.series: m for m in night.measurements} for night in (older, newer))
    layers = {m.series: m.check.case.layer for m in (*older.measurements, *newer.measurements)}
    return [Pair(s, layer.kernel, layer.key, before.get(s), after.get(s)) for s, layer in layers.items()]


def has_sources(night: Night) -> bool:
    """Whether the run noted what its numbers are of; earlier versions did not."""
    return any(m.check.source_sha256 for m in night.measurements)


def find_run_before(runs: Sequence[Run], newer: Run) -> Run:
    """The last run of the same suite that was started before `newer` and has ended.

    Args:
        runs: in the order they were started.
    Raises:
        UsageError: there is none.
    """
    earlier = runs[: [run.run_id for run in runs].index(newer.run_id)]
    found = [run for run in earlier if run.suite == newer.suite and run.status != "running"]
    if not found:
        raise UsageError(
            f"no run of suite {newer.suite} ended before {newer.run_id}; "
            "name two: kernel-nightly changes OLDER NEWER (all: kernel-nightly list runs)"
        )
    return found[-1]


def make_change(subject: str, difference: Difference, pairs: Sequence[Pair]) -> Change:
    return Change(subject, *difference, len(pairs), summarize_times(pairs))


def most_first(changes: Iterable[Change]) -> list[Change]:
    return sorted(changes, key=lambda change: (-change.num_series, change.subject))


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[Difference]:
    """Facts that are not the same; one that is missing is ""."""
    found = [(name, before.get(name, ""), after.get(name, "")) for name in {**before, **after}]
    return [(name, was, now) for name, was, now in found if was != now]


def flatten(name: str, value: object) -> Iterator[tuple[str, str]]:
    """A JSON value as facts: the entries of a mapping under their dotted names."""
    if isinstance(value, Mapping):
        for entry, inner in value.items():
            yield from flatten(f"{name}.{entry}", inner)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, default=str)


def tell_digests(digests: Iterable[str]) -> str:
    """The digest, or how many there are."""
    found = set(digests) - {""}
    return f"{len(found)} digests" if len(found) > 1 else "".join(found)


# What is compared


def run_facts(night: Night) -> dict[str, str]:
    """What is known of a run when it starts, and its devices."""
    run = night.run
    arguments = (fact for name, value in run.arguments.items() for fact in flatten(f"argument {name}", value))
    return {
        "commit": run.git_commit,
        "uncommitted edits": "yes" if run.git_dirty else "no",
        "suite": run.suite,
        "seed": str(run.seed),
        **dict(arguments),
        "devices": ", ".join(sorted({host.device.name for host in night.hosts})),
    }


def host_facts(host: Host) -> dict[str, str]:
    """What a series was measured on and with."""
    return {
        ANOTHER_CARD: host.device_uuid,
        "driver": host.driver,
        "CUDA": host.cuda,
        "capability": ".".join(map(str, host.device.capability)),
        "torch": host.torch,
        "triton": host.triton,
        "vLLM": host.vllm,
        "python": host.python,
        "CPUs": str(host.num_cpus),
    }


def host_changes(pairs: Iterable[Pair], older: Iterable[Host], newer: Iterable[Host]) -> list[Change]:
    """Card and environment of every series that ran in both runs; the cards of one device are told together."""
    before, after = ({host.host_id: host_facts(host) for host in hosts} for hosts in (older, newer))
    grouped: dict[tuple[str, Difference], list[tuple[Difference, Pair]]] = defaultdict(list)
    for pair in pairs:
        if pair.older is None or pair.newer is None or Status.UNSUPPORTED in (pair.older.status, pair.newer.status):
            continue
        was, now = before[pair.older.check.host_id], after[pair.newer.check.host_id]
        for difference in differences(was, now):
            together = (ANOTHER_CARD, "", "") if difference[0] == ANOTHER_CARD else difference
            grouped[pair.series.device_name, together].append((difference, pair))
    changes = []
    for (device, together), found in grouped.items():
        told = {difference for difference, _ in found}
        difference = told.pop() if len(told) == 1 else together
        changes.append(make_change(device, difference, [pair for _, pair in found]))
    return changes


def digests_of_weights(night: Night) -> Weights:
    """What was generated."""
    devices = {host.host_id: host.device.name for host in night.hosts}
    return {(r.layer_key, devices[r.host_id]): r.sha256 for r in night.receipts if r.host_id in devices}


def weights_changes(pairs: Iterable[Pair], before: Weights, after: Weights) -> list[Change]:
    """Layers whose weights are not the same bytes in both runs, one Change per kernel."""
    changed: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        key = pair.layer_on_device
        if key in before and key in after and before[key] != after[key]:
            changed[pair.kernel].append(pair)
    changes = []
    for kernel, concerned in changed.items():
        was, now = (tell_digests(weights[pair.layer_on_device] for pair in concerned) for weights in (before, after))
        changes.append(make_change(kernel, ("weights", was, now), concerned))
    return changes


def provider_changes(pairs: Iterable[Pair]) -> list[Change]:
    """Status, source and configuration of each provider."""
    grouped: dict[tuple[str, Difference], list[Pair]] = defaultdict(list)
    for pair in pairs:
        subject = f"{pair.kernel} {pair.series.provider}"
        for difference in provider_differences(pair.older, pair.newer):
            grouped[subject, difference].append(pair)
    return [make_change(subject, difference, found) for (subject, difference), found in grouped.items()]


def provider_differences(older: Measurement | None, newer: Measurement | None) -> list[Difference]:
    """Of one series of both runs; its source where both noted it, its configuration where both got an output."""
    if older is None or newer is None:
        return []
    found = differences({"status": str(older.status)}, {"status": str(newer.status)})
    before, after = older.check, newer.check
    if before.source_sha256 and after.source_sha256 and before.source_sha256 != after.source_sha256:
        found.append(("source", before.source_sha256, after.source_sha256))
    if before.relative_error is not None and after.relative_error is not None:
        configs = [dict(flatten("config", dict(check.config))) for check in (before, after)]
        found += [(what.replace(".", " ", 1), was, now) for what, was, now in differences(*configs)]
    return found


@dataclass(frozen=True, slots=True)
class CompiledPair:
    """One compiled kernel of one series in two runs."""

    name: str
    """Of the jit function."""
    pair: Pair
    older: CompiledKernel | None
    """None if the kernel was not launched in that run."""
    newer: CompiledKernel | None

    @property
    def group(self) -> tuple[str, tuple[bool, bool], tuple[Difference, ...]]:
        """What a person takes for the same change: of other series it is other machine code, with the same figures."""
        figures: list[Difference] = []
        if self.older and self.newer:
            before, after = ({n: str(getattr(k, f)) for f, n in COUNTED.items()} for k in (self.older, self.newer))
            figures = differences(before, after)
        return self.name, (self.older is None, self.newer is None), tuple(figures)


def compiled_changes(pairs: Iterable[Pair]) -> list[Change]:
    """Machine code and figures of each jit function, where both runs noted them."""
    grouped: dict[object, list[CompiledPair]] = defaultdict(list)
    for pair in pairs:
        for compiled in pair_kernels(pair):
            grouped[compiled.group].append(compiled)
    changes = []
    for found in grouped.values():
        name, _, figures = found[0].group
        before = tell_digests(compiled.older.sha256 for compiled in found if compiled.older)
        after = tell_digests(compiled.newer.sha256 for compiled in found if compiled.newer)
        concerned = list({compiled.pair.series: compiled.pair for compiled in found}.values())
        changes += [make_change(name, d, concerned) for d in (*figures, (MACHINE_CODE, before, after))]
    return changes


def pair_kernels(pair: Pair) -> Iterator[CompiledPair]:
    """Kernels of one name whose machine code is not in both runs, in the order they were launched."""
    if not (pair.older and pair.newer and pair.older.check.source_sha256 and pair.newer.check.source_sha256):
        return
    if pair.older.check.relative_error is None or pair.newer.check.relative_error is None:
        return
    before, after = pair.older.check.compiled, pair.newer.check.compiled
    shared = {kernel.sha256 for kernel in before} & {kernel.sha256 for kernel in after}
    names = {kernel.name: None for kernel in (*before, *after) if kernel.sha256 not in shared}
    for name in names:
        left, right = ([k for k in of if k.name == name and k.sha256 not in shared] for of in (before, after))
        yield from (CompiledPair(name, pair, older, newer) for older, newer in zip_longest(left, right))
