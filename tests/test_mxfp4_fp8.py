"""MXFP4 as exact FP8 in Triton's interpreter: activations, weights, the product, rows that FP8 cannot hold."""

from dataclasses import asdict, replace

import pytest
import torch
from poison import poisoned_empty

from kernels.errors import ConfigError
from kernels.gemm.mxfp4_fp8 import multiply_fp8
from kernels.gemm.mxfp4_fp8_activations import Fp8Rows, empty_rows, rotate_to_fp8, rows_to_fp8, size_of_split
from kernels.gemm.mxfp4_fp8_configs import Mxfp4Fp8Config
from kernels.gemm.mxfp4_fp8_words import pack_fp8_words
from kernels.gemm.mxfp4_inputs import HADAMARD_SIZES
from kernels.gemm.mxfp4_wide_rows import wide_rows_triton
from kernels.mxfp4_gemm import KERNEL
from kernels.quantize.fp4 import E8M0_NAN, dequantize_mxfp4, quantize_mxfp4
from kernels.quantize.hadamard import rotate_hadamard
from kernels.spec import Case, Device, Layer

CONFIG = Mxfp4Fp8Config(16, 64, 8, 1, PROMOTE=True, PRODUCT="pipelined", num_warps=4, num_stages=3)
H200 = Device("cuda", "NVIDIA H200", (9, 0))


def case_of(scheme: str = "mxfp4_w4a4_hadamard32", dtype: str = "bfloat16", **sizes: int) -> Case:
    return Case(Layer("mxfp4_gemm", "grid", 1, 1, scheme, dtype, {"n": 48, "k": 384} | sizes), 5)


def uneven(rows: int, columns: int, span: int) -> torch.Tensor:
    """Values whose groups of 32 differ by up to `span` powers of two."""
    generator = torch.Generator().manual_seed(rows)
    exponents = torch.randint(0, span + 1, (rows, columns // 32), generator=generator)
    return torch.randn(rows, columns, generator=generator) * torch.exp2(exponents.float()).repeat_interleave(32, 1)


def values_of(rows: Fp8Rows) -> torch.Tensor:
    k = rows.codes.shape[1]
    of_split = torch.arange(k) // size_of_split(k, len(rows.scale))
    exact = rows.codes.float() * rows.scale.T[:, of_split]
    return torch.where(rows.is_wide.T[:, of_split] != 0, rows.values.float(), exact)


@pytest.mark.parametrize("size", HADAMARD_SIZES.values())
@pytest.mark.parametrize("columns", [384, 1152])
def test_rotated_and_rounded_activations_are_exact_in_fp8(size: int, columns: int) -> None:
    x = uneven(9, columns, 6).bfloat16()
    rows = rotate_to_fp8(x, size)
    expected = dequantize_mxfp4(*quantize_mxfp4(rotate_hadamard(x, size)))
    different = values_of(rows) != expected
    assert not rows.is_wide.any()
    assert different.sum() <= 3, "the order of the rotation's sum may put a value on the other side of a tie"


def test_what_rounds_activations_zeroes_the_counts_of_the_product_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "empty", poisoned_empty)
    assert rotate_to_fp8(uneven(3, 384, 6).bfloat16(), 32).arrived.count_nonzero() == 0
    codes, scales = torch.full((3, 192), 0x21, dtype=torch.uint8), torch.full((3, 12), 120, dtype=torch.uint8)
    assert rows_to_fp8(codes, scales).arrived.count_nonzero() == 0


@pytest.mark.parametrize("splits", [2, 3])
def test_splits_of_a_row_have_scales_of_their_own(splits: int) -> None:
    x = uneven(5, 1152, 6).bfloat16()
    x[1, :384] *= 2.0**-30
    x[2, 700] = torch.nan
    rows = rotate_to_fp8(x, 128, splits)
    assert rows.is_wide.tolist() == {2: [[0, 1, 0, 0, 0], [0] * 5], 3: [[0] * 5] * 3}[splits]
    assert rows.scale.isnan().sum(0).tolist() == [0, 0, 1, 0, 0]
    codes, scales = quantize_mxfp4(rotate_hadamard(x, 128))
    others, expected = torch.tensor([0, 1, 3, 4]), dequantize_mxfp4(codes, scales)
    assert (values_of(rows)[others] != expected[others]).sum() <= 3
    unpacked = rows_to_fp8(codes, scales, splits)
    assert torch.equal(unpacked.is_wide, rows.is_wide)
    assert torch.equal(values_of(unpacked)[others], expected[others])


def test_codes_are_exact_in_fp8_up_to_the_widest_span() -> None:
    codes = torch.arange(256, dtype=torch.uint8).repeat(15, 1)
    scales = torch.full((15, 16), 120, dtype=torch.uint8)
    scales[torch.arange(15), torch.arange(15)] -= torch.arange(15, dtype=torch.uint8)
    rows = rows_to_fp8(codes, scales)
    assert not rows.is_wide.any()
    assert torch.equal(values_of(rows), dequantize_mxfp4(codes, scales))


def test_a_wider_row_is_flagged_and_kept_in_16_bits_and_zeros_are_never_wide() -> None:
    codes = torch.full((3, 192), 0x21, dtype=torch.uint8)
    scales = torch.full((3, 12), 120, dtype=torch.uint8)
    scales[1, 4], scales[2, 4] = 105, 0
    codes[2, 64:80] = 0
    rows = rows_to_fp8(codes, scales)
    assert rows.is_wide.tolist() == [[0, 1, 0]]
    assert torch.equal(values_of(rows), dequantize_mxfp4(codes, scales))
    x = torch.randn(2, 384, generator=torch.Generator().manual_seed(3))
    x[1, :32] *= 2.0**-30
    assert rotate_to_fp8(x.bfloat16(), 32).is_wide.tolist() == [[0, 1]]


def test_wide_rows_are_found_wherever_they_are_and_others_left_alone() -> None:
    m, n, k = 4099, 24, 128
    generator = torch.Generator().manual_seed(7)
    weights = quantize_mxfp4(torch.randn(n, k, generator=generator))
    rows = empty_rows(m, k, 1, torch.device("cpu"))
    rows.is_wide.zero_()
    wide = torch.tensor([0, 63, 64, 4095, 4096, 4098])
    rows.is_wide[0, wide] = 1
    rows.values[wide] = torch.randn(len(wide), k, generator=generator).bfloat16()
    out = torch.full((m, n), 7.0)
    wide_rows_triton(rows, pack_fp8_words(*weights), out)
    expected = torch.full((m, n), 7.0)
    expected[wide] = rows.values[wide].float() @ dequantize_mxfp4(*weights).T
    torch.testing.assert_close(out, expected)


def test_nan_stays_in_its_row() -> None:
    x = torch.ones(3, 384, dtype=torch.bfloat16)
    x[1, 40] = torch.nan
    assert rotate_to_fp8(x, 32).scale.isnan().tolist() == [[False, True, False]]
    codes, scales = quantize_mxfp4(x.float())
    assert rows_to_fp8(codes, scales).scale.isnan().tolist() == [[False, True, False]]


def test_weights_whose_scales_span_too_much_are_refused() -> None:
    codes, scales = torch.full((2, 64), 0x11, dtype=torch.uint8), torch.full((2, 4), 120, dtype=torch.uint8)
    scales[1, 2], scales[0, 1] = 100, E8M0_NAN
    with pytest.raises(ConfigError) as error:
        pack_fp8_words(codes, scales)
    assert str(error.value) == (
        "a row of the weights has scales that span 20 powers of two, 11 at most fit beside FP8: use triton"
    )
    codes[1, 32:48] = 0
    assert pack_fp8_words(codes, scales).factor.isnan().tolist() == [True, False]


def test_every_code_under_every_shift_is_exact() -> None:
    codes = torch.stack([torch.arange(256, dtype=torch.uint8).roll(shift)[:128] for shift in range(256)])
    scales = torch.full((256, 8), 120, dtype=torch.uint8)
    scales[:, 1:7] -= (torch.arange(6) * 2)[None].to(torch.uint8) + (torch.arange(256) % 2)[:, None].to(torch.uint8)
    words = pack_fp8_words(codes, scales)
    none = torch.empty(0)
    x = Fp8Rows(torch.eye(256).to(torch.float8_e4m3fn), torch.ones(1, 256), none, torch.zeros(1, 256).int(), none)
    out = multiply_fp8(x, words, torch.float32, replace(CONFIG, BLOCK_SIZE_M=128))
    assert torch.equal(out.T, dequantize_mxfp4(codes, scales))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, on rows that nobody wrote and nobody reads
@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, SPLIT_K=2, PROMOTE=False),
        replace(CONFIG, SPLIT_K=2, BLOCK_SIZE_M=128),
        replace(CONFIG, PRODUCT="unpacked"),
    ],
    ids=["promoted", "split", "large", "unpacked"],
)
@pytest.mark.parametrize("activations", ["dynamic", "prequantized"])
def test_the_product_is_the_formula_with_wide_rows_and_nan(
    activations: str, config: Mxfp4Fp8Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scaled_mm(a, b, scale_a, scale_b, *, out_dtype, use_fast_accum):
        return (a.float() @ b.float() * scale_a * scale_b).to(out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)  # torch's own wants a GPU for scales of rows
    case = Case(case_of().layer, 5, {"activations": activations})
    weights = KERNEL.make_weights(case.layer, 0, torch.device("cpu"))
    inputs = KERNEL.make_inputs(case, weights, 1, torch.device("cpu"))
    weights["w"][:, :16] = 0  # what is small beside the first group of a row is then all that counts
    if activations == "dynamic":
        inputs["x"][1, :32] *= 2.0**30
        inputs["x"][3, 5] = torch.nan
    else:
        inputs["x_scale"][1, 0] += 30
        inputs["x_scale"][3, 1] = E8M0_NAN
    (output,) = KERNEL.providers["triton-exact-fp8"].prepare_with(case, weights, inputs, asdict(config)).run()
    reference = KERNEL.reference(case, weights, inputs)
    assert output[3].isnan().all()
    for row in (0, 1, 2, 4):
        assert (output[row].float() - reference[row]).norm() / reference[row].norm() < 0.0025


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (case_of(), None),
        (case_of("mxfp4_w4a16"), "multiplies MXFP4 activations, mxfp4_w4a16 leaves them in 16 bits"),
        (case_of(dtype="float16"), None),
    ],
)
def test_what_it_runs(case: Case, reason: str | None) -> None:
    assert KERNEL.providers["triton-exact-fp8"].unsupported(case, H200) == reason


def test_it_wants_a_hopper() -> None:
    unsupported = KERNEL.providers["triton-exact-fp8"].unsupported
    assert unsupported(case_of(), Device("cuda", "NVIDIA A100", (8, 0))) == "needs sm_90 (this is sm_80)"


@pytest.mark.gpu
@pytest.mark.parametrize("activations", ["dynamic", "prequantized"])
@pytest.mark.parametrize("num_tokens", [1, 2, 5, 16, 32, 64, 100, 3100])
def test_on_a_gpu_every_product_keeps_wide_rows_right_and_nan_in_its_row(num_tokens: int, activations: str) -> None:
    device, layer = torch.device("cuda"), case_of(n=1008, k=2720).layer
    case = Case(layer, num_tokens, {"activations": activations})
    weights = KERNEL.make_weights(layer, 0, device)
    inputs = KERNEL.make_inputs(case, weights, 1, device)
    weights["w"][:, :16] = 0  # what is small beside the first group of a row is then all that counts
    wide, nan = 0, num_tokens - 1
    if activations == "dynamic":
        inputs["x"][wide, :32] *= 2.0**30
        inputs["x"][nan, 2000] = torch.nan if nan != wide else 1.0
    else:
        inputs["x_scale"][wide, 0] += 30
        inputs["x_scale"][nan, 70] = E8M0_NAN if nan != wide else 125
    (output,) = KERNEL.providers["triton-exact-fp8"].prepare(case, weights, inputs).run()
    reference = KERNEL.reference(case, weights, inputs)
    assert output[nan].isnan().all() or nan == wide
    errors = ((output - reference).norm(dim=1) / reference.norm(dim=1))[: max(nan, 1)]
    assert errors.median() < 0.003
    assert (errors < 0.05).all(), "a value on the other side of a tie moves its row by up to 1 / sqrt(k)"


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", [1, 16, 32])
@pytest.mark.parametrize("sizes", [{"n": 10240, "k": 8192}, {"n": 1000, "k": 736}, {"n": 24, "k": 96}])
def test_on_a_gpu_few_tokens_are_multiplied_by_the_formula(num_tokens: int, sizes: dict[str, int]) -> None:
    device, case = torch.device("cuda"), Case(case_of(**sizes).layer, num_tokens)
    weights = KERNEL.make_weights(case.layer, 0, device)
    inputs = KERNEL.make_inputs(case, weights, 1, device)
    reference = KERNEL.reference(case, weights, inputs)
    for _ in range(3):  # a race would not lose every time
        (output,) = KERNEL.providers["triton-exact-fp8"].prepare(case, weights, inputs).run()
        assert (output - reference).norm() / reference.norm() < 0.01
