"""The INT4 MoE with FP8 activations in Triton's interpreter against its reference, on the hard routings."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from w4_cases import (
    CPU,
    ROUTINGS,
    assert_bad_rows_stay_alone,
    case_of,
    error_of,
    relative_error,
    run_poisoned,
    tensors_of,
)

from kernels.errors import ShapeError
from kernels.quantize.fp8 import dequantize_fp8_group, quantize_fp8_row
from kernels.quantize.integer import int4_fp8_values, pack_nibbles
from kernels.spec import Case, Device, Tensors
from kernels.w4a8_moe import KERNEL, W4A8, bytes_moved, round_activations, values_of

BFLOAT16_ERROR = 0.025
"""In norm: the intermediate is bfloat16 until FP8, which moves some values to the neighbouring code."""

DIFFERENCES = ROUTINGS | {"sizes that no tile divides": {"k": 384, "n": 128, "num_tokens": 3}}


def w4a8_case(**differences) -> Case:
    return case_of(KERNEL, W4A8, **{"k": 256, "n": 128} | differences)


@pytest.mark.parametrize("routing", DIFFERENCES)
def test_triton_computes_the_formula(routing: str):
    case = w4a8_case(**DIFFERENCES[routing])
    assert error_of(KERNEL, case, *tensors_of(KERNEL, case)) < BFLOAT16_ERROR


@pytest.mark.parametrize("routing", ["two experts of four", "weighted input", "batched", "other ranks' experts"])
def test_torch_is_within_the_declared_tolerance(routing: str):
    case = w4a8_case(**ROUTINGS[routing] | {"num_tokens": 33})
    weights, inputs = tensors_of(KERNEL, case)
    output = run_poisoned(KERNEL, "torch", case, weights, inputs)
    assert relative_error(output, KERNEL.reference(case, weights, inputs)) <= KERNEL.tolerance[W4A8].relative_error


def test_the_reference_agrees_with_one_token_at_a_time():
    case = w4a8_case(num_tokens=3)
    weights, inputs = tensors_of(KERNEL, case)
    w1, w2 = (
        int4_fp8_values(weights[name], weights[f"{name}_group_scale"]) * weights[f"{name}_channel_scale"][..., None]
        for name in ("w1", "w2")
    )

    def q(x: torch.Tensor) -> torch.Tensor:
        return dequantize_fp8_group(*quantize_fp8_row(x))

    expected = torch.zeros(3, 256)
    for token, x in enumerate(inputs["hidden_states"]):
        for expert, weight in zip(inputs["topk_ids"][token], inputs["topk_weights"][token], strict=True):
            gate, up = (w1[expert] @ q(x)).chunk(2)
            expected[token] += weight * (w2[expert] @ q(torch.nn.functional.silu(gate) * up))
    assert relative_error(KERNEL.reference(case, weights, inputs), expected) < 0.01


def with_rounded_products(weights: Tensors) -> Tensors:
    """The weights as CUTLASS multiplies them: code times group scale rounded to e4m3, here as channel factors."""
    values_of_expert = values_of(weights)
    rounded = {}
    for name in ("w1", "w2"):
        experts = [values_of_expert(name, expert)[0].to(torch.float8_e4m3fn) for expert in range(len(weights[name]))]
        rounded[name] = torch.stack([expert.float() for expert in experts])
    return rounded


def test_products_rounded_as_cutlass_does_are_within_the_declared_tolerance():
    case = w4a8_case(k=512, n=256, num_tokens=17)
    weights, inputs = tensors_of(KERNEL, case)
    rounded = with_rounded_products(weights)
    output = torch.zeros(17, 512)
    for expert in range(4):
        token, choice = (inputs["topk_ids"] == expert).nonzero(as_tuple=True)

        def linear(name: str, x: torch.Tensor, expert: int = expert) -> torch.Tensor:
            codes, scale = round_activations(name, x)
            return codes @ rounded[name][expert].T * scale * weights[f"{name}_channel_scale"][expert]

        gate, up = linear("w1", inputs["hidden_states"][token].float()).chunk(2, dim=-1)
        rows = linear("w2", torch.nn.functional.silu(gate) * up)
        output.index_add_(0, token, rows * inputs["topk_weights"][token, choice, None])
    error = relative_error(output, KERNEL.reference(case, weights, inputs))
    assert 0.03 < error < KERNEL.tolerance[W4A8].relative_error


def test_all_sixteen_codes_are_multiplied_exactly():
    case = w4a8_case(num_experts=1, top_k=1, k=128, num_tokens=1)
    weights, inputs = tensors_of(KERNEL, case)
    nibbles = torch.arange(16, dtype=torch.uint8).repeat(128 * 128 // 16).view(1, 128, 128)
    weights["w2"] = pack_nibbles(nibbles)
    assert int4_fp8_values(weights["w2"][0], torch.ones(128, 1).to(torch.float8_e4m3fn)).min() == -8
    assert error_of(KERNEL, case, weights, inputs) < BFLOAT16_ERROR


def test_all_tokens_may_go_to_one_expert():
    case = w4a8_case(top_k=1, num_tokens=35)
    weights, inputs = tensors_of(KERNEL, case)
    inputs["topk_ids"] = torch.full_like(inputs["topk_ids"], 2)
    assert error_of(KERNEL, case, weights, inputs) < BFLOAT16_ERROR


def test_experts_may_stay_empty():
    case = w4a8_case(num_experts=8, num_tokens=19)
    weights, inputs = tensors_of(KERNEL, case)
    inputs["topk_ids"] = torch.tensor([[0, 5]], dtype=torch.int32).repeat(19, 1)
    assert error_of(KERNEL, case, weights, inputs) < BFLOAT16_ERROR


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, in the interpreter
def test_rows_of_nan_and_infinity_do_not_disturb_others():
    assert_bad_rows_stay_alone(KERNEL, w4a8_case(num_experts=2, num_tokens=6))


def test_zero_rows_give_zeros():
    case = w4a8_case()
    weights, inputs = tensors_of(KERNEL, case)
    inputs["hidden_states"][2] = 0
    assert not run_poisoned(KERNEL, "triton", case, weights, inputs)[2].any()


@settings(max_examples=3, deadline=None)
@given(num_tokens=st.integers(1, 20), top_k=st.integers(1, 3), k=st.sampled_from([128, 384]))
def test_any_multiple_of_a_group_will_do(num_tokens: int, top_k: int, k: int):
    case = w4a8_case(num_tokens=num_tokens, top_k=top_k, k=k)
    assert error_of(KERNEL, case, *tensors_of(KERNEL, case)) < BFLOAT16_ERROR


def test_weights_are_laid_out_as_documented():
    weights = KERNEL.make_weights(w4a8_case().layer, 1, CPU)
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in weights.items()} == {
        "w1": ((4, 256, 128), torch.uint8),
        "w1_group_scale": ((4, 256, 2), torch.float8_e4m3fn),
        "w1_channel_scale": ((4, 256), torch.float32),
        "w2": ((4, 256, 64), torch.uint8),
        "w2_group_scale": ((4, 256, 1), torch.float8_e4m3fn),
        "w2_channel_scale": ((4, 256), torch.float32),
    }


def test_cost_counts_only_the_experts_that_are_routed_to():
    case = w4a8_case(num_experts=16, num_tokens=4)
    inputs = tensors_of(KERNEL, case)[1] | {"topk_ids": torch.tensor([[3, 9]] * 4, dtype=torch.int32)}
    weight_bytes = 3 * 128 * 256 // 2 + 3 * 128 * 256 // 128 + 4 * (2 * 128 + 256)
    assert bytes_moved(case, inputs) == 2 * weight_bytes + 2 * 4 * 256 * 2 + 8 * 8


@pytest.mark.parametrize(("k", "n", "name"), [(192, 128, "hidden_size 192"), (256, 96, "intermediate_size 96")])
def test_sizes_that_do_not_divide_into_groups_are_refused_by_name(k: int, n: int, name: str):
    with pytest.raises(ShapeError, match=f"{name} per rank is not a multiple of 128"):
        KERNEL.check_layer(w4a8_case(k=k, n=n).layer)


def test_triton_needs_fp8_tensor_cores():
    unsupported = KERNEL.providers["triton"].unsupported
    assert unsupported(w4a8_case(), Device("cuda", "NVIDIA L40S", (8, 9))) is None
    assert unsupported(w4a8_case(), Device("cuda", "NVIDIA A100", (8, 0))) == "needs sm_89 (this is sm_80)"
