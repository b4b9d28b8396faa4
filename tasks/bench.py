"""What a worker does with its device: hold one layer's weights, check providers on it, time them.

It runs inside a worker process and knows nothing of Ray, Prefect or the store. Whatever a provider raises passes
through: the caller turns it into a status (tasks/measure.py).
"""

import hashlib
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch
from triton.errors import TritonError

from kernels.ceilings import measure_ceilings, prepare_references
from kernels.errors import ConfigError, KernelError
from kernels.launches import recording_launches
from kernels.moe.vllm_config_files import Config, Reading
from kernels.moe.vllm_configs import read_tuned_files
from kernels.rates import Rate
from kernels.registry import find_kernel
from kernels.source import hash_sources
from kernels.spec import Case, Kernel, Launch, Layer, Tensors, Tolerance
from kernels.timing.devices import erasing, l2_bytes, poison_memory, synchronize
from kernels.timing.graphs import count_input_sets, require_cold
from kernels.timing.timers import TIMERS, Stopwatch, Timer, list_twins
from tasks.clock import Clock
from tasks.nvml import GpuMonitor
from tasks.provenance import describe_host
from tasks.records import Check, Host, Status, WeightsReceipt
from tasks.sampling import ClockWatch, Readings, list_trial_medians, take_in_turn
from tasks.tuning.space import config_key
from tasks.tuning.trials import Question
from tasks.tuning.trials import Trial as ConfigTrial
from tasks.weights import generate_weights, require_free

CONFIG_ERRORS = (KernelError, TritonError, RuntimeError, ValueError, TypeError)
"""What a launch configuration may raise that does not compile, does not fit or is refused."""
MOST_INPUT_SETS = 256
"""Of a timer that rotates them: a case so small would cost more to prepare than to time."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A provider that takes part in a check or a timing, as it is or with a given launch configuration."""

    name: str
    """Of its readings; the provider's own where it takes part as it is."""
    provider: str
    config: Mapping[str, object] | None = field(hash=False, default=None)
    """Of an earlier Launch or of a tuner; None leaves the choice to the provider."""

    def prepare(self, kernel: Kernel, case: Case, weights: Tensors, inputs: Tensors) -> Launch:
        """The provider made ready.

        Raises:
            ConfigError: the provider takes no configuration, or not this one.
        """
        provider = kernel.providers[self.provider]
        if self.config is None:
            return provider.prepare(case, weights, inputs)
        if provider.prepare_with is None:
            raise ConfigError(f"{self.provider} of {kernel.name} takes no launch configuration: it has one of its own")
        return provider.prepare_with(case, weights, inputs, self.config)


def compete_as_is(provider: str) -> Contender:
    """A provider that takes part under its own name and chooses its configuration itself."""
    return Contender(provider, provider)


def compare(output: torch.Tensor, reference: torch.Tensor, tolerance: Tolerance) -> tuple[float, float]:
    """Relative error ||output - reference|| / ||reference|| and the share of close elements (see Tolerance).

    A reference of zeros gives error 0 if the output is zero too, else infinity. NaN or infinity in the output
    never passes: the error is infinite and such elements are not close.
    """
    if output.shape != reference.shape:
        return math.inf, 0.0
    difference = (output - reference).abs()
    norm = float(torch.linalg.vector_norm(reference, dtype=torch.float64))
    error = float(torch.linalg.vector_norm(difference, dtype=torch.float64))
    rms = norm / math.sqrt(max(reference.numel(), 1))
    close = difference <= tolerance.element_error * (reference.abs() + rms)
    share_close = int(close.count_nonzero()) / close.numel() if close.numel() else 1.0
    if not math.isfinite(error):
        return math.inf, share_close
    if norm == 0:
        return (0.0 if error == 0 else math.inf), share_close
    return error / norm, share_close


def cpu_threads() -> int:
    """Threads of a CPU provider: one core is left to the flow and its server, whose work would show in the times."""
    return max(1, (os.cpu_count() or 1) - 1)


class Bench:
    """One device and the layer that is on it. Created in a worker process, used by one caller at a time."""

    def __init__(self, device_type: str) -> None:
        self._device = torch.device("cuda", 0) if device_type == "cuda" else torch.device("cpu")
        if device_type == "cpu":
            torch.set_num_threads(cpu_threads())
        self._host = describe_host(self._device)
        self._watch = ClockWatch(GpuMonitor(self._host.device_uuid).read)
        self._clock = Clock()
        self._references: dict[str, Stopwatch] = {}
        self._seed = 0
        self._weights: Tensors = {}
        self._case_key = ""
        self._inputs: Tensors = {}
        self._reference: torch.Tensor | None = None

    def host(self) -> Host:
        """The environment of this worker."""
        return self._host

    def take_seconds(self) -> dict[str, float]:
        """Where this worker's time went since it was last asked, by activity."""
        return self._clock.take()

    def ceilings(self) -> tuple[Rate, ...]:
        """What the device does at best, measured now."""
        try:
            return measure_ceilings(self._device)
        finally:
            self.drop_case()  # the memory that was measured with is the layers' again

    def load_layer(self, layer: Layer, seed: int) -> WeightsReceipt:
        """Generate the layer's weights and keep them, instead of those of the layer before."""
        self._weights = {}
        self.drop_case()
        self._weights, receipt = generate_weights(layer, seed, self._device, self._host.host_id)
        self._seed = seed
        return receipt

    def check(self, case: Case, contender: Contender) -> Check:
        """Run a contender once and compare its output with the reference; its provider is what the check names."""
        kernel, provider = find_kernel(case.layer.kernel), contender.provider
        reason = kernel.providers[provider].unsupported(case, self._host.device)
        if reason:
            return Check(case, provider, Status.UNSUPPORTED, self._host.host_id, reason)
        inputs = self._make_inputs(kernel, case)
        reference = self._find_reference(kernel, case)
        tolerance = kernel.tolerance_of(provider, case.layer.scheme)
        with recording_launches() as compiled:
            with self._clock.measure("prepare"):
                try:
                    launch = contender.prepare(kernel, case, self._weights, inputs)
                except ConfigError as refused:
                    return Check(case, provider, Status.UNSUPPORTED, self._host.host_id, str(refused))
            poison_memory(reference.numel() * 4, self._device)
            with self._clock.measure("first run"):
                outputs = launch.run()
                synchronize(self._device)
        with self._clock.measure("compare"), erasing(outputs):
            error, share_close = compare(kernel.decode(case, inputs, outputs), reference, tolerance)
        status, reason = judge_output(error, share_close, tolerance)
        return Check(
            case=case,
            provider=provider,
            status=status,
            host_id=self._host.host_id,
            reason=reason,
            relative_error=error,
            share_close=share_close,
            config=launch.config,
            flops=kernel.flops(case, inputs),
            bytes_moved=kernel.bytes_moved(case, inputs),
            source_sha256=hash_sources(kernel.name),
            compiled=tuple(compiled),
        )

    def time(
        self, case: Case, contenders: Sequence[Contender], timer_name: str, precision: float, first_round: int = 0
    ) -> Readings:
        """Time contenders that passed their checks, in turn, beside the reference kernels."""
        kernel, timer = find_kernel(case.layer.kernel), TIMERS[timer_name]
        sets = self._make_input_sets(kernel, case) if timer.rotates_inputs else self._own_set(kernel, case)
        if len(sets) > MOST_INPUT_SETS:
            return Readings(unsupported=f"{timer_name} needs {len(sets)} input sets, {MOST_INPUT_SETS} is the most")
        references = self._prepare_references()
        calls_before = {name: stopwatch.num_calls for name, stopwatch in references.items()}
        with self._preparing(kernel, case, contenders, timer, sets) as stopwatches:
            with self._clock.measure("sampling"):
                readings = take_in_turn(stopwatches, references, timer.sampling, self._watch, precision, first_round)
            self._clock.add("kernels", estimate_busy_seconds({**stopwatches, **references}, readings, calls_before))
        return replace(readings, holds_for=self._find_twins(kernel, case, timer))

    def _find_twins(self, kernel: Kernel, case: Case, timer: Timer) -> tuple[str, ...]:
        """Timers that would replay the same launches on the same tensors: one input set is more than twice the L2."""
        twins = list_twins(timer)
        return twins if twins and self._count_input_sets(kernel, case) == 1 else ()

    @contextmanager
    def _preparing(
        self,
        kernel: Kernel,
        case: Case,
        contenders: Sequence[Contender],
        timer: Timer,
        sets: list[tuple[Tensors, Tensors]],
    ) -> Iterator[dict[str, Stopwatch]]:
        """A stopwatch per contender, each freed after the block."""
        with ExitStack() as stack:
            stopwatches = {}
            for contender in contenders:
                stopwatches[contender.name] = self._make_stopwatch(kernel, case, contender, timer, sets)
                stack.callback(stopwatches[contender.name].close)
            yield stopwatches

    def _make_stopwatch(
        self, kernel: Kernel, case: Case, contender: Contender, timer: Timer, sets: list[tuple[Tensors, Tensors]]
    ) -> Stopwatch:
        with self._clock.measure("prepare"):
            runs = [contender.prepare(kernel, case, weights, inputs).run for weights, inputs in sets]
        with self._clock.measure("capture"):
            return timer.prepare(runs)

    def find_default(self, case: Case, provider: str) -> dict[str, object]:
        """The launch configuration that a provider chooses itself.

        Raises:
            ConfigError: it cannot run the case here.
        """
        kernel = find_kernel(case.layer.kernel)
        reason = kernel.providers[provider].unsupported(case, self._host.device)
        if reason:
            raise ConfigError(f"{provider} of {kernel.name} cannot be tuned on {self._host.device.name}: {reason}")
        [(weights, inputs)] = self._own_set(kernel, case)
        return dict(kernel.providers[provider].prepare(case, weights, inputs).config)

    def read_tuned_files(self, case: Case) -> list[Reading]:
        """vLLM's files of tuned configurations of the layer, as this machine has them."""
        return read_tuned_files(case, self._host.device.name)

    def time_configs(self, case: Case, provider: str, question: Question, timer_name: str) -> list[ConfigTrial]:
        """Time launch configurations of a provider in turn, each as often; one that fails costs the others nothing."""
        kernel, timer = find_kernel(case.layer.kernel), TIMERS[timer_name]
        [own] = self._own_set(kernel, case)
        failures: dict[str, tuple[Status, str]] = {}
        stopwatches: dict[str, Stopwatch] = {}
        with ExitStack() as stack:
            for config in question.configs:
                name = config_key(config)
                contender = Contender(name, provider, config)
                failure = self._find_failure(case, contender) if question.is_checked else None
                if failure is None:
                    try:
                        stopwatches[name] = self._make_stopwatch(kernel, case, contender, timer, [own])
                    except CONFIG_ERRORS as error:
                        failure = self._describe_failure(error)
                    else:
                        stack.callback(stopwatches[name].close)
                if failure:
                    failures[name] = failure
            sampling = replace(timer.sampling, least_trials=question.num_trials, most_trials=question.num_trials)
            with self._clock.measure("sampling"):
                readings = take_in_turn(stopwatches, {}, sampling, self._watch)
        medians = {name: list_trial_medians(reading) for name, reading in readings.providers.items()}
        return [_make_trial(case, config, medians, failures) for config in question.configs]

    def _find_failure(self, case: Case, contender: Contender) -> tuple[Status, str] | None:
        """Why a configuration must not be timed; None if its output is right."""
        try:
            check = self.check(case, contender)
        except CONFIG_ERRORS as error:
            return self._describe_failure(error)
        return None if check.status is Status.OK else (check.status, check.reason)

    def _describe_failure(self, error: Exception) -> tuple[Status, str]:
        """The status of a configuration that raised; raises itself where the device is lost."""
        synchronize(self._device)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        status = Status.OUT_OF_MEMORY if isinstance(error, torch.OutOfMemoryError) else Status.CRASHED
        lines = str(error).strip().splitlines()
        return status, f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

    def drop_case(self) -> None:
        """Free the inputs and the reference of the case in hand."""
        self._case_key, self._inputs, self._reference = "", {}, None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _make_inputs(self, kernel: Kernel, case: Case) -> Tensors:
        """Inputs of a case, made once and kept while its providers take turns."""
        if self._case_key != case.key:
            with self._clock.measure("inputs"):
                self.drop_case()
                self._inputs = kernel.make_inputs(case, self._weights, seed_of_inputs(self._seed), self._device)
            self._case_key = case.key
        return self._inputs

    def _find_reference(self, kernel: Kernel, case: Case) -> torch.Tensor:
        """The result that every provider of the case in hand is compared with."""
        if self._reference is None:
            with self._clock.measure("reference"):
                self._reference = kernel.reference(case, self._weights, self._inputs)
        return self._reference

    def _prepare_references(self) -> dict[str, Stopwatch]:
        """The reference kernels, made once."""
        if not self._references:
            self._references = prepare_references(self._device)
        return self._references

    def _own_set(self, kernel: Kernel, case: Case) -> list[tuple[Tensors, Tensors]]:
        return [(self._weights, self._make_inputs(kernel, case))]

    def _make_input_sets(self, kernel: Kernel, case: Case) -> list[tuple[Tensors, Tensors]]:
        """Weights and inputs of equal values in so many places that none is in the L2 when its turn comes again."""
        [own] = self._own_set(kernel, case)
        num_copies = self._count_input_sets(kernel, case) - 1
        if num_copies >= MOST_INPUT_SETS:
            return [own] * (num_copies + 1)
        require_free(num_copies * count_bytes(own), self._device, f"{num_copies} copies of weights and inputs")
        with self._clock.measure("inputs"):
            sets = [own, *((copy_tensors(own[0]), copy_tensors(own[1])) for _ in range(num_copies))]
        require_cold(count_distinct(sets) * kernel.bytes_moved(case, own[1]), l2_bytes(self._device))
        return sets

    def _count_input_sets(self, kernel: Kernel, case: Case) -> int:
        """How many input sets it takes so that a round of them moves more than twice the L2."""
        moved = kernel.bytes_moved(case, self._make_inputs(kernel, case))
        return count_input_sets(moved, l2_bytes(self._device))


def _make_trial(
    case: Case,
    config: Config,
    medians: Mapping[str, tuple[float, ...]],
    failures: Mapping[str, tuple[Status, str]],
) -> ConfigTrial:
    """What came of one configuration."""
    status, reason = failures.get(config_key(config), (Status.OK, ""))
    return ConfigTrial(case.num_tokens, config, medians.get(config_key(config), ()), status, reason)


def count_bytes(tensors: tuple[Tensors, Tensors]) -> int:
    """What weights and inputs take of memory."""
    return sum(tensor.untyped_storage().nbytes() for part in tensors for tensor in part.values())


def count_distinct(sets: Sequence[tuple[Tensors, Tensors]]) -> int:
    """How many of the sets share no memory with one before."""
    seen: set[int] = set()
    num_distinct = 0
    for weights, inputs in sets:
        tensors = [tensor for tensor in (*weights.values(), *inputs.values()) if tensor.numel()]
        places = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        num_distinct += not places & seen
        seen |= places
    return num_distinct


def estimate_busy_seconds(stopwatches: Mapping[str, Stopwatch], readings: Readings, before: Mapping[str, int]) -> float:
    """Seconds the device spent in what was timed: calls, those too that only warmed up, times their median.

    Args:
        before: by name, calls that were made earlier.
    """
    samples_us = {name: reading.samples_us for name, reading in readings.providers.items()} | dict(readings.references)
    busy_us = 0.0
    for name, stopwatch in stopwatches.items():
        busy_us += (stopwatch.num_calls - before.get(name, 0)) * statistics.median(samples_us[name])
    return busy_us / 1e6


def copy_tensors(tensors: Tensors) -> Tensors:
    """The same values elsewhere in memory, in the same layout, padding and all."""
    return {name: copy_tensor(tensor) for name, tensor in tensors.items()}


def copy_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor like it on a copy of its whole storage: clone() would leave out what a view leaves out."""
    storage = tensor.untyped_storage().clone()  # type: ignore[no-untyped-call]
    empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return empty.set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())


def seed_of_inputs(seed: int) -> int:
    """Another seed than the weights': from the same one the first tokens would repeat the first weights' numbers.

    Such a token's product with its twin is sqrt(K) instead of N(0, 1): outliers that no static scale holds.
    """
    return int.from_bytes(hashlib.sha256(f"inputs {seed}".encode()).digest()[:7])


def judge_output(relative_error: float, share_close: float, tolerance: Tolerance) -> tuple[Status, str]:
    """The status of an output that was compared, and why it is wrong if it is."""
    if not relative_error <= tolerance.relative_error:  # NaN is wrong too
        return Status.WRONG, f"relative error {relative_error:.3g} is over {tolerance.relative_error:g}"
    if share_close < tolerance.share_close:
        return Status.WRONG, f"{share_close:.2%} of the elements are close, {tolerance.share_close:.2%} are needed"
    return Status.OK, ""
