"""The MXFP4 linear layer in Triton's interpreter against its reference, and the reference against a slow twin."""

from dataclasses import replace
from itertools import product

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from poison import poisoned_empty

from kernels.errors import ShapeError
from kernels.gemm.mxfp4_inputs import HADAMARD_SIZES, ROWS_AT_ONCE, SCHEMES, W4A16, dequantize_weights
from kernels.gemm.mxfp4_triton import Mxfp4GemmConfig, default_config, launch_triton, rotate_round_triton
from kernels.mxfp4_gemm import KERNEL
from kernels.quantize.fp4 import E2M1_VALUES, E8M0_NAN, dequantize_mxfp4, e8m0_values, quantize_mxfp4
from kernels.quantize.hadamard import rotate_hadamard
from kernels.spec import Case, Device, Layer, Tensors

CPU = torch.device("cpu")
H200 = Device("cuda", "NVIDIA H200", (9, 0))
W4A4 = SCHEMES[0]
SCHEME_ACTIVATIONS = [
    (scheme, activations)
    for scheme, activations in product(SCHEMES, KERNEL.options["activations"])
    if (scheme, activations) != (W4A16, "prequantized")
]
every_activation = pytest.mark.parametrize(("scheme", "activations"), SCHEME_ACTIVATIONS)

# What rounding the output to bfloat16 leaves of a product whose order of sums alone differs.
BFLOAT16_ERROR = 0.0025
UNEVEN = Mxfp4GemmConfig(16, 64, 1, SPLIT_K=1, num_warps=4, num_stages=3)
CONFIGS = (
    UNEVEN,
    replace(UNEVEN, SPLIT_K=2),
    replace(UNEVEN, SPLIT_K=4),
    replace(UNEVEN, BLOCK_SIZE_M=32, BLOCK_SIZE_N=128, GROUP_SIZE_M=2),
)


def case_of(
    scheme: str = W4A4,
    num_tokens: int = 3,
    n: int = 144,
    k: int = 384,
    activations: str = "dynamic",
    dtype: str = "bfloat16",
) -> Case:
    layer = Layer("mxfp4_gemm", "grid", 1, 1, scheme, dtype, {"n": n, "k": k})
    return Case(layer, num_tokens, {} if activations == "dynamic" else {"activations": activations})


def tensors_of(case: Case, seed: int = 1) -> tuple[Tensors, Tensors]:
    weights = KERNEL.make_weights(case.layer, seed, CPU)
    return weights, KERNEL.make_inputs(case, weights, seed + 1, CPU)


def run(case: Case, weights: Tensors, inputs: Tensors, provider: str = "triton") -> torch.Tensor:
    return KERNEL.providers[provider].prepare(case, weights, inputs).run()[0]


def relative_error(output: torch.Tensor, reference: torch.Tensor) -> float:
    return ((output.float() - reference).norm() / reference.norm()).item()


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left unwritten is NaN, or the code of a NaN scale."""
    monkeypatch.setattr(torch, "empty", poisoned_empty)


@every_activation
@pytest.mark.parametrize("num_tokens", [1, 3, 17])
@pytest.mark.usefixtures("poisoned")
def test_triton_matches_the_reference_for_odd_batches_and_a_tile_that_is_not_full(scheme, activations, num_tokens):
    case = case_of(scheme, num_tokens, activations=activations)
    weights, inputs = tensors_of(case)
    assert relative_error(run(case, weights, inputs), KERNEL.reference(case, weights, inputs)) < BFLOAT16_ERROR


@every_activation
@pytest.mark.usefixtures("poisoned")
def test_float16_activations_give_float16_outputs_and_its_smaller_error(scheme, activations):
    case = case_of(scheme, activations=activations, dtype="float16")
    weights, inputs = tensors_of(case)
    for provider in ("torch-bf16", "torch", "triton"):
        output = run(case, weights, inputs, provider)
        assert output.dtype == torch.float16
        assert relative_error(output, KERNEL.reference(case, weights, inputs)) < BFLOAT16_ERROR / 8


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("scheme", "k"), [(W4A4, 160), (W4A4, 384), (W4A16, 96), (W4A16, 384)])
@pytest.mark.usefixtures("poisoned")
def test_every_way_to_tile_and_split_the_sum_gives_the_same(config, scheme, k):
    case = case_of(scheme, num_tokens=33, k=k)
    weights, inputs = tensors_of(case)
    (output,) = launch_triton(case, weights, inputs, config).run()
    assert relative_error(output, KERNEL.reference(case, weights, inputs)) < BFLOAT16_ERROR


@settings(max_examples=8, deadline=None)
@given(
    scheme_activations=st.sampled_from(SCHEME_ACTIVATIONS),
    num_tokens=st.integers(1, 40),
    n=st.integers(1, 150),
    groups=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_triton_matches_the_reference_for_any_sizes(scheme_activations, num_tokens, n, groups, seed):
    scheme, activations = scheme_activations
    case = case_of(scheme, num_tokens, n, groups * HADAMARD_SIZES.get(scheme, 32), activations)
    weights, inputs = tensors_of(case, seed)
    # A code on the other side of a tie moves its row by up to 1 / sqrt(k).
    assert relative_error(run(case, weights, inputs), KERNEL.reference(case, weights, inputs)) < BFLOAT16_ERROR + 0.18


@every_activation
def test_zero_rows_give_zeros(scheme, activations):
    case = case_of(scheme, num_tokens=4, activations=activations)
    weights, inputs = tensors_of(case)
    inputs["x"][::2] = 0
    if "x_codes" in inputs:
        inputs["x_codes"][::2], inputs["x_scale"][::2] = quantize_mxfp4(torch.zeros(384))
    output = run(case, weights, inputs)
    assert (output[::2] == 0).all()
    assert (output[1::2] != 0).any(dim=-1).all()
    assert relative_error(output, KERNEL.reference(case, weights, inputs)) < BFLOAT16_ERROR


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy's, which interprets the kernel
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@every_activation
def test_a_row_with_nan_or_infinity_stays_alone_and_visible(scheme, activations, bad):
    """Quantized to MXFP4 its group has the NaN scale, so all of its outputs are NaN; in 16 bits arithmetic decides."""
    case = case_of(scheme, num_tokens=5, activations=activations)
    weights, inputs = tensors_of(case)
    clean = run(case, weights, inputs)
    inputs["x"][2, 40] = bad
    if "x_codes" in inputs:
        size = HADAMARD_SIZES[scheme]
        inputs["x_codes"], inputs["x_scale"] = quantize_mxfp4(rotate_hadamard(inputs["x"], size))
    others = [0, 1, 3, 4]
    for provider in ("torch-bf16", "torch", "triton"):
        output, reference = run(case, weights, inputs, provider), KERNEL.reference(case, weights, inputs)
        assert not output[2].isfinite().any()
        assert torch.equal(output[2].isnan(), reference[2].isnan())
        if scheme != W4A16:
            assert output[2].isnan().all()
        if provider == "triton":
            assert torch.equal(output[others], clean[others])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, in the interpreter
def test_weights_with_nan_and_extreme_scales_are_unpacked_as_the_reference_does():
    case = case_of(W4A16, num_tokens=2, n=6, k=64)
    weights, inputs = tensors_of(case)
    weights["w_scale"][:, 0] = torch.tensor([0, 1, 200, 240, E8M0_NAN, 127], dtype=torch.uint8)
    weights["w"][0], weights["w_scale"][0] = 0x77, 0  # 6 * 2**-127 everywhere
    inputs["x"][:] = 1
    output, reference = run(case, weights, inputs), KERNEL.reference(case, weights, inputs)
    assert output[:, 4].isnan().all()
    assert reference[:, 4].isnan().all()
    rest = [0, 1, 2, 3, 5]
    torch.testing.assert_close(output[:, rest].float(), reference[:, rest], rtol=0.005, atol=0)


def ranks_of(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """E2m1 values in their order, -7..7."""
    steps = torch.tensor(E2M1_VALUES)
    relative = (values.float().unflatten(-1, (-1, 32)) / e8m0_values(scales)[..., None]).flatten(-2)
    ranks = torch.searchsorted(steps, relative.abs())
    assert torch.equal(steps[ranks], relative.abs()), "an e2m1 value times its scale, exactly"
    return ranks * relative.sign().int()


def assert_same_quantization(x: torch.Tensor, size: int, most_different: int) -> None:
    """Codes differ only where the order of the rotation's sum put a value on the other side of a tie."""
    codes, scales = quantize_mxfp4(rotate_hadamard(x, size))
    expected = dequantize_mxfp4(codes, scales)
    difference = ranks_of(rotate_round_triton(x, size), scales) - ranks_of(expected, scales)
    assert (difference != 0).sum() <= most_different
    assert (difference.abs() <= 1).all()


@pytest.mark.parametrize("size", HADAMARD_SIZES.values())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("poisoned")
def test_the_fused_rotation_and_quantization_is_that_of_plain_torch(size, dtype):
    x = torch.randn(33, 896, generator=torch.Generator().manual_seed(size)).to(dtype)
    assert_same_quantization(x, size, most_different=3)


@settings(max_examples=15, deadline=None)
@given(
    size=st.sampled_from(sorted(HADAMARD_SIZES.values())),
    rows=st.integers(1, 5),
    exponent=st.integers(-130, 120),
    seed=st.integers(0, 99),
)
@example(size=32, rows=1, exponent=-123, seed=22)  # some of x is subnormal
def test_rotation_and_quantization_hold_at_any_magnitude(size, rows, exponent, seed):
    x = torch.randn(rows, 2 * size, generator=torch.Generator().manual_seed(seed))
    assert_same_quantization((x.double() * 2.0**exponent).bfloat16(), size, most_different=1)


@pytest.mark.parametrize("size", HADAMARD_SIZES.values())
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_all_of_a_group_with_nan_or_infinity_is_nan(size, bad):
    x = torch.ones(2, 2 * size, dtype=torch.bfloat16)
    x[0, 0] = bad
    is_bad = torch.zeros(2, 2 * size, dtype=torch.bool)
    is_bad[0, :size] = True
    assert torch.equal(rotate_round_triton(x, size).isnan(), is_bad)


# The reference against a slow twin in numpy float64, whose types are ml_dtypes'.


def rotate_slowly(x: np.ndarray, size: int) -> np.ndarray:
    signs = np.array([[(-1.0) ** (i & j).bit_count() for j in range(size)] for i in range(size)])
    return (x.reshape(-1, size) @ signs / np.sqrt(size)).reshape(x.shape)


def round_slowly(x: np.ndarray) -> np.ndarray:
    groups = x.reshape(-1, 32)
    scales = 2.0 ** (np.floor(np.log2(np.abs(groups).max(1))) - 2)
    scales = scales.astype(ml_dtypes.float8_e8m0fnu).astype(np.float64)[:, None]
    codes = np.clip(groups / scales, -6, 6).astype(ml_dtypes.float4_e2m1fn)
    return (codes.astype(np.float64) * scales).reshape(x.shape)


def decode_slowly(packed: torch.Tensor, scales: torch.Tensor) -> np.ndarray:
    nibbles = np.stack([packed.numpy() & 15, packed.numpy() >> 4], -1).reshape(-1, 32)
    values = nibbles.view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    powers = scales.numpy().view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    return (values * powers.reshape(-1, 1)).reshape(packed.shape[0], -1)


@every_activation
@pytest.mark.parametrize("seed", range(3))
def test_the_reference_is_its_slow_twin(scheme, activations, seed):
    case = case_of(scheme, num_tokens=9, activations=activations)
    weights, inputs = tensors_of(case, seed)
    x = inputs["x"].double().numpy()
    if scheme != W4A16:
        x = round_slowly(rotate_slowly(x, HADAMARD_SIZES[scheme]))
    slow = x @ decode_slowly(weights["w"], weights["w_scale"]).T
    reference = KERNEL.reference(case, weights, inputs)
    assert reference.dtype == torch.float32
    torch.testing.assert_close(reference.double(), torch.from_numpy(slow), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_are_the_rotated_draw_quantized_and_what_the_layer_computes_is_close_to_x_w(scheme):
    case = case_of(scheme, num_tokens=16, n=64)
    weights, inputs = tensors_of(case)
    drawn = torch.randn(64, 384, generator=torch.Generator().manual_seed(1)) * 384**-0.5
    rotated = rotate_slowly(drawn.double().numpy(), HADAMARD_SIZES[scheme]) if scheme != W4A16 else drawn.numpy()
    close = np.isclose(decode_slowly(weights["w"], weights["w_scale"]), round_slowly(rotated), atol=0)
    assert close.mean() > 0.9999
    # Rotating both operands leaves the product as it is: only the rounding to 4 bits is lost, of one operand or of two.
    error = relative_error(KERNEL.reference(case, weights, inputs), inputs["x"].float() @ drawn.T)
    assert 0.05 < error < (0.13 if scheme == W4A16 else 0.2)


def test_weights_drawn_in_parts_are_those_drawn_at_once(monkeypatch):
    case = case_of(n=20)
    whole = KERNEL.make_weights(case.layer, 3, CPU)
    monkeypatch.setattr("kernels.gemm.mxfp4_inputs.ROWS_AT_ONCE", 7)
    parts = KERNEL.make_weights(case.layer, 3, CPU)
    assert ROWS_AT_ONCE > 7
    assert parts["w"].shape == whole["w"].shape == (20, 192)
    values = dequantize_weights(parts, torch.float32)
    assert torch.equal(values, dequantize_mxfp4(parts["w"], parts["w_scale"]))


def test_inputs_of_prequantized_activations_hold_their_codes_and_costs_count_them():
    dynamic, prequantized = case_of(num_tokens=5), case_of(num_tokens=5, activations="prequantized")
    weights, inputs = tensors_of(prequantized)
    assert inputs["x_codes"].shape == (5, 192)
    assert inputs["x_scale"].shape == (5, 12)
    weight_bytes, output_bytes = weights["w"].nbytes + weights["w_scale"].nbytes, 5 * 144 * 2
    assert KERNEL.bytes_moved(prequantized, inputs) == weight_bytes + 5 * (192 + 12) + output_bytes
    assert KERNEL.bytes_moved(dynamic, tensors_of(dynamic)[1]) == weight_bytes + 5 * 384 * 2 + output_bytes
    assert KERNEL.flops(dynamic, inputs) == 2 * 5 * 144 * 384
    assert KERNEL.num_weights(dynamic.layer) == 144 * 384


@pytest.mark.parametrize(
    ("scheme", "k", "message"),
    [
        (W4A16, 40, "k 40 per rank is not a multiple of 32, which mxfp4_w4a16 needs: use a smaller tp_size"),
        (W4A4, 48, "k 48 per rank is not a multiple of 32, which mxfp4_w4a4_hadamard32 needs: use a smaller tp_size"),
        (
            "mxfp4_w4a4_hadamard128",
            192,
            "k 192 per rank is not a multiple of 128, which mxfp4_w4a4_hadamard128 needs: "
            "use a smaller tp_size or mxfp4_w4a4_hadamard32",
        ),
    ],
)
def test_a_k_that_does_not_divide_is_refused_in_one_line(scheme, k, message):
    with pytest.raises(ShapeError) as error:
        KERNEL.check_layer(case_of(scheme, k=k).layer)
    assert str(error.value) == message


def test_w4a16_with_prequantized_activations_is_refused_by_every_provider():
    case = case_of(W4A16, activations="prequantized")
    blackwell = Device("cuda", "NVIDIA B200", (10, 0))
    assert {provider.unsupported(case, blackwell) for provider in KERNEL.providers.values()} == {
        "mxfp4_w4a16 does not quantize activations: activations=prequantized is for the w4a4 schemes"
    }


def test_triton_wants_bfloat16_tensor_cores():
    unsupported = KERNEL.providers["triton"].unsupported
    assert unsupported(case_of(), H200) is None
    assert unsupported(case_of(), Device("cuda", "NVIDIA T4", (7, 5))) == "needs sm_80 (this is sm_75)"
    assert unsupported(case_of(), Device("cpu", "cpu: test")) == "needs a CUDA GPU (this is cpu)"


@pytest.mark.parametrize("n", [1024, 8192, 57344])
@pytest.mark.parametrize("m", [1, 16, 64, 1024])
def test_the_default_configuration_gives_few_tokens_enough_programs(m, n):
    config = default_config(m, n, 8192)
    tiles = -(-m // config.BLOCK_SIZE_M) * -(-n // config.BLOCK_SIZE_N)
    assert config.SPLIT_K == 1 or m <= 256
    assert m > 64 or tiles * config.SPLIT_K >= 64
    assert config.BLOCK_SIZE_M >= 16
