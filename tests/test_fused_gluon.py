"""The fused MoE in Gluon: compiled for Hopper anywhere, and on a GPU against the reference; it has no interpreter."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from compilations import MAX_SHARED_BYTES, compile_for

from kernels.fused_moe import KERNEL, fused_moe_reference, make_inputs, make_weights
from kernels.spec import Case, Device, Layer, Tensors

BLOCK_128 = "fp8_w8a8_block128"
MAX_SPILL_BYTES = 128
"""Addresses of the next tile, read once a tile; a spilled sum would be 256 bytes or more."""

SCRIPT = """
import json, sys
import torch
from compilations import record_launches
from kernels.fused_moe import KERNEL
from kernels.spec import Case, Layer

E, K, N = 8, 4096, 1792
ROUTED = {"num_experts": E, "top_k": 2, "hidden_size": K, "intermediate_size": N}
FP8 = torch.float8_e4m3fn
weights = {
    "w1": torch.empty(E, 2 * N, K, dtype=FP8), "w1_scale": torch.empty(E, 2 * N // 128, K // 128),
    "w2": torch.empty(E, K, N, dtype=FP8), "w2_scale": torch.empty(E, K // 128, N // 128),
}
CASES = (
    (1, 4, {}),
    (256, 1, {"activation_format": "batched"}),
    (4096, 1, {"apply_router_weight_on_input": "true"}),
)
compiled = []
for num_tokens, ep_size, options in CASES:
    case = Case(Layer("fused_moe", "grid", 8, ep_size, "fp8_w8a8_block128", "bfloat16", ROUTED), num_tokens, options)
    inputs = KERNEL.make_inputs(case, weights, 0, torch.device("cpu"))
    launch = KERNEL.providers["triton-gluon"].prepare(case, weights, inputs)
    compiled += record_launches(sys.argv[1], launch.run, looks_at_products=not options)
print(json.dumps(compiled))
"""


@cache
def compile_gluon() -> list[dict[str, Any]]:
    """What is launched for a token on one of four ranks, for rows by expert, and for 4096 tokens."""
    return [record for record in compile_for("sm_90", SCRIPT) if "hopper" in record["name"]]


def test_it_fits_a_hopper_at_real_sizes():
    assert len(compile_gluon()) == 6, "two GEMMs of three cases"
    for record in compile_gluon():
        assert record["spill_bytes"] <= MAX_SPILL_BYTES, record
        assert record["shared_bytes"] <= MAX_SHARED_BYTES, record
        assert record["registers"] * 3 * 128 <= 65536, record


def test_no_product_waits_for_the_one_before():
    serialized = [record["is_serialized"] for record in compile_gluon() if "is_serialized" in record]
    assert serialized == [False, False], "the two GEMMs of one case"


def test_it_says_what_it_lacks():
    unsupported = KERNEL.providers["triton-gluon"].unsupported
    hopper, blackwell = Device("cuda", "NVIDIA H200", (9, 0)), Device("cuda", "NVIDIA B200", (10, 0))
    assert unsupported(case_of(), hopper) is None
    assert unsupported(case_of(), blackwell) == "needs sm_90 (this is sm_100)"
    assert unsupported(case_of(), Device("cpu", "a CPU")) == "needs a CUDA GPU (this is cpu)"
    per_tensor = replace(case_of(), layer=replace(case_of().layer, scheme="fp8_w8a8"))
    assert unsupported(per_tensor, hopper) == "multiplies 128 x 128 blocks that have one scale (this is fp8_w8a8)"


def case_of(num_tokens: int = 5, ep_size: int = 1, dtype: str = "bfloat16", **changes: Any) -> Case:
    sizes = {"num_experts": 4, "top_k": 2, "hidden_size": 256, "intermediate_size": 128}
    options = {name: value for name, value in changes.items() if name not in sizes}
    sizes |= {name: value for name, value in changes.items() if name in sizes}
    return Case(Layer("fused_moe", "grid", 1, ep_size, BLOCK_128, dtype, sizes), num_tokens, options)


def error_of(case: Case, weights: Tensors, inputs: Tensors) -> float:
    reference = fused_moe_reference(case, weights, inputs)
    outputs = KERNEL.providers["triton-gluon"].prepare(case, weights, inputs).run()
    assert outputs[0].dtype == getattr(torch, case.layer.dtype)
    output = KERNEL.decode(case, inputs, outputs)
    return ((output - reference).norm() / reference.norm()).item()


def tensors_of(case: Case) -> tuple[Tensors, Tensors]:
    device = torch.device("cuda")
    weights = make_weights(case.layer, 1, device)
    return weights, make_inputs(case, weights, 2, device)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case_of(), id="few rows"),
        pytest.param(case_of(1, num_experts=64, top_k=1), id="one pair"),
        pytest.param(case_of(333, hidden_size=384, intermediate_size=640), id="odd counts of groups"),
        pytest.param(case_of(1000, num_experts=24, top_k=6), id="more tiles than programs"),
        pytest.param(case_of(77, ep_size=2), id="experts of another rank"),
        pytest.param(case_of(300, activation_format="batched"), id="rows by expert"),
        pytest.param(case_of(200, apply_router_weight_on_input="true"), id="weighted input"),
        pytest.param(case_of(200, dtype="float16"), id="float16"),
        pytest.param(case_of(2048, num_experts=3, top_k=1), id="several blocks an expert"),
    ],
)
def test_on_a_gpu_it_computes_the_formula(case: Case):
    for _ in range(3):  # a race would not lose every time
        assert error_of(case, *tensors_of(case)) < 0.008


@pytest.mark.gpu
def test_on_a_gpu_experts_may_stay_empty_and_one_may_get_all():
    case = case_of(129, num_experts=8)
    weights, inputs = tensors_of(case)
    inputs["topk_ids"] = torch.tensor([[0, 5]], dtype=torch.int32, device="cuda").repeat(129, 1)
    assert error_of(case, weights, inputs) < 0.008


@pytest.mark.gpu
def test_on_a_gpu_a_rank_may_have_none_of_the_pairs(monkeypatch: pytest.MonkeyPatch):
    def huge_empty(*args: Any, empty: Any = torch.empty, **kwargs: Any) -> torch.Tensor:
        tensor = empty(*args, **kwargs)
        tensor.view(torch.uint8).fill_(0x7F)  # as an expert's number nobody's: reading its scales would crash
        return tensor

    case = case_of(20, ep_size=2)
    weights, inputs = tensors_of(case)
    inputs["expert_map"] = torch.full_like(inputs["expert_map"], -1)
    monkeypatch.setattr(torch, "empty", huge_empty)
    (output,) = KERNEL.providers["triton-gluon"].prepare(case, weights, inputs).run()
    assert not output.any()


@pytest.mark.gpu
def test_on_a_gpu_a_token_with_nan_changes_no_other():
    case = case_of(150)
    weights, inputs = tensors_of(case)
    clean = KERNEL.providers["triton-gluon"].prepare(case, weights, inputs).run()[0].clone()
    inputs["hidden_states"][7, 3] = float("nan")
    spoiled = KERNEL.providers["triton-gluon"].prepare(case, weights, inputs).run()[0]
    others = torch.arange(150, device="cuda") != 7
    assert torch.equal(spoiled[others], clean[others])
