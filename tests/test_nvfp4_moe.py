"""The NVFP4 MoE in Triton's interpreter against its reference, on the routings that break kernels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from w4_cases import (
    CPU,
    FLOAT32_ERROR,
    ROUTINGS,
    assert_bad_rows_stay_alone,
    case_of,
    error_of,
    relative_error,
    run_poisoned,
    tensors_of,
)

from kernels.errors import ShapeError
from kernels.fused_moe import A1_AMAX, A2_AMAX
from kernels.nvfp4_moe import KERNEL, W4A4, W4A16, bytes_moved
from kernels.quantize.fp4 import nvfp4_values, quantize_nvfp4
from kernels.spec import Device

every_scheme = pytest.mark.parametrize("scheme", KERNEL.schemes)


@every_scheme
@pytest.mark.parametrize("routing", ROUTINGS)
def test_triton_computes_the_formula(scheme: str, routing: str):
    case = case_of(KERNEL, scheme, **ROUTINGS[routing])
    assert error_of(KERNEL, case, *tensors_of(KERNEL, case)) < FLOAT32_ERROR


@every_scheme
@pytest.mark.parametrize("routing", ["two experts of four", "weighted input", "batched", "other ranks' experts"])
def test_torch_is_within_the_declared_tolerance(scheme: str, routing: str):
    case = case_of(KERNEL, scheme, **ROUTINGS[routing] | {"num_tokens": 33, "n": 256})
    weights, inputs = tensors_of(KERNEL, case)
    output = run_poisoned(KERNEL, "torch", case, weights, inputs)
    limit = KERNEL.tolerance[scheme]
    assert relative_error(output, KERNEL.reference(case, weights, inputs)) <= limit.relative_error


def test_the_reference_agrees_with_one_token_at_a_time():
    case = case_of(KERNEL, W4A4, num_tokens=3)
    weights, inputs = tensors_of(KERNEL, case)
    w1, w2 = (
        nvfp4_values(weights[name], weights[f"{name}_scale"]) / weights[f"{name}_global_scale"][:, None, None]
        for name in ("w1", "w2")
    )

    def q(x: torch.Tensor, name: str) -> torch.Tensor:
        codes, scales, global_scale = quantize_nvfp4(x, weights[f"{name}_global_scale"])
        return nvfp4_values(codes, scales) / global_scale

    expected = torch.zeros(3, 128)
    for token, x in enumerate(inputs["hidden_states"]):
        for expert, weight in zip(inputs["topk_ids"][token], inputs["topk_weights"][token], strict=True):
            gate, up = (w1[expert] @ q(x, "a1")).chunk(2)
            expected[token] += weight * (w2[expert] @ q(torch.nn.functional.silu(gate) * up, "a2"))
    assert relative_error(KERNEL.reference(case, weights, inputs), expected) < 1e-5


@every_scheme
def test_all_tokens_may_go_to_one_expert(scheme: str):
    case = case_of(KERNEL, scheme, top_k=1, num_tokens=35)
    weights, inputs = tensors_of(KERNEL, case)
    inputs["topk_ids"] = torch.full_like(inputs["topk_ids"], 2)
    assert error_of(KERNEL, case, weights, inputs) < FLOAT32_ERROR


@every_scheme
def test_experts_may_stay_empty(scheme: str):
    case = case_of(KERNEL, scheme, num_experts=8, num_tokens=19)
    weights, inputs = tensors_of(KERNEL, case)
    inputs["topk_ids"] = torch.tensor([[0, 5]], dtype=torch.int32).repeat(19, 1)
    assert error_of(KERNEL, case, weights, inputs) < FLOAT32_ERROR


@every_scheme
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, in the interpreter
def test_rows_of_nan_and_infinity_do_not_disturb_others(scheme: str):
    assert_bad_rows_stay_alone(KERNEL, case_of(KERNEL, scheme, num_experts=2, num_tokens=6))


@every_scheme
def test_zero_rows_give_zeros(scheme: str):
    case = case_of(KERNEL, scheme)
    weights, inputs = tensors_of(KERNEL, case)
    inputs["hidden_states"][2] = 0
    assert not run_poisoned(KERNEL, "triton", case, weights, inputs)[2].any()


@settings(max_examples=4, deadline=None)
@given(
    scheme=st.sampled_from(KERNEL.schemes),
    num_tokens=st.integers(1, 20),
    top_k=st.integers(1, 3),
    k=st.sampled_from([32, 80]),
    n=st.sampled_from([16, 48]),
)
def test_any_multiple_of_a_group_will_do(scheme: str, num_tokens: int, top_k: int, k: int, n: int):
    case = case_of(KERNEL, scheme, num_tokens=num_tokens, top_k=top_k, k=k, n=n)
    assert error_of(KERNEL, case, *tensors_of(KERNEL, case)) < FLOAT32_ERROR


def test_weights_are_laid_out_as_documented():
    weights = KERNEL.make_weights(case_of(KERNEL, W4A4).layer, 1, CPU)
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in weights.items()} == {
        "w1": ((4, 128, 64), torch.uint8),
        "w1_scale": ((4, 128, 8), torch.float8_e4m3fn),
        "w1_global_scale": ((4,), torch.float32),
        "w2": ((4, 128, 32), torch.uint8),
        "w2_scale": ((4, 128, 4), torch.float8_e4m3fn),
        "w2_global_scale": ((4,), torch.float32),
        "a1_global_scale": ((1,), torch.float32),
        "a2_global_scale": ((1,), torch.float32),
    }
    assert weights["a1_global_scale"].item() * A1_AMAX == weights["a2_global_scale"].item() * A2_AMAX == 448 * 6


def test_cost_counts_only_the_experts_that_are_routed_to():
    case = case_of(KERNEL, W4A16, num_experts=16, num_tokens=4)
    inputs = tensors_of(KERNEL, case)[1] | {"topk_ids": torch.tensor([[3, 9]] * 4, dtype=torch.int32)}
    weight_bytes = 3 * 64 * 128 // 2 + 3 * 64 * 128 // 16 + 8
    assert bytes_moved(case, inputs) == 2 * weight_bytes + 2 * 4 * 128 * 2 + 8 * 8


@pytest.mark.parametrize(("k", "n", "name"), [(40, 64, "hidden_size 40"), (128, 72, "intermediate_size 72")])
def test_sizes_that_do_not_divide_into_groups_are_refused_by_name(k: int, n: int, name: str):
    with pytest.raises(ShapeError, match=f"{name} per rank is not a multiple of 16"):
        KERNEL.check_layer(case_of(KERNEL, W4A16, k=k, n=n).layer)


@every_scheme
@pytest.mark.parametrize("routing", ["two experts of four", "batched", "other ranks' experts"])
def test_the_fp8_row_is_another_function_within_a_tolerance_of_its_own(scheme: str, routing: str):
    case = case_of(KERNEL, scheme, **ROUTINGS[routing] | {"num_tokens": 17})
    weights, inputs = tensors_of(KERNEL, case)
    output = run_poisoned(KERNEL, "triton-fp8", case, weights, inputs)
    error = relative_error(output, KERNEL.reference(case, weights, inputs))
    own = KERNEL.tolerance_of("triton-fp8", scheme)
    assert 0.03 < error < own.relative_error
    assert own != KERNEL.tolerance[scheme] == KERNEL.tolerance_of("triton", scheme)


def test_triton_needs_e4m3():
    ada, ampere = Device("cuda", "NVIDIA L40S", (8, 9)), Device("cuda", "NVIDIA A100", (8, 0))
    for name in ("triton", "triton-fp8"):
        unsupported = KERNEL.providers[name].unsupported
        assert unsupported(case_of(KERNEL, W4A4), ada) is None
        assert unsupported(case_of(KERNEL, W4A4), ampere) == "needs sm_89 (this is sm_80)"
