"""What holds for every kernel and every provider there is or will be: a new one is tested here with no edit."""

import json
from collections.abc import Iterator
from itertools import product

import pytest
import torch

from kernels.errors import ConfigError
from kernels.registry import kernels
from kernels.spec import Case, Device, Kernel, Layer, Tensors, Tolerance
from kernels.timing.devices import device_of, erasing
from kernels.timing.graphs import GraphStopwatch

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
DEVICES = (
    Device("cpu", "cpu: test"),
    Device("cuda", "NVIDIA A100", (8, 0)),
    Device("cuda", "NVIDIA H200", (9, 0)),
    Device("cuda", "NVIDIA B200", (10, 0)),
)
SMALL_SIZES = {"num_experts": 4, "top_k": 2, "hidden_size": 256, "intermediate_size": 256, "m": 16, "n": 128, "k": 256}
"""By the names of the field, so that a new kernel with the same names needs nothing here."""


def small_case(kernel: Kernel, scheme: str, num_tokens: int = 5) -> Case:
    """A case that the interpreter runs in about a second; every option at its default."""
    sizes = {name: SMALL_SIZES[name] for name in kernel.size_names}
    layer = Layer(kernel.name, "grid", 1, 1, scheme, "bfloat16", sizes)
    return Case(layer, num_tokens)


def small_inputs(kernel: Kernel, case: Case, seed: int = 0) -> tuple[Tensors, Tensors]:
    """Weights and inputs of the case on the CPU."""
    weights = kernel.make_weights(case.layer, seed, CPU)
    return weights, kernel.make_inputs(case, weights, seed, CPU)


@pytest.fixture
def poisoned_outputs() -> Iterator[None]:
    """Let torch.empty return NaN, so that an output left unwritten shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def bytes_of(tensors: Tensors) -> dict[str, bytes]:
    return {name: bytes(tensor.contiguous().view(torch.uint8).numpy()) for name, tensor in tensors.items()}


def assert_within_tolerance(tolerance: Tolerance, output: torch.Tensor, reference: torch.Tensor) -> None:
    """The definition of Tolerance, spelled out; NaN fails both comparisons."""
    assert output.shape == reference.shape
    assert output.dtype == reference.dtype == torch.float32
    difference = (output - reference).abs()
    rms = reference.square().mean().sqrt()
    assert difference.norm() <= tolerance.relative_error * reference.norm()
    close = difference <= tolerance.element_error * (reference.abs() + rms)
    assert close.float().mean() >= tolerance.share_close


every_scheme = pytest.mark.parametrize(
    ("kernel", "scheme"),
    [
        pytest.param(kernel, scheme, id=f"{kernel.name}-{scheme}")
        for kernel in kernels().values()
        for scheme in kernel.schemes
    ],
)
every_provider = pytest.mark.parametrize(
    ("kernel", "scheme", "provider"),
    [
        pytest.param(kernel, scheme, provider, id=f"{kernel.name}-{scheme}-{provider}")
        for kernel in kernels().values()
        for scheme, provider in product(kernel.schemes, kernel.providers)
    ],
)


@every_provider
@pytest.mark.usefixtures("poisoned_outputs")
def test_every_provider_that_runs_here_matches_the_reference(kernel: Kernel, scheme: str, provider: str):
    case = small_case(kernel, scheme)
    reason = kernel.providers[provider].unsupported(case, device_of(CPU))
    # Triton's interpreter makes a CPU do, whatever the provider says of launching on one.
    if reason is not None and provider != "triton":
        pytest.skip(reason)
    weights, inputs = small_inputs(kernel, case)
    launch = kernel.providers[provider].prepare(case, weights, inputs)
    reference = kernel.reference(case, weights, inputs)
    output = kernel.decode(case, inputs, launch.run())
    assert_within_tolerance(kernel.tolerance_of(provider, scheme), output, reference)


@every_provider
def test_a_configuration_that_was_recorded_can_be_given_and_is_recorded_again(
    kernel: Kernel, scheme: str, provider: str
):
    declared, case = kernel.providers[provider], small_case(kernel, scheme)
    if declared.prepare_with is None:
        pytest.skip("takes no configuration")
    if reason := declared.unsupported(case, Device("cuda", "NVIDIA H200", (9, 0))):
        pytest.skip(reason)
    if provider.startswith("vllm"):
        pytest.importorskip("vllm")
    weights, inputs = small_inputs(kernel, case)
    chosen = declared.prepare(case, weights, inputs).config
    recorded = json.loads(json.dumps(chosen))
    assert declared.prepare_with(case, weights, inputs, recorded).config == chosen
    with pytest.raises(ConfigError, match=r"^\w+ takes no WARPS in a launch configuration: it has .*_SIZE_") as no:
        declared.prepare_with(case, weights, inputs, recorded | {"WARPS": 4})
    assert "\n" not in str(no.value)
    key = next(iter(recorded))
    with pytest.raises(ConfigError, match=rf"^\w+ needs {key} in a launch configuration: this has "):
        declared.prepare_with(case, weights, inputs, {name: recorded[name] for name in recorded if name != key})
    with pytest.raises(ConfigError, match=rf"^\w+ takes {key} as int \(this is '64'\)$"):
        declared.prepare_with(case, weights, inputs, recorded | {key: "64"})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@every_provider
def test_a_replayed_graph_gives_what_a_call_gives(kernel: Kernel, scheme: str, provider: str):
    case = small_case(kernel, scheme, num_tokens=16)
    if reason := kernel.providers[provider].unsupported(case, device_of(GPU)):
        pytest.skip(reason)
    weights = kernel.make_weights(case.layer, 0, GPU)
    inputs = kernel.make_inputs(case, weights, 0, GPU)
    launch = kernel.providers[provider].prepare(case, weights, inputs)
    eager = kernel.decode(case, inputs, launch.run()).clone()
    outputs: list[torch.Tensor] = []
    stopwatch = GraphStopwatch([lambda: outputs.__setitem__(slice(None), launch.run())])
    with erasing(outputs):
        pass
    stopwatch.take(1, lambda: None)
    replayed = kernel.decode(case, inputs, tuple(outputs))
    stopwatch.close()
    assert_within_tolerance(kernel.tolerance_of(provider, scheme), replayed, eager)


@every_provider
def test_running_twice_changes_neither_inputs_nor_result(kernel: Kernel, scheme: str, provider: str):
    case = small_case(kernel, scheme, num_tokens=2)
    if kernel.providers[provider].unsupported(case, device_of(CPU)) is not None:
        pytest.skip("does not run here")
    weights, inputs = small_inputs(kernel, case)
    before = bytes_of(weights), bytes_of(inputs)
    launch = kernel.providers[provider].prepare(case, weights, inputs)
    first, second = (kernel.decode(case, inputs, launch.run()) for _ in range(2))
    assert (bytes_of(weights), bytes_of(inputs)) == before
    torch.testing.assert_close(first, second)


@every_scheme
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(kernel: Kernel, scheme: str):
    case = small_case(kernel, scheme)
    (weights, inputs), again, other = (small_inputs(kernel, case, seed) for seed in (7, 7, 8))
    assert (bytes_of(weights), bytes_of(inputs)) == tuple(map(bytes_of, again))
    assert bytes_of(inputs) != bytes_of(other[1])


@every_scheme
def test_the_reference_is_finite_and_costs_are_positive(kernel: Kernel, scheme: str):
    case = small_case(kernel, scheme)
    weights, inputs = small_inputs(kernel, case)
    kernel.check_layer(case.layer)
    assert kernel.reference(case, weights, inputs).isfinite().all()
    assert kernel.flops(case, inputs) > 0
    assert kernel.bytes_moved(case, inputs) > 0


@every_scheme
def test_every_value_of_every_option_makes_inputs(kernel: Kernel, scheme: str):
    plain = small_case(kernel, scheme)
    for values in product(*kernel.options.values()):
        case = Case(plain.layer, plain.num_tokens, dict(zip(kernel.options, values, strict=True)))
        weights, inputs = small_inputs(kernel, case)
        assert kernel.reference(case, weights, inputs).isfinite().all()


@every_provider
@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.arch)
def test_a_provider_that_cannot_run_says_why_in_one_line(kernel: Kernel, scheme: str, provider: str, device: Device):
    reason = kernel.providers[provider].unsupported(small_case(kernel, scheme), device)
    assert reason is None or (reason.strip() and "\n" not in reason)


@pytest.mark.parametrize("kernel", kernels().values(), ids=kernels())
def test_the_baseline_runs_everywhere(kernel: Kernel):
    case = small_case(kernel, kernel.schemes[0])
    assert kernel.providers[kernel.baseline].unsupported(case, device_of(CPU)) is None


@every_scheme
def test_a_tolerance_has_bounds_that_mean_something_and_a_reason(kernel: Kernel, scheme: str):
    tolerance = kernel.tolerance[scheme]
    assert 0 < tolerance.relative_error < 0.1
    assert 0 < tolerance.element_error < 0.5
    assert 0.9 < tolerance.share_close <= 1
    assert len(tolerance.reason.split()) > 5


@every_provider
def test_a_provider_with_a_tolerance_of_its_own_says_why(kernel: Kernel, scheme: str, provider: str):
    tolerance = kernel.tolerance_of(provider, scheme)
    assert set(kernel.providers[provider].tolerance) <= set(kernel.schemes)
    assert tolerance.relative_error >= kernel.tolerance[scheme].relative_error
    assert tolerance.relative_error < 0.3
    assert len(tolerance.reason.split()) > 5
