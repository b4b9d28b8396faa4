"""The Triton MoE with repacked weights: its configurations, and what they compile to for Hopper and Blackwell."""

import re
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import pytest
from compilations import assert_fits, compile_everywhere, run_alone
from w4_cases import case_of, relative_error, tensors_of

from kernels import fused_moe, mxfp4_moe, nvfp4_moe, w4a8_moe
from kernels.moe.words_triton import WordsConfig, default_config
from kernels.sms import DEFAULT_SHARED_BYTES

SCRIPT = """
import json, sys
from dataclasses import asdict
import torch
from kernels.compile import compile_launches
from kernels.registry import find_kernel
from kernels.spec import Case, Layer

DECODE, PREFILL = (7168, 256, 1), (2048, 768, 4096)  # K, N and M: DeepSeek-R1 TP8 and Qwen3-30B-A3B
CASES = [
    ("mxfp4_moe", "mxfp4_w4a4", DECODE),
    ("mxfp4_moe", "mxfp4_w4a16", PREFILL),
    ("nvfp4_moe", "nvfp4_w4a16", DECODE),
    ("nvfp4_moe", "nvfp4_w4a4", PREFILL),
    ("w4a8_moe", "int4_w4a8_fp8", DECODE),
    ("w4a8_moe", "int4_w4a8_fp8", PREFILL),
]

compiled = []
for name, scheme, (k, n, m) in CASES:
    kernel = find_kernel(name)
    sizes = {"num_experts": 1, "top_k": 8, "hidden_size": k, "intermediate_size": n}  # no expert's code knows of others
    case = Case(Layer(name, "grid", 1, 128, scheme, "bfloat16", sizes), m)
    weights = kernel.make_weights(case.layer, 0, torch.device("cpu"))
    inputs = {
        "hidden_states": torch.zeros(m, k, dtype=torch.bfloat16),
        "topk_ids": torch.zeros(m, 8, dtype=torch.int32),
        "topk_weights": torch.zeros(m, 8),
    }
    launch = kernel.providers["triton"].prepare(case, weights, inputs)
    compiled += [asdict(record) for record in compile_launches(sys.argv[1], launch.run)]
print(json.dumps(compiled))
"""

NOTES_OF_PTXAS = """
import subprocess, sys
from itertools import product
import torch, triton
from kernels.compile import intercepted_launches
from kernels.registry import find_kernel
from kernels.spec import Case, Layer

kernel = find_kernel("fused_moe")
with intercepted_launches("sm_90") as compiled:
    for scheme, m, n in [
        *product(("int8_w8a16", "int8_w8a16_group128"), (32, 128, 1024), (512,)),
        *product(("int8_w8a16",), (16, 48), (66 * 256,)),  # tiles of 256 columns for every SM
    ]:
        sizes = {"num_experts": 2, "top_k": 1, "hidden_size": 256, "intermediate_size": n}
        case = Case(Layer("fused_moe", "grid", 1, 1, scheme, "bfloat16", sizes), m)
        weights = kernel.make_weights(case.layer, 0, torch.device("cpu"))
        inputs = kernel.make_inputs(case, weights, 0, torch.device("cpu"))
        kernel.providers["triton"].prepare(case, weights, inputs).run()
    for binary in compiled.values():
        if binary.asm["ptx"].count("wgmma.mma_async"):
            ptxas = [triton.knobs.nvidia.ptxas.path, "-v", "--gpu-name", "sm_90a", "-", "-o", "/dev/null"]
            done = subprocess.run(ptxas, input=binary.asm["ptx"], capture_output=True, text=True, check=True)
            print("of", binary.metadata.name, done.stderr)
"""

MAX_SPILL_BYTES = {"sm_90": 0, "sm_100": 128}
"""On sm_100 cuobjdump shows a few bytes of stack, of INT4's gate-up product 120: less than one of its sums."""


@cache
def compiled() -> list[dict[str, Any]]:
    return compile_everywhere(SCRIPT)


@pytest.mark.parametrize("arch", MAX_SPILL_BYTES)
def test_nothing_spills_at_the_sizes_of_deepseek_r1_and_qwen3(arch: str):
    records = [record for record in compiled() if record["arch"] == arch]
    assert {"words_gate_up_kernel", "words_down_kernel", "round_rows_kernel"} <= {record["name"] for record in records}
    for record in records:
        assert_fits(record, MAX_SPILL_BYTES[arch])


def test_ptxas_waits_for_no_single_wgmma_of_int8_weights():
    """It says so in a note, C7515, and is silent otherwise; serialized loops are right, so nothing else would tell."""
    notes = run_alone(NOTES_OF_PTXAS)
    assert {"words_gate_up_kernel", "words_down_kernel"} == set(re.findall(r"^of (\w+)", notes, re.MULTILINE))
    assert "serialized" not in notes


def qwen3(num_tokens: int, **differences):
    sizes = {"num_experts": 128, "top_k": 8, "k": 2048, "n": 768}
    return case_of(mxfp4_moe.KERNEL, mxfp4_moe.W4A16, num_tokens=num_tokens, **sizes | differences)


def test_blocks_grow_with_the_rows_per_expert():
    cases = [qwen3(num_tokens) for num_tokens in (1, 64, 512, 1024, 4096)]
    assert [default_config(case, "mxfp4").BLOCK_SIZE_M for case in cases] == [1, 16, 32, 32, 64]


def test_rows_are_those_of_this_rank_and_of_batched_experts():
    assert default_config(qwen3(512, num_experts=32, ep_size=4), "mxfp4").BLOCK_SIZE_M == 32
    batched = {"activation_format": "batched"}
    assert default_config(qwen3(512, options=batched), "mxfp4").BLOCK_SIZE_M == 32


@pytest.mark.parametrize(("kernel", "scheme"), [(w4a8_moe.KERNEL, "int4_w4a8_fp8"), (fused_moe.KERNEL, "int8_w8a16")])
def test_sums_are_split_where_the_down_gemm_has_too_few_programs(kernel, scheme: str):
    mixtral = {"num_experts": 8, "top_k": 2, "k": 4096, "n": 7168}
    one, two = (case_of(kernel, scheme, num_tokens=num_tokens, **mixtral) for num_tokens in (1, 2))
    batched = case_of(kernel, scheme, num_tokens=1, options={"activation_format": "batched"}, **mixtral)
    weight_format = scheme[:4]
    assert [default_config(case, weight_format).DOWN_SPLIT for case in (one, two, batched)] == [4, 1, 1]


def int8_config(num_tokens: int, shared_bytes: int = DEFAULT_SHARED_BYTES, **differences: int) -> WordsConfig:
    sizes = {"num_experts": 8, "top_k": 2, "k": 4096, "n": 7168} | differences
    return default_config(case_of(fused_moe.KERNEL, "int8_w8a16", num_tokens=num_tokens, **sizes), "int8", shared_bytes)


def test_int8_tiles_are_wide_where_they_are_as_many_as_sms():
    def columns(num_tokens: int, **differences: int) -> int:
        return int8_config(num_tokens, **differences).GATE_UP_BLOCK_SIZE_N

    assert int8_config(16) == WordsConfig(16, 256, 128, 1, num_warps=8, num_stages=3, DOWN_SPLIT=1)
    assert int8_config(64) == WordsConfig(32, 256, 128, 8, num_warps=8, num_stages=3, DOWN_SPLIT=1)
    assert [columns(num_tokens) for num_tokens in (4, 256)] == [64, 64]
    assert [columns(16, num_experts=2, top_k=1, n=66 * 256 - less) for less in (0, 256)] == [256, 128]  # 132 and 130
    assert columns(4, num_experts=128, top_k=8, n=768) == 128  # of 128 experts 32 are reached
    assert columns(16, num_experts=4, ep_size=2) == 128


def test_int8_tiles_are_small_where_there_is_little_shared_memory():
    """Compiled for sm_89, tiles of 256 columns take 144 KiB and those of many rows 128, of 99."""
    ada = 99 * 1024
    assert [int8_config(num_tokens, ada).GATE_UP_BLOCK_SIZE_N for num_tokens in (16, 64)] == [128, 64]
    assert int8_config(4096, ada) == int8_config(1536) != int8_config(4096)


PLAIN = WordsConfig(16, 32, 64, 8, num_warps=4, num_stages=3, DOWN_SPLIT=1)


@pytest.mark.parametrize(
    ("kernel", "scheme"),
    [
        (mxfp4_moe.KERNEL, "mxfp4_w4a4"),
        (nvfp4_moe.KERNEL, "nvfp4_w4a4"),
        (w4a8_moe.KERNEL, "int4_w4a8_fp8"),
        (fused_moe.KERNEL, "int8_w8a16"),
        (fused_moe.KERNEL, "int8_w8a16_group128"),
    ],
)
@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        replace(PLAIN, BLOCK_SIZE_M=64, GATE_UP_BLOCK_SIZE_N=64, DOWN_BLOCK_SIZE_N=128, GROUP_SIZE_M=1),
        replace(PLAIN, GATE_UP_BLOCK_SIZE_N=256, DOWN_BLOCK_SIZE_N=128, num_warps=8),
        replace(PLAIN, DOWN_SPLIT=2),
        replace(PLAIN, DOWN_SPLIT=4),
    ],
    ids=["narrow", "wide", "of 256 columns", "split", "split into more than there are steps"],
)
def test_a_tuner_may_launch_any_configuration(kernel, scheme: str, config: WordsConfig):
    case = case_of(kernel, scheme, k=256, n=384, num_tokens=9)
    weights, inputs = tensors_of(kernel, case)
    launch = kernel.providers["triton"].prepare_with(case, weights, inputs, asdict(config))
    assert launch.config["BLOCK_SIZE_M"] == config.BLOCK_SIZE_M
    error = relative_error(launch.run()[0], kernel.reference(case, weights, inputs))
    assert error < (0.025 if kernel.name == "w4a8_moe" else 0.007)
