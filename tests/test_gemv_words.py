"""The products of a few tokens with repacked FP4 weights, row by row: both formats and both orders of words."""

from dataclasses import asdict, replace

import pytest
import torch
from w4_cases import case_of, relative_error, tensors_of

from kernels import mxfp4_moe, nvfp4_moe
from kernels.errors import ConfigError
from kernels.moe.inputs import local_expert_ids, weights_input
from kernels.moe.routing import routing_of
from kernels.moe.words_triton import BY_ROW, WordsConfig, words_gemv
from kernels.spec import Case, Kernel, Tensors

FORMATS = [(mxfp4_moe.KERNEL, mxfp4_moe.W4A16), (nvfp4_moe.KERNEL, nvfp4_moe.W4A16)]
LAYERS = {"mxfp4_moe": mxfp4_moe.triton_layer, "nvfp4_moe": nvfp4_moe.triton_layer}
every_format = pytest.mark.parametrize(("kernel", "scheme"), FORMATS)
WIDE = replace(BY_ROW, GATE_UP_BLOCK_SIZE_N=32, DOWN_BLOCK_SIZE_N=64)
"""Fewer programs, each of which takes the interpreter as long."""
every_order = pytest.mark.parametrize("by_lanes", [False, True], ids=["by quarters", "by lanes"])


def run(
    kernel: Kernel, case: Case, weights: Tensors, inputs: Tensors, by_lanes: bool, config: WordsConfig = WIDE
) -> torch.Tensor:
    layer = LAYERS[kernel.name](case, weights, by_lanes=by_lanes)
    return words_gemv(layer, inputs["hidden_states"], routing_of(inputs), config, on_input=weights_input(case))


@every_format
@every_order
@pytest.mark.parametrize(
    "changes",
    [
        {"k": 256, "n": 128},
        {"k": 160, "n": 96},
        {"dtype": "float16"},
        {"options": {"apply_router_weight_on_input": "true"}},
    ],
    ids=["whole steps", "sizes that no step divides", "float16", "weighted input"],
)
def test_a_row_at_a_time_computes_the_formula(kernel: Kernel, scheme: str, by_lanes: bool, changes: dict):
    case = case_of(kernel, scheme, num_tokens=2, **changes)
    weights, inputs = tensors_of(kernel, case)
    output = run(kernel, case, weights, inputs, by_lanes)
    assert output.dtype == getattr(torch, case.layer.dtype)
    assert relative_error(output, kernel.reference(case, weights, inputs)) < 0.007


@every_order
def test_several_warps_and_rows_compute_the_same(by_lanes: bool):
    kernel, case = nvfp4_moe.KERNEL, case_of(nvfp4_moe.KERNEL, nvfp4_moe.W4A16, num_tokens=1, k=1152, n=64)
    weights, inputs = tensors_of(kernel, case)
    output = run(kernel, case, weights, inputs, by_lanes, replace(WIDE, DOWN_BLOCK_SIZE_N=128, num_warps=2))
    assert relative_error(output, kernel.reference(case, weights, inputs)) < 0.007


@every_order
def test_pairs_of_other_ranks_experts_add_nothing(by_lanes: bool):
    kernel = nvfp4_moe.KERNEL
    case = case_of(kernel, nvfp4_moe.W4A16, num_tokens=4, ep_size=4)
    weights, inputs = tensors_of(kernel, case)
    inputs["topk_ids"] = torch.tensor([[0, 9], [9, 12], [2, 1], [15, 3]], dtype=torch.int32)
    elsewhere = (local_expert_ids(inputs) < 0).all(dim=1)
    assert elsewhere.tolist() == [False, True, False, False]
    output = run(kernel, case, weights, inputs, by_lanes)
    assert relative_error(output, kernel.reference(case, weights, inputs)) < 0.007
    assert (output[elsewhere] == 0).all()


@pytest.mark.parametrize(
    ("scheme", "options", "reason"),
    [
        (nvfp4_moe.W4A4, {}, r"BLOCK_SIZE_M=1: .* \(this is nvfp4_w4a4\): set 16"),
        (nvfp4_moe.W4A16, {"activation_format": "batched"}, r"this is nvfp4_w4a16, batched"),
    ],
)
def test_what_has_no_rows_of_16_bits_is_refused(scheme: str, options: dict[str, str], reason: str):
    kernel = nvfp4_moe.KERNEL
    case = case_of(kernel, scheme, options=options)
    with pytest.raises(ConfigError, match=reason):
        kernel.providers["triton"].prepare_with(case, *tensors_of(kernel, case), asdict(BY_ROW))


@every_order
def test_the_default_configuration_computes_the_same(by_lanes: bool):
    kernel, case = nvfp4_moe.KERNEL, case_of(nvfp4_moe.KERNEL, nvfp4_moe.W4A16, num_tokens=1, top_k=1, n=32)
    weights, inputs = tensors_of(kernel, case)
    output = run(kernel, case, weights, inputs, by_lanes, BY_ROW)
    assert relative_error(output, kernel.reference(case, weights, inputs)) < 0.007
