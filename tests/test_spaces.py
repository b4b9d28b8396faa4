"""Every kernel's space holds its default, keeps what the kernel takes, and loses what cannot be the best."""

from collections import Counter

import pytest
import torch

from kernels.errors import KernelError
from kernels.gemm import mxfp4_triton
from kernels.moe import triton_configs, words_triton
from kernels.moe.schemes import MOE_SCHEMES
from kernels.moe.vllm_schemes import VLLM_SCHEMES
from kernels.registry import find_kernel
from kernels.spec import Case, Layer
from tasks.tuning.space import Problem, prune
from tasks.tuning.spaces import (
    IN_REGISTERS,
    IN_SHARED_MEMORY,
    NO_EMPTY_ROWS,
    VLLM_VALUES,
    W4_FORMATS,
    problem_of,
    space_of,
    vllm_space,
)

QWEN = {"num_experts": 128, "top_k": 8, "hidden_size": 2048, "intermediate_size": 768}
MIXTRAL = {"num_experts": 8, "top_k": 2, "hidden_size": 4096, "intermediate_size": 7168}
TOKENS = (1, 16, 64, 256, 1024, 4096)


def case_of(kernel: str, scheme: str, num_tokens: int, sizes: dict[str, int] = QWEN) -> Case:
    return Case(Layer(kernel, "grid", 1, 1, scheme, "bfloat16", sizes), num_tokens)


def as_dict(config: object) -> dict[str, int]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}  # type: ignore[attr-defined]


@pytest.mark.parametrize("scheme", VLLM_SCHEMES)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_vllms_space_is_pruned_for_every_scheme_and_never_empty(scheme: str, arch: str) -> None:
    case = case_of("fused_moe", scheme, 16)
    space = space_of(case, "vllm-triton-shipped")
    found = prune(space, problem_of(case, "vllm-triton-shipped", arch))
    assert space.size == 1920
    assert 100 < len(found.configs) < 1300
    assert all(("SPLIT_K" in config) == (scheme == "int8_w8a16_group128") for config in found.configs)


# Configurations that vLLM 0.26 ships for the H200, at the edges of what is kept.
@pytest.mark.parametrize(
    ("scheme", "num_experts", "n", "tokens", "values"),
    [
        ("unquantized", 16, 2048, 128, (16, 256, 128, 1, 4, 4)),
        ("unquantized", 8, 7168, 2, (16, 128, 256, 1, 4, 3)),
        ("fp8_w8a8", 8, 7168, 2, (32, 128, 256, 1, 8, 5)),
        ("fp8_w8a8", 8, 7168, 4096, (128, 256, 128, 1, 8, 4)),
        ("fp8_w8a8_block128", 128, 768, 1, (16, 64, 128, 1, 4, 5)),
        ("fp8_w8a8_block128", 128, 768, 1, (16, 32, 128, 1, 4, 5)),
        ("unquantized", 8, 14336, 1, (64, 64, 64, 1, 8, 4)),
    ],
)
def test_configurations_that_are_shipped_for_the_h200_are_kept(
    scheme: str, num_experts: int, n: int, tokens: int, values: tuple[int, ...]
) -> None:
    config = dict(zip(VLLM_VALUES, values, strict=True))
    case = case_of("fused_moe", scheme, tokens, {**MIXTRAL, "num_experts": num_experts, "intermediate_size": n})
    assert space_of(case, "vllm-triton-shipped").refusal(config, problem_of(case, "vllm-triton-shipped", "sm_90")) == ""


def test_blocks_of_weights_limit_steps_and_columns() -> None:
    space, problem = vllm_space("fp8_w8a8_block128"), Problem(4096, ((1536, 2048), (2048, 768)), "sm_90", 128, 8, 1, 1)
    found = prune(space, problem).configs
    assert {config["BLOCK_SIZE_K"] for config in found} == {128}  # the kernel takes 256 for 128
    assert {config["BLOCK_SIZE_N"] for config in found} == {32, 64, 128, 256}
    wide = {"BLOCK_SIZE_M": 64, "BLOCK_SIZE_N": 128, "BLOCK_SIZE_K": 256, "GROUP_SIZE_M": 1, "num_warps": 4}
    assert space.canonicalize({**wide, "num_stages": 3, "SPLIT_K": 1}, problem) == {
        **wide,
        "BLOCK_SIZE_K": 128,
        "num_stages": 3,
    }


def test_few_tokens_leave_few_configurations_and_say_why() -> None:
    case = case_of("fused_moe", "fp8_w8a8", 1, MIXTRAL)
    space, problem = space_of(case, "vllm-triton-default"), problem_of(case, "vllm-triton-default", "sm_90")
    taken = Counter(space.refusal(config, problem) for config in space.list_configs())
    assert taken == {NO_EMPTY_ROWS: 480, IN_REGISTERS: 112, IN_SHARED_MEMORY: 240, "": 1088}
    assert len(prune(space, problem).configs) == 544, "half do the same as another"


def test_the_space_of_amd_gpus_has_names_of_its_own() -> None:
    space = vllm_space("unquantized", is_rocm=True)
    assert {"waves_per_eu", "matrix_instr_nonkdim", "kpack"} <= set(space.values)
    assert space.sha256 != vllm_space("unquantized").sha256
    assert prune(space, Problem(16, ((1536, 2048),), "gfx942")).configs


@pytest.mark.parametrize("scheme", MOE_SCHEMES)
def test_our_default_is_in_our_space_or_next_to_it(scheme: str) -> None:
    for sizes in (QWEN, MIXTRAL):
        for tokens in TOKENS:
            case = case_of("fused_moe", scheme, tokens, sizes)
            space, problem = space_of(case, "triton"), problem_of(case, "triton", "sm_90")
            has_words = MOE_SCHEMES[scheme].has_words
            config = as_dict(
                words_triton.default_config(case, "int8") if has_words else triton_configs.default_config(case)
            )
            assert set(config) == set(space.values)
            assert space.refusal(config, problem) == ""


@pytest.mark.parametrize("kernel", W4_FORMATS)
def test_the_defaults_of_four_bit_weights_are_in_their_space(kernel: str) -> None:
    scheme = find_kernel(kernel).schemes[0]
    for tokens in TOKENS:
        case = case_of(kernel, scheme, tokens)
        space, problem = space_of(case, "triton"), problem_of(case, "triton", "sm_90")
        config = as_dict(words_triton.default_config(case, W4_FORMATS[kernel]))
        assert set(config) == set(space.values)
        assert space.refusal(config, problem) == ""


def test_the_default_of_a_linear_layer_is_in_its_space() -> None:
    for tokens in TOKENS:
        case = case_of("mxfp4_gemm", "mxfp4_w4a16", tokens, {"n": 8192, "k": 8192})
        space, problem = space_of(case, "triton"), problem_of(case, "triton", "sm_90")
        config = as_dict(mxfp4_triton.default_config(tokens, 8192, 8192))
        assert set(config) == set(space.values)
        assert space.refusal(config, problem) == ""


@pytest.mark.parametrize(
    ("kernel", "scheme", "sizes"),
    [
        (
            "fused_moe",
            "fp8_w8a8_block128",
            {"num_experts": 2, "top_k": 1, "hidden_size": 128, "intermediate_size": 128},
        ),
        (
            "fused_moe",
            "int8_w8a16_group128",
            {"num_experts": 2, "top_k": 1, "hidden_size": 128, "intermediate_size": 128},
        ),
        ("mxfp4_gemm", "mxfp4_w4a16", {"n": 64, "k": 128}),
    ],
)
def test_a_kernel_takes_what_its_space_holds(kernel: str, scheme: str, sizes: dict[str, int]) -> None:
    case, found = case_of(kernel, scheme, 4, sizes), find_kernel(kernel)
    configs = prune(space_of(case, "triton"), problem_of(case, "triton", "sm_90")).configs
    weights = found.make_weights(case.layer, 0, torch.device("cpu"))
    inputs = found.make_inputs(case, weights, 0, torch.device("cpu"))
    prepare_with = found.providers["triton"].prepare_with
    assert prepare_with
    expected = found.reference(case, weights, inputs)
    for config in configs[:: max(len(configs) // 3, 1)]:
        output = found.decode(case, inputs, prepare_with(case, weights, inputs, config).run())
        assert torch.linalg.norm(output - expected) <= 0.05 * torch.linalg.norm(expected)


def test_batched_activations_keep_their_groups() -> None:
    layer = Layer("fused_moe", "grid", 1, 1, "fp8_w8a8", "bfloat16", QWEN)
    standard, batched = Case(layer, 1), Case(layer, 1, {"activation_format": "batched"})
    counts = [len(prune(space_of(c, "triton"), problem_of(c, "triton", "sm_90")).configs) for c in (standard, batched)]
    assert counts[0] < counts[1]


def test_what_takes_no_configuration_cannot_be_tuned() -> None:
    for kernel, provider in (("fused_moe", "vllm-cutlass"), ("silu_mul_fp8", "triton"), ("mxfp4_moe", "vllm-marlin")):
        with pytest.raises(KernelError, match=f"{provider} of {kernel} cannot be tuned"):
            space_of(case_of(kernel, "any", 1), provider)
