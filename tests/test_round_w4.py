"""Rounding activations to FP4 in Triton's interpreter against the plain-torch quantizers, without a tolerance."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.moe.round_w4 import round_rows_kernel
from kernels.quantize.fp4 import dequantize_mxfp4, nvfp4_values, quantize_mxfp4, quantize_nvfp4

GLOBAL_SCALE = torch.tensor([336.0])
GROUP_SIZES = {"mxfp4": 32, "nvfp4": 16}
every_format = pytest.mark.parametrize("weight_format", GROUP_SIZES)


def expected_values(x: torch.Tensor, weight_format: str) -> torch.Tensor:
    if weight_format == "mxfp4":
        return dequantize_mxfp4(*quantize_mxfp4(x, avoid_saturation=True))
    codes, scales, _ = quantize_nvfp4(x, GLOBAL_SCALE)
    return nvfp4_values(codes, scales)


def round_rows(
    x: torch.Tensor,
    weight_format: str,
    weights: torch.Tensor | None = None,
    top_k: int = 1,
    expert_num_tokens: torch.Tensor | None = None,
) -> torch.Tensor:
    rows, k = x.shape[0] * top_k, x.shape[1]
    out = torch.full((rows, k), torch.nan, dtype=torch.bfloat16)
    rows_per_expert = None if expert_num_tokens is None else rows // len(expert_num_tokens)
    round_rows_kernel[(rows, -(-k // 128))](
        x, weights, GLOBAL_SCALE, out, None, None, expert_num_tokens, rows_per_expert, k, top_k,
        FORMAT=weight_format, GROUP_SIZE=GROUP_SIZES[weight_format], BLOCK_SIZE_K=128,
    )  # fmt: skip
    return out


def random_rows(rows: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


def assert_same_values(output: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal without a tolerance, and exact in bfloat16; only zeros may differ in sign."""
    assert torch.equal(expected.to(torch.bfloat16).float(), expected)
    assert torch.equal(output.float(), expected)


@every_format
@settings(max_examples=8, deadline=None)
@given(exponent=st.integers(-30, 20), k=st.sampled_from([32, 96, 160]), seed=st.integers(0, 999))
def test_rows_are_rounded_as_the_quantizer_does(weight_format: str, exponent: int, k: int, seed: int):
    x = random_rows(3, k, seed) * 2.0**exponent
    assert_same_values(round_rows(x, weight_format), expected_values(x, weight_format))


@every_format
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # numpy's, in the interpreter
def test_ties_and_the_edges_of_scales_are_rounded_as_the_quantizer_does(weight_format: str):
    ties = torch.tensor(
        [6.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 0.2490234375, 5.03125, 0, -0.75, -5, 2.515625, 1, 4]
    )
    x = torch.stack([ties.repeat(2) * (amax / 6) for amax in (6.0, 6.96875, 7.0, 7.96875, 1.0, 2.0**-120, 2.0**127)])
    x = x.to(torch.bfloat16)
    assert_same_values(round_rows(x, weight_format), expected_values(x, weight_format))


@every_format
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, in the interpreter
def test_groups_of_nan_and_zero_and_infinity_stay_what_they_are(weight_format: str):
    x = random_rows(4, 64)
    x[0, 3], x[1, 40], x[2] = torch.nan, -torch.inf, 0
    output, expected = round_rows(x, weight_format).float(), expected_values(x, weight_format)
    assert torch.equal(output.isnan(), expected.isnan())
    assert torch.equal(output.nan_to_num(), expected.nan_to_num())
    assert output[0].isnan().any()


@every_format
def test_each_pair_gets_its_own_weighted_copy_of_its_token(weight_format: str):
    x, weights = random_rows(3, 64), torch.tensor([0.9, 0.1, 0.5, 0.5, 0.0, 1.0])
    weighted = x.float().repeat_interleave(2, dim=0) * weights[:, None]
    assert_same_values(round_rows(x, weight_format, weights, top_k=2), expected_values(weighted, weight_format))


@every_format
def test_the_padding_of_batched_activations_is_left_alone(weight_format: str):
    x = random_rows(6, 32)
    output = round_rows(x, weight_format, expert_num_tokens=torch.tensor([2, 0], dtype=torch.int32))
    assert_same_values(output[:2], expected_values(x[:2], weight_format))
    assert output[2:].isnan().all()
