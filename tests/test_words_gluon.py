"""The 4-bit MoE in Gluon: compiled for Hopper anywhere, and on a GPU against the reference; it has no interpreter."""

from dataclasses import asdict
from functools import cache
from typing import Any

import pytest
import torch
from compilations import MAX_SHARED_BYTES, compile_for
from w4_cases import case_of, relative_error, tensors_of

from kernels import mxfp4_moe, nvfp4_moe
from kernels.moe.words_gluon import DEFAULTS, WordsGluonConfig, default_config
from kernels.moe.words_triton import BY_ROW, goes_by_row
from kernels.spec import Case, Device, Kernel

FORMATS = [(nvfp4_moe.KERNEL, nvfp4_moe.W4A16, "nvfp4"), (mxfp4_moe.KERNEL, mxfp4_moe.W4A16, "mxfp4")]
MAX_SPILL_BYTES = 16
"""Addresses of the next tile, read once a tile."""

SCRIPT = """
import json, sys
from dataclasses import asdict
import torch
from kernels.compile import compile_launches
from kernels.moe.words_gluon import DEFAULTS
from kernels.registry import find_kernel
from kernels.spec import Case, Layer

compiled = []
for name, scheme, k, n in (("nvfp4_moe", "nvfp4_w4a16", 7168, 256), ("mxfp4_moe", "mxfp4_w4a16", 2880, 2880)):
    kernel = find_kernel(name)
    sizes = {"num_experts": 1, "top_k": 8, "hidden_size": k, "intermediate_size": n}  # no expert's code knows of others
    case = Case(Layer(name, "grid", 1, 128, scheme, "bfloat16", sizes), 64)
    weights = kernel.make_weights(case.layer, 0, torch.device("cpu"))
    inputs = {
        "hidden_states": torch.zeros(64, k, dtype=torch.bfloat16),
        "topk_ids": torch.zeros(64, 8, dtype=torch.int32),
        "topk_weights": torch.zeros(64, 8),
    }
    for config in DEFAULTS:
        launch = kernel.providers["triton-gluon"].prepare_with(case, weights, inputs, asdict(config))
        for record in compile_launches(sys.argv[1], launch.run):
            compiled.append(asdict(record) | {"programs": config.programs_per_sm})
print(json.dumps(compiled))
"""


@cache
def compile_gluon() -> list[dict[str, Any]]:
    """What every default configuration launches, of both formats."""
    return [record for record in compile_for("sm_90", SCRIPT) if "words_hopper" in record["name"]]


def test_every_default_fits_a_hopper_at_real_sizes():
    assert len(compile_gluon()) == 2 * 2 * len(DEFAULTS), "two GEMMs of two formats"
    for record in compile_gluon():
        assert record["spill_bytes"] <= MAX_SPILL_BYTES, record
        assert record["shared_bytes"] * record["programs"] <= MAX_SHARED_BYTES, record
        assert record["registers"] * 3 * 128 * record["programs"] <= 65536, record


def test_it_says_what_it_lacks():
    unsupported = nvfp4_moe.KERNEL.providers["triton-gluon"].unsupported
    hopper, blackwell = Device("cuda", "NVIDIA H200", (9, 0)), Device("cuda", "NVIDIA B200", (10, 0))
    case = case_of(nvfp4_moe.KERNEL, nvfp4_moe.W4A16)
    assert unsupported(case, hopper) is None
    assert unsupported(case, blackwell) == "needs sm_90 (this is sm_100)"
    w4a4 = case_of(nvfp4_moe.KERNEL, nvfp4_moe.W4A4)
    assert unsupported(w4a4, hopper) == "multiplies 16-bit activations (this is nvfp4_w4a4)"


def test_blocks_grow_with_the_rows_per_expert():
    sizes = {"num_experts": 128, "top_k": 8, "k": 2048, "n": 768}
    cases = [case_of(nvfp4_moe.KERNEL, nvfp4_moe.W4A16, num_tokens=m, **sizes) for m in (1, 2, 64, 256, 1024)]
    assert [default_config(case).BLOCK_SIZE_M for case in cases] == [8, 8, 8, 32, 64]
    assert [default_config(case).ROWS for case in cases] == [64, 64, 128, 128, 128]


def test_few_pairs_of_small_experts_go_row_by_row_under_every_provider():
    small, large = ({"num_experts": 128, "top_k": 8, "k": 7168, "n": n} for n in (256, 2048))
    is_by_row = [goes_by_row(case_of(kernel, scheme, num_tokens=1, **small), name) for kernel, scheme, name in FORMATS]
    assert is_by_row == [True, True]
    kernel, scheme, name = FORMATS[0]
    assert not goes_by_row(case_of(kernel, scheme, num_tokens=1, **large), name), "tensor cores are faster there"
    assert not goes_by_row(case_of(kernel, scheme, num_tokens=5, **small), name), "experts are shared"
    assert not goes_by_row(case_of(kernel, nvfp4_moe.W4A4, num_tokens=1, **small), name)
    batched = {"activation_format": "batched"}
    assert not goes_by_row(case_of(kernel, scheme, num_tokens=1, options=batched, **small), name)


@pytest.mark.parametrize("provider", ["triton", "triton-gluon"])
def test_whoever_prepares_few_pairs_takes_the_rows(provider: str):
    kernel, scheme, _ = FORMATS[0]
    case = case_of(kernel, scheme, num_experts=8, num_tokens=1)
    weights, inputs = tensors_of(kernel, case)
    by_row = kernel.providers[provider].prepare(case, weights, inputs)
    assert by_row.config == asdict(BY_ROW)
    (output,) = by_row.run()
    assert relative_error(output, kernel.reference(case, weights, inputs)) < 0.007


def error_of(kernel: Kernel, case: Case, config: WordsGluonConfig) -> float:
    device = torch.device("cuda")
    weights = kernel.make_weights(case.layer, 1, device)
    inputs = kernel.make_inputs(case, weights, 2, device)
    outputs = kernel.providers["triton-gluon"].prepare_with(case, weights, inputs, asdict(config)).run()
    assert outputs[0].dtype == getattr(torch, case.layer.dtype)
    output = kernel.decode(case, inputs, outputs)
    return relative_error(output, kernel.reference(case, weights, inputs))


every_default = pytest.mark.parametrize(
    "config", DEFAULTS, ids=lambda config: f"{config.BLOCK_SIZE_M} by {config.ROWS}"
)


@pytest.mark.gpu
@every_default
@pytest.mark.parametrize(("kernel", "scheme"), [formats[:2] for formats in FORMATS])
def test_on_a_gpu_every_default_computes_the_formula(kernel: Kernel, scheme: str, config: WordsGluonConfig):
    case = case_of(kernel, scheme, num_experts=24, top_k=6, num_tokens=700, k=672, n=416)
    for _ in range(3):  # a race would not lose every time
        assert error_of(kernel, case, config) < 0.007


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("config", "changes"),
    [
        pytest.param(DEFAULTS[0], {"num_experts": 64, "top_k": 1, "num_tokens": 1, "k": 256}, id="one pair"),
        pytest.param(DEFAULTS[1], {"num_tokens": 77, "ep_size": 2}, id="experts of another rank"),
        pytest.param(DEFAULTS[1], {"options": {"activation_format": "batched"}}, id="batched"),
        pytest.param(DEFAULTS[2], {"options": {"apply_router_weight_on_input": "true"}}, id="weighted input"),
        pytest.param(DEFAULTS[2], {"num_tokens": 100, "dtype": "float16"}, id="float16"),
        pytest.param(DEFAULTS[3], {"num_experts": 3, "top_k": 1, "num_tokens": 1024}, id="several blocks an expert"),
        pytest.param(DEFAULTS[4], {"num_tokens": 100, "options": {"activation_format": "batched"}}, id="by warpgroup"),
    ],
)
def test_on_a_gpu_it_computes_the_formula(config: WordsGluonConfig, changes: dict[str, Any]):
    case = case_of(nvfp4_moe.KERNEL, nvfp4_moe.W4A16, **changes)
    assert error_of(nvfp4_moe.KERNEL, case, config) < 0.007


@pytest.mark.gpu
@pytest.mark.parametrize("config", [DEFAULTS[1], DEFAULTS[4]], ids=["by warps", "by warpgroup"])
def test_on_a_gpu_a_token_with_nan_changes_no_other(config: WordsGluonConfig):
    kernel, case = nvfp4_moe.KERNEL, case_of(nvfp4_moe.KERNEL, nvfp4_moe.W4A16, num_tokens=150, k=256, n=128)
    weights = kernel.make_weights(case.layer, 1, torch.device("cuda"))
    inputs = kernel.make_inputs(case, weights, 2, torch.device("cuda"))
    prepare = kernel.providers["triton-gluon"].prepare_with
    clean = prepare(case, weights, inputs, asdict(config)).run()[0].clone()
    inputs["hidden_states"][7, 3] = float("nan")
    spoiled = prepare(case, weights, inputs, asdict(config)).run()[0]
    others = torch.arange(150, device="cuda") != 7
    assert torch.equal(spoiled[others], clean[others])
