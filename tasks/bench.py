"""What a worker does with its device: hold one layer's weights, check providers on it, time them.

It runs inside a worker process and knows nothing of Ray, Prefect or the store. Whatever a provider raises passes
through: the caller turns it into a status (tasks/measure.py).
"""

import hashlib
import math
import os

import torch

from kernels.ceilings import Rate, measure_ceilings
from kernels.registry import find_kernel
from kernels.spec import Case, Kernel, Layer, Tensors, Tolerance
from kernels.timing import TIMERS, erasing, poison_memory, synchronize
from tasks.provenance import describe_host
from tasks.records import Check, Host, Status, WeightsReceipt
from tasks.weights import generate_weights


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
        self._seed = 0
        self._weights: Tensors = {}
        self._case_key = ""
        self._inputs: Tensors = {}
        self._reference: torch.Tensor | None = None

    def host(self) -> Host:
        """The environment of this worker."""
        return self._host

    def ceilings(self) -> tuple[Rate, ...]:
        """What the device does at best, measured now."""
        try:
            return measure_ceilings(self._device)
        finally:
            self.drop_case()  # the memory that was measured with is the layers' again

    def load_layer(self, layer: Layer, seed: int) -> WeightsReceipt:
        """Generate the layer's weights and keep them, instead of those of the layer before."""
        self.drop_case()
        self._weights = {}
        self._weights, receipt = generate_weights(layer, seed, self._device, self._host.host_id)
        self._seed = seed
        return receipt

    def check(self, case: Case, provider: str) -> Check:
        """Run a provider once and compare its output with the reference."""
        kernel = find_kernel(case.layer.kernel)
        reason = kernel.providers[provider].unsupported(case, self._host.device)
        if reason:
            return Check(case, provider, Status.UNSUPPORTED, self._host.host_id, reason)
        inputs = self._make_inputs(kernel, case)
        if self._reference is None:
            self._reference = kernel.reference(case, self._weights, inputs)
        tolerance = kernel.tolerance_of(provider, case.layer.scheme)
        launch = kernel.providers[provider].prepare(case, self._weights, inputs)
        poison_memory(self._reference.numel() * 4, self._device)
        outputs = launch.run()
        synchronize(self._device)
        with erasing(outputs):
            error, share_close = compare(kernel.decode(case, inputs, outputs), self._reference, tolerance)
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
        )

    def time(self, case: Case, provider: str, timer: str) -> tuple[float, ...]:
        """Time a provider that passed its check.

        Returns:
            Every sample, in microseconds per call.
        """
        kernel = find_kernel(case.layer.kernel)
        inputs = self._make_inputs(kernel, case)
        launch = kernel.providers[provider].prepare(case, self._weights, inputs)
        return TIMERS[timer].time(launch.run)

    def drop_case(self) -> None:
        """Free the inputs and the reference of the case in hand."""
        self._case_key, self._inputs, self._reference = "", {}, None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _make_inputs(self, kernel: Kernel, case: Case) -> Tensors:
        """Inputs of a case, made once and kept while its providers take turns."""
        if self._case_key != case.key:
            self.drop_case()
            self._inputs = kernel.make_inputs(case, self._weights, seed_of_inputs(self._seed), self._device)
            self._case_key = case.key
        return self._inputs


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
