"""The products of a few tokens, row by row: every scheme that has no words, on the inputs that break kernels."""

from dataclasses import replace

import pytest
import torch
from test_moe_schemes import GROUPED, most_error, output_of, relative_error, tensors_of
from test_moe_schemes import case_of as case_of_sizes

from kernels.errors import ConfigError
from kernels.fused_moe import dtype_of, fused_moe_reference
from kernels.moe.fused_triton import launch_triton
from kernels.moe.inputs import local_expert_ids
from kernels.moe.schemes import MOE_SCHEMES
from kernels.moe.triton_configs import MoeConfig, default_config
from kernels.spec import Case, Tensors

SCHEMES = [name for name, scheme in MOE_SCHEMES.items() if not scheme.has_words]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
BY_ROW = MoeConfig(1, 32, 64, 256, 1, SWAP_AB=False, QUANTIZE_ON_LOAD=False, num_warps=4, num_stages=3)
ON_INPUT = {"apply_router_weight_on_input": "true"}
QUANTIZED_FROM_16_BITS = 0.035
"""FP8 intermediates with more than one scale: no program has all that one of them is of."""


def case_of(scheme: str, options: dict[str, str] | None = None, num_tokens: int = 2, **changes: int) -> Case:
    case = case_of_sizes(scheme, options, num_tokens)
    return replace(case, layer=replace(case.layer, sizes=case.layer.sizes | changes))


def check_by_row(case: Case, weights: Tensors, inputs: Tensors, config: MoeConfig = BY_ROW) -> torch.Tensor:
    output = output_of("triton", case, weights, inputs, config)
    assert output.dtype == dtype_of(case.layer)
    error = relative_error(output.float(), fused_moe_reference(case, weights, inputs))
    from_16_bits = case.layer.scheme in ("fp8_w8a8_block128", "fp8_w8a8_channel")
    assert error < (QUANTIZED_FROM_16_BITS if from_16_bits else most_error(case))
    return output


@every_scheme
@pytest.mark.parametrize("options", [{}, ON_INPUT], ids=["default", "on_input"])
def test_a_row_at_a_time_computes_the_formula(scheme: str, options: dict[str, str]):
    case = case_of(scheme, options, hidden_size=384)
    check_by_row(case, *tensors_of(case))


@pytest.mark.parametrize("scheme", ["fp8_w8a8", "fp8_w8a8_block128"])
@pytest.mark.parametrize("options", [{}, ON_INPUT], ids=["default", "on_input"])
def test_quantizing_on_load_changes_nothing(scheme: str, options: dict[str, str]):
    case = case_of(scheme, options)
    tensors = tensors_of(case)
    on_load = check_by_row(case, *tensors, replace(BY_ROW, QUANTIZE_ON_LOAD=True))
    assert torch.equal(on_load, check_by_row(case, *tensors))


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme not in GROUPED])
def test_sizes_that_no_tile_divides_are_masked(scheme: str):
    case = case_of(scheme, hidden_size=148, intermediate_size=92)
    check_by_row(case, *tensors_of(case))


@every_scheme
def test_float16_loses_no_more_than_the_reference(scheme: str):
    case = case_of(scheme)
    case = replace(case, layer=replace(case.layer, dtype="float16"))
    check_by_row(case, *tensors_of(case))


@every_scheme
def test_pairs_of_other_ranks_experts_add_nothing(scheme: str):
    case = case_of(scheme, num_tokens=4)
    case = replace(case, layer=replace(case.layer, ep_size=4))
    weights, inputs = tensors_of(case)
    inputs["topk_ids"] = torch.tensor([[0, 9], [9, 12], [2, 1], [15, 3]], dtype=torch.int32)
    elsewhere = (local_expert_ids(inputs) < 0).all(dim=1)
    assert elsewhere.tolist() == [False, True, False, False]
    output = check_by_row(case, weights, inputs)
    assert (output[elsewhere] == 0).all()


def test_sums_are_the_same_every_time_and_in_every_batch():
    case = case_of("fp8_w8a8_block128", num_tokens=4)
    weights, inputs = tensors_of(case)
    together = output_of("triton", case, weights, inputs, BY_ROW)
    for token in range(4):
        alone = {name: tensor[token : token + 1].contiguous() for name, tensor in inputs.items()}
        output = output_of("triton", replace(case, num_tokens=1), weights, alone, BY_ROW)
        assert torch.equal(output, together[token : token + 1])


@every_scheme
def test_few_pairs_go_row_by_row_unless_weights_are_integers(scheme: str):
    few, many = (default_config(case_of(scheme, num_tokens=m, num_experts=64)) for m in (8, 9))
    assert (few.BLOCK_SIZE_M == 1) == (MOE_SCHEMES[scheme].weight_dtype != torch.int8)
    assert many.BLOCK_SIZE_M == 16


def test_rows_by_expert_have_no_tokens_to_sum_up():
    case = case_of("fp8_w8a8", {"activation_format": "batched"})
    assert default_config(replace(case, num_tokens=1)).BLOCK_SIZE_M == 16
    with pytest.raises(ConfigError, match=r"BLOCK_SIZE_M=1: .* batched"):
        launch_triton(case, *tensors_of(case), BY_ROW)
