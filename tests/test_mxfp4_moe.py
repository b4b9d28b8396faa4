"""The MXFP4 MoE in Triton's interpreter against its reference, on the routings that break kernels."""

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
from kernels.mxfp4_moe import KERNEL, W4A4, W4A16, bytes_moved
from kernels.quantize.fp4 import dequantize_mxfp4, quantize_mxfp4
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
    w1, w2 = (dequantize_mxfp4(weights[name], weights[f"{name}_scale"]) for name in ("w1", "w2"))

    def q(x: torch.Tensor) -> torch.Tensor:
        return dequantize_mxfp4(*quantize_mxfp4(x, avoid_saturation=True))

    expected = torch.zeros(3, 128)
    for token, x in enumerate(inputs["hidden_states"]):
        for expert, weight in zip(inputs["topk_ids"][token], inputs["topk_weights"][token], strict=True):
            gate, up = (w1[expert] @ q(x)).chunk(2)
            expected[token] += weight * (w2[expert] @ q(torch.nn.functional.silu(gate) * up))
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
    k=st.sampled_from([32, 96]),
    n=st.sampled_from([32, 96]),
)
def test_any_multiple_of_a_group_will_do(scheme: str, num_tokens: int, top_k: int, k: int, n: int):
    case = case_of(KERNEL, scheme, num_tokens=num_tokens, top_k=top_k, k=k, n=n)
    assert error_of(KERNEL, case, *tensors_of(KERNEL, case)) < FLOAT32_ERROR


def test_weights_are_laid_out_as_documented():
    weights = KERNEL.make_weights(case_of(KERNEL, W4A16).layer, 1, CPU)
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in weights.items()} == {
        "w1": ((4, 128, 64), torch.uint8),
        "w1_scale": ((4, 128, 4), torch.uint8),
        "w2": ((4, 128, 32), torch.uint8),
        "w2_scale": ((4, 128, 2), torch.uint8),
    }


def test_cost_counts_only_the_experts_that_are_routed_to():
    case = case_of(KERNEL, W4A16, num_experts=16, num_tokens=4)
    inputs = tensors_of(KERNEL, case)[1] | {"topk_ids": torch.tensor([[3, 9]] * 4, dtype=torch.int32)}
    weight_bytes = 3 * 64 * 128 // 2 + 3 * 64 * 128 // 32
    assert bytes_moved(case, inputs) == 2 * weight_bytes + 2 * 4 * 128 * 2 + 8 * 8


@pytest.mark.parametrize(("k", "n", "name"), [(48, 64, "hidden_size 48"), (128, 80, "intermediate_size 80")])
def test_sizes_that_do_not_divide_into_groups_are_refused_by_name(k: int, n: int, name: str):
    with pytest.raises(ShapeError, match=f"{name} per rank is not a multiple of 32"):
        KERNEL.check_layer(case_of(KERNEL, W4A16, k=k, n=n).layer)


def test_triton_needs_bfloat16_tensor_cores():
    unsupported = KERNEL.providers["triton"].unsupported
    case = case_of(KERNEL, W4A4)
    assert unsupported(case, Device("cuda", "NVIDIA A100", (8, 0))) is None
    assert unsupported(case, Device("cuda", "Tesla T4", (7, 5))) == "needs sm_80 (this is sm_75)"
    assert unsupported(case, Device("cpu", "a CPU")) == "needs a CUDA GPU (this is cpu)"
