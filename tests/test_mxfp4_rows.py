"""One token of the MXFP4 linear layer by rows of integers: in Triton's interpreter, compiled for Hopper, on a GPU."""

from dataclasses import asdict, replace
from functools import cache
from typing import Any

import pytest
import torch
from compilations import assert_fits, compile_for
from poison import poisoned_empty

from kernels.gemm.mxfp4_fp8_configs import default_fp8_config
from kernels.gemm.mxfp4_fp8_words import pack_fp8_words
from kernels.gemm.mxfp4_inputs import HADAMARD_SIZES
from kernels.gemm.mxfp4_rows import multiply_rows, quantize_token
from kernels.mxfp4_gemm import KERNEL
from kernels.quantize.fp4 import E8M0_NAN, dequantize_mxfp4, quantize_mxfp4
from kernels.quantize.hadamard import rotate_hadamard
from kernels.spec import Case, Layer

CONFIG = replace(default_fp8_config(1, 8192, 8192), num_warps=4)
SIZES = [(48, 512), (51, 384), (9, 96), (60, 32), (16, 1024)]
"""n and k: whole tiles; rows and steps that are none; less than a step; several tiles of a program; one step a warp."""

SCRIPT = """
import json, sys
from dataclasses import asdict
import torch
from kernels.compile import compile_launches
from kernels.gemm.mxfp4_fp8 import prepare_fp8
from kernels.spec import Case, Layer

def codes(*shape):
    return torch.zeros(shape, dtype=torch.uint8)

compiled = []
for n, k in ((8192, 8192), (10240, 8192), (8200, 8160)):
    with torch.device("meta"):
        weights = {"w": codes(n, k // 2), "w_scale": codes(n, k // 32)}
        x = {"x": torch.empty(1, k, dtype=torch.bfloat16)}
        quantized = {"x_codes": codes(1, k // 2), "x_scale": codes(1, k // 32)}
    layer = Layer("mxfp4_gemm", "grid", 1, 1, "mxfp4_w4a4_hadamard32", "bfloat16", {"n": n, "k": k})
    for inputs in (x, x | quantized):
        launch = prepare_fp8(Case(layer, 1), weights, inputs)
        compiled.append([asdict(record) for record in compile_launches(sys.argv[1], launch.run)])
print(json.dumps(compiled))
"""


@cache
def compile_rows() -> list[list[dict[str, Any]]]:
    """What is launched, dynamic and prequantized in turn."""
    return compile_for("sm_90", SCRIPT)


def test_it_fits_a_hopper_with_16_warps():
    for records in compile_rows():
        for record in records:
            assert_fits(record)
        assert records[-1]["name"] == "mxfp4_rows_kernel"
        assert records[-1]["registers"] <= 128


def test_prequantized_it_is_one_launch_and_dynamic_two():
    assert [len(records) for records in compile_rows()] == [2, 1, 2, 1, 2, 1]


def codes_of(rows: int, k: int, span: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random codes, and scales of up to `span` powers of two."""
    generator = torch.Generator().manual_seed(rows)
    codes = torch.randint(0, 256, (rows, k // 2), generator=generator, dtype=torch.uint8)
    return codes, torch.randint(120 - span, 121, (rows, k // 32), generator=generator, dtype=torch.uint8)


def multiply(x: tuple[torch.Tensor, torch.Tensor], w: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return multiply_rows(*x, pack_fp8_words(*w), torch.float32, num_warps=4)


def assert_exact(x: tuple[torch.Tensor, torch.Tensor], w: tuple[torch.Tensor, torch.Tensor]) -> None:
    """But for the rounding of a float32 sum."""
    expected = dequantize_mxfp4(*x).double() @ dequantize_mxfp4(*w).double().T
    assert (multiply(x, w) - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize(("n", "k"), SIZES)
def test_it_is_exact_whatever_the_span_of_the_token(n: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "empty", poisoned_empty)
    monkeypatch.setattr("kernels.gemm.mxfp4_rows.count_sms", lambda _: 3)
    x, w = codes_of(1, k), codes_of(n, k, span=11)
    x[1][0, 0] = 90
    assert_exact(x, w)
    x[1][0, 1:] = 0
    x[0][0, 16:] = 0  # what is left is one group, of 30 powers of two less than the others were
    assert torch.equal(multiply(x, w), dequantize_mxfp4(*x) @ dequantize_mxfp4(*w).T)


def test_every_code_by_every_code_under_every_shift() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    w = codes.repeat(2).view(16, 32), torch.full((16, 2), 120, dtype=torch.uint8)
    w[1][:, 1] -= torch.arange(16, dtype=torch.uint8) % 12
    for shift in range(0, 256, 16):
        x = codes.roll(shift)[None, :32].contiguous(), torch.tensor([[100, 130]], dtype=torch.uint8)
        assert_exact(x, w)


@pytest.mark.parametrize("size", HADAMARD_SIZES.values())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_token_is_rotated_and_quantized_as_mxfp4_says(size: int, dtype: torch.dtype) -> None:
    x = torch.randn(1, 3 * 16 * size // 2, generator=torch.Generator().manual_seed(size)).to(dtype)
    x[0, :size] *= 2.0**-9
    expected = quantize_mxfp4(rotate_hadamard(x, size))
    codes, scales = quantize_token(x, size)
    assert torch.equal(scales, expected[1])
    different = dequantize_mxfp4(codes, scales) != dequantize_mxfp4(*expected)
    assert different.sum() <= 2, "the order of the rotation's sum may put a value on the other side of a tie"


def case_of(num_tokens: int = 1, dtype: str = "bfloat16", activations: str = "dynamic", **sizes: int) -> Case:
    layer = Layer("mxfp4_gemm", "grid", 1, 1, "mxfp4_w4a4_hadamard32", dtype, {"n": 48, "k": 384} | sizes)
    return Case(layer, num_tokens, {"activations": activations})


@pytest.mark.parametrize("activations", ["dynamic", "prequantized"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_token_is_the_formula_and_nan_makes_all_of_it_nan(dtype: str, activations: str) -> None:
    case, device = case_of(1, dtype, activations), torch.device("cpu")
    weights = KERNEL.make_weights(case.layer, 0, device)
    inputs = KERNEL.make_inputs(case, weights, 1, device)
    provider = KERNEL.providers["triton-exact-fp8"]
    (output,) = provider.prepare_with(case, weights, inputs, asdict(CONFIG)).run()
    reference = KERNEL.reference(case, weights, inputs)
    assert output.dtype == inputs["x"].dtype
    assert (output - reference).norm() / reference.norm() < 0.0025
    if activations == "dynamic":
        inputs["x"][0, 40] = torch.inf
    else:
        inputs["x_scale"][0, 1] = E8M0_NAN
    (output,) = provider.prepare_with(case, weights, inputs, asdict(CONFIG)).run()
    assert output.isnan().all()


def test_nan_in_weights_stays_in_its_row() -> None:
    w = codes_of(10, 96)
    w[1][3, 1] = E8M0_NAN
    assert multiply(codes_of(1, 96), w).isnan().tolist() == [[row == 3 for row in range(10)]]


@pytest.mark.gpu
@pytest.mark.parametrize("activations", ["dynamic", "prequantized"])
@pytest.mark.parametrize("sizes", [(8192, 8192), (10240, 8192), (1008, 2720), (24, 96), (4099, 4096), (1, 8160)])
def test_on_a_gpu_it_is_the_formula(sizes: tuple[int, int], activations: str) -> None:
    n, k = sizes
    device, case = torch.device("cuda"), case_of(n=n, k=k, activations=activations)
    weights = KERNEL.make_weights(case.layer, 0, device)
    inputs = KERNEL.make_inputs(case, weights, 1, device)
    if activations == "prequantized":
        inputs["x_scale"][0, 0] -= 40
    reference = KERNEL.reference(case, weights, inputs)
    for _ in range(3):  # a race would not lose every time
        (output,) = KERNEL.providers["triton-exact-fp8"].prepare(case, weights, inputs).run()
        assert (output - reference).norm() / reference.norm() < 0.01
    if activations == "prequantized":
        inputs["x_scale"][0, 1] = E8M0_NAN
    else:
        inputs["x"][0, 33] = torch.nan
    (output,) = KERNEL.providers["triton-exact-fp8"].prepare(case, weights, inputs).run()
    assert output.isnan().all()


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "k"), [*SIZES, (1100, 32)])
def test_on_a_gpu_it_is_exact(n: int, k: int) -> None:
    x, w = (tuple(tensor.cuda() for tensor in codes_of(*size)) for size in ((1, k), (n, k, 11)))
    assert_exact(x, w)
