"""Which sets of tuned configurations are out of date, and what that costs, as tonight's measurements show it.

A set holds the configurations of one kernel for one shape on one GPU, one for each batch size.

    stale    the kernel, Triton or the search space changed since it was tuned, or something beat it tonight
    unknown  it does not say what it was tuned with, and nothing beat it
    missing  the shape has none
    fresh    none of these
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from kernels.moe.vllm_config_files import ConfigFile
from kernels.moe.vllm_schemes import VLLM_SCHEMES
from kernels.spec import Case, Layer
from tasks.intervals import Interval, find_paired_ratio
from tasks.records import Measurement, Status
from tasks.tuning.sets import Provenance, SetKey, SetState
from tasks.tuning.spaces import W4_FORMATS

SHIPPED, TUNED, DEFAULT, OURS = "vllm-triton-shipped", "vllm-triton-tuned", "vllm-triton-default", "triton"
NOISE = 0.01
"""Medians of one provider in one process on an H200 repeat within 1 % (CV 1.2 % at M=1, 0.3 % at M=64)."""

RIVALS: Mapping[str, Mapping[str, str]] = {
    SHIPPED: {DEFAULT: "the default"},
    TUNED: {DEFAULT: "the default", SHIPPED: "the shipped set"},
    OURS: {},
}
"""By provider of a set, the providers that launch the same kernel with other configurations."""
OUR_KERNELS = ("fused_moe", "mxfp4_gemm", *W4_FORMATS)
"""Kernels whose Triton provider takes tuned configurations."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One case on which something else is faster than the set."""

    case: Case
    set_us: float
    rival_us: float
    rival: str
    """E.g. "the default"."""
    is_beyond_noise: bool
    """Whether it counts: more than NOISE, and more than chance, under every timer."""

    @property
    def lost_us(self) -> float:
        return self.set_us - self.rival_us

    @property
    def relative_loss(self) -> float:
        """set_us / rival_us - 1."""
        return self.set_us / self.rival_us - 1


@dataclass(frozen=True, slots=True)
class TunedSet:
    """One set after one night."""

    key: SetKey
    state: SetState
    reasons: tuple[str, ...] = ()
    """Why it is stale, or what is not known of it."""
    losses: tuple[Loss, ...] = field(hash=False, default=())
    """By number of tokens; cases without a loss are left out."""

    @property
    def lost_us(self) -> float:
        """Of all cases whose loss is more than noise."""
        return math.fsum(loss.lost_us for loss in self.losses if loss.is_beyond_noise)


def list_tuned_sets(
    measurements: Iterable[Measurement],
    known: Callable[[SetKey], Provenance | None],
    current: Callable[[SetKey], Provenance],
) -> list[TunedSet]:
    """Every set of tonight's shapes, what costs most first.

    Args:
        measurements: of one night.
        known: what a set was tuned with; None if there is no such set. One that was measured exists.
        current: what it would be tuned with now.
    """
    night = _by_case(measurements)
    cases: dict[SetKey, list[str]] = {}
    measured: set[SetKey] = set()
    for name, by_provider in night.items():
        for provider in RIVALS:
            found = next(iter(by_provider.get(provider, {}).values()), None)
            shown = found or next(iter(by_provider.get(DEFAULT, {}).values()), None) if provider == SHIPPED else found
            if shown is None or not is_tunable(shown.check.case.layer, provider):
                continue
            key = key_of(shown.check.case.layer, provider, shown.device.name)
            cases.setdefault(key, []).append(name)
            if found and provider != OURS:
                measured.add(key)
    sets = []
    for key, names in cases.items():
        losses = [loss for name in names if (loss := find_loss(key.provider, night[name]))]
        provenance = known(key) or (Provenance() if key in measured else None)
        state, reasons = judge_set(provenance, current(key), losses)
        sets.append(TunedSet(key, state, reasons, tuple(sorted(losses, key=lambda loss: loss.case.num_tokens))))
    return sort_sets(sets)


def sort_sets(sets: Iterable[TunedSet]) -> list[TunedSet]:
    """What costs most first."""
    return sorted(sets, key=lambda tuned: (-tuned.lost_us, tuned.key))


def judge_set(
    provenance: Provenance | None, current: Provenance, losses: Iterable[Loss]
) -> tuple[SetState, tuple[str, ...]]:
    """The state of a set, and why."""
    reasons = [tell_loss(loss) for loss in losses if loss.is_beyond_noise]
    if provenance is None:
        return SetState.MISSING, ("the shape has none", *reasons)
    was, now = provenance.triton_version, current.triton_version
    if was and now and was.partition("+")[0] != now.partition("+")[0]:
        reasons.insert(0, f"Triton was {was} and is {now}")
    if is_other(provenance.space_sha256, current.space_sha256):
        reasons.insert(0, "the search space changed")
    if is_other(provenance.source_sha256, current.source_sha256):
        reasons.insert(0, tell_source(provenance.source_sha256 or "", current.source_sha256 or ""))
    if reasons:
        return SetState.STALE, tuple(reasons)
    if was is None:
        return SetState.UNKNOWN, ("it does not say which Triton it was tuned with",)
    return SetState.FRESH, ()


def add_losses(tuned: TunedSet, losses: Iterable[Loss]) -> TunedSet:
    """A set that turned out to lose on more cases, each beyond noise."""
    added = tuple(losses)
    if not added:
        return tuned
    by_size = sorted((*tuned.losses, *added), key=lambda loss: loss.case.num_tokens)
    reasons = tuned.reasons if tuned.state is SetState.STALE else ()  # "it does not say" matters no more
    return replace(tuned, state=SetState.STALE, reasons=(*reasons, *map(tell_loss, added)), losses=tuple(by_size))


def tell_loss(loss: Loss) -> str:
    """E.g. "the default beats it by 4.2% at M=16"."""
    return f"{loss.rival} beats it by {loss.relative_loss:.1%} at M={loss.case.num_tokens}"


def tell_source(was: str, now: str) -> str:
    """What of the kernel is another: of a library's it is its version that is known."""
    if was.startswith("vllm ") and now.startswith("vllm "):
        return f"it was tuned with {was}, this is {now}"
    return "the kernel changed"


def is_other(was: str | None, now: str | None) -> bool:
    """Whether both are known and differ."""
    return bool(was and now and was != now)


Timers = Mapping[str, Measurement]
"""Measurements of one provider on one case, by timer."""


def find_loss(provider: str, night: Mapping[str, Timers]) -> Loss | None:
    """What a set loses on one case to the fastest of its rivals.

    Args:
        night: by provider.
    """
    own = night.get(provider, {})
    rivals = ((words, night.get(name, {})) for name, words in RIVALS[provider].items())
    losses = [loss for words, timers in rivals if (loss := compare(own, timers, words))]
    return max(losses, key=lambda loss: (loss.is_beyond_noise, loss.lost_us), default=None)


def compare(own: Timers, rival: Timers, words: str) -> Loss | None:
    """The smaller loss of all timers that timed both; None where some timer shows none."""
    found = []
    for timer, measurement in own.items():
        if timer in rival:
            other = rival[timer]
            ours, theirs = (statistics.median(each.samples_us) for each in (measurement, other))
            ratio = find_paired_ratio(measurement, other)
            beyond = ours > theirs * (1 + NOISE) and (ratio is None or is_more_than_chance(ratio))
            found.append(Loss(measurement.check.case, ours, theirs, words, beyond))
    least = min(found, key=lambda loss: (loss.is_beyond_noise, loss.relative_loss), default=None)
    return least if least and least.relative_loss > 0 else None


def is_more_than_chance(ratio: Interval) -> bool:
    """Whether the whole interval is above 1, or the median if there were too few rounds for an interval."""
    return (ratio.low if math.isfinite(ratio.low) else ratio.median) > 1


def is_tunable(layer: Layer, provider: str) -> bool:
    """Whether the layer's kernel takes configurations from a set of this provider."""
    if provider == OURS:
        return layer.kernel in OUR_KERNELS
    return layer.kernel == "fused_moe" and layer.scheme in VLLM_SCHEMES


def key_of(layer: Layer, provider: str, device_name: str) -> SetKey:
    """The set that serves a layer."""
    sizes, scheme = layer.sizes, VLLM_SCHEMES.get(layer.scheme)
    return SetKey(
        kernel=layer.kernel,
        provider=provider,
        num_experts=sizes.get("num_experts", 0),
        intermediate_size=sizes["intermediate_size"] if "intermediate_size" in sizes else sizes["n"],
        hidden_size=sizes["hidden_size"] if "hidden_size" in sizes else sizes["k"],
        top_k=sizes.get("top_k", 0),
        scheme=layer.scheme,
        block_shape=(scheme.block_shape if scheme else None) or (0, 0),
        device_name=device_name,
    )


def known_from_files(files: Mapping[str, Iterable[ConfigFile]]) -> Callable[[SetKey], Provenance | None]:
    """What is known of sets in files: the version of Triton, if that.

    Args:
        files: by provider that takes its configurations from them.
    """
    versions = {(provider, file.key): file.triton_version for provider, found in files.items() for file in found}

    def known(key: SetKey) -> Provenance | None:
        if key.provider not in files:
            return None
        place = (key.provider, key.config_key)
        return Provenance(triton_version=versions[place]) if place in versions else None

    return known


def _by_case(measurements: Iterable[Measurement]) -> dict[str, dict[str, dict[str, Measurement]]]:
    """Those that have times, by case, provider and timer."""
    night: dict[str, dict[str, dict[str, Measurement]]] = {}
    for measurement in measurements:
        if measurement.status is Status.OK and measurement.samples_us:
            check = measurement.check
            by_provider = night.setdefault(f"{check.case.key} {measurement.device.name}", {})
            by_provider.setdefault(check.provider, {})[measurement.timer] = measurement
    return night
