"""The INT4 MoE in Gluon: compiled for Hopper anywhere, and on a GPU against the reference; it has no interpreter."""

from functools import cache
from typing import Any

import pytest
import torch
from compilations import MAX_SHARED_BYTES, compile_for
from w4_cases import case_of, relative_error

from kernels.spec import Case, Device, Tensors
from kernels.w4a8_moe import KERNEL, W4A8

MAX_SPILL_BYTES = 192
"""What is read once a tile; a spilled sum would be 256 bytes or more."""

SCRIPT = """
import json, sys
import torch
from compilations import record_launches
from kernels.spec import Case, Layer
from kernels.w4a8_moe import KERNEL

E, K, N = 2, 4096, 1792
SIZES = {"num_experts": E, "top_k": 2, "hidden_size": K, "intermediate_size": N}
weights = {
    "w1": torch.zeros(E, 2 * N, K // 2, dtype=torch.uint8), "w2": torch.zeros(E, K, N // 2, dtype=torch.uint8),
    "w1_group_scale": torch.ones(E, 2 * N, K // 128).to(torch.float8_e4m3fn), "w1_channel_scale": torch.ones(E, 2 * N),
    "w2_group_scale": torch.ones(E, K, N // 128).to(torch.float8_e4m3fn), "w2_channel_scale": torch.ones(E, K),
}
CASES = (
    (64, 4, {}),
    (256, 1, {"activation_format": "batched"}),
    (2048, 1, {"apply_router_weight_on_input": "true"}),
)
compiled = []
for num_tokens, ep_size, options in CASES:
    case = Case(Layer("w4a8_moe", "grid", 8, ep_size, "int4_w4a8_fp8", "bfloat16", SIZES), num_tokens, options)
    inputs = KERNEL.make_inputs(case, weights, 0, torch.device("cpu"))
    launch = KERNEL.providers["triton-gluon"].prepare(case, weights, inputs)
    compiled += record_launches(sys.argv[1], launch.run, looks_at_products=not options)
print(json.dumps(compiled))
"""


@cache
def compile_gluon() -> list[dict[str, Any]]:
    """What is launched for experts of one of four ranks, for rows by expert, and for a weighted input."""
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
    case = w4a8_case()
    assert unsupported(case, Device("cuda", "NVIDIA H200", (9, 0))) is None
    assert unsupported(case, Device("cuda", "NVIDIA B200", (10, 0))) == "needs sm_90 (this is sm_100)"
    assert unsupported(case, Device("cpu", "a CPU")) == "needs a CUDA GPU (this is cpu)"


def w4a8_case(**differences: Any) -> Case:
    return case_of(KERNEL, W4A8, **{"k": 256, "n": 128} | differences)


def tensors_of(case: Case) -> tuple[Tensors, Tensors]:
    device = torch.device("cuda")
    weights = KERNEL.make_weights(case.layer, 1, device)
    return weights, KERNEL.make_inputs(case, weights, 2, device)


def error_of(case: Case, weights: Tensors, inputs: Tensors) -> float:
    outputs = KERNEL.providers["triton-gluon"].prepare(case, weights, inputs).run()
    assert outputs[0].dtype == getattr(torch, case.layer.dtype)
    return relative_error(KERNEL.decode(case, inputs, outputs), KERNEL.reference(case, weights, inputs))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(w4a8_case(), id="few rows"),
        pytest.param(w4a8_case(num_tokens=1, num_experts=64, top_k=1), id="one pair"),
        pytest.param(w4a8_case(num_tokens=333, k=384, n=640), id="odd counts of groups"),
        pytest.param(w4a8_case(num_tokens=64, k=9216, num_experts=2), id="sums of two stages"),
        pytest.param(w4a8_case(num_tokens=1000, num_experts=24, top_k=6), id="more tiles than programs"),
        pytest.param(w4a8_case(num_tokens=77, ep_size=2), id="experts of another rank"),
        pytest.param(w4a8_case(num_tokens=300, options={"activation_format": "batched"}), id="rows by expert"),
        pytest.param(w4a8_case(num_tokens=200, options={"apply_router_weight_on_input": "true"}), id="weighted input"),
        pytest.param(w4a8_case(num_tokens=200, dtype="float16"), id="float16"),
        pytest.param(w4a8_case(num_tokens=2048, num_experts=3, top_k=1), id="several blocks an expert"),
    ],
)
def test_on_a_gpu_it_computes_the_formula(case: Case):
    for _ in range(3):  # a race would not lose every time
        assert error_of(case, *tensors_of(case)) < 0.025


@pytest.mark.gpu
def test_on_a_gpu_activations_may_have_a_mean():
    case = w4a8_case(num_tokens=200, k=2048)
    weights, inputs = tensors_of(case)
    inputs["hidden_states"] = inputs["hidden_states"].abs()
    assert error_of(case, weights, inputs) < 0.025


@pytest.mark.gpu
def test_on_a_gpu_a_token_with_nan_changes_no_other():
    case = w4a8_case(num_tokens=150)
    weights, inputs = tensors_of(case)
    clean = KERNEL.providers["triton-gluon"].prepare(case, weights, inputs).run()[0].clone()
    inputs["hidden_states"][7, 3] = float("nan")
    spoiled = KERNEL.providers["triton-gluon"].prepare(case, weights, inputs).run()[0]
    others = torch.arange(150, device="cuda") != 7
    assert torch.equal(spoiled[others], clean[others])
