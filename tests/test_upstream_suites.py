"""Each suite has the models, sizes, batch sizes and options of the default table of the script it is named after.

The defaults were read in vllm-project/vllm, benchmarks/kernels/.
"""

import pytest

from tasks.errors import UsageError
from tasks.planning.cases import Selection, plan_units, resolve_shapes
from tasks.planning.suites import find_suite
from tasks.records import WorkUnit

CUTLASS_BATCH_SIZES = [4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]


def plan(suite: str, selection: Selection | None = None) -> tuple[WorkUnit, ...]:
    chosen, selection = find_suite(suite), selection or Selection()
    return plan_units(chosen, resolve_shapes(chosen, selection), selection, "cuda").units


def list_batch_sizes(unit: WorkUnit) -> list[int]:
    return list(dict.fromkeys(case.num_tokens for case in unit.cases))


def test_benchmark_moe_is_mixtral_in_bfloat16_at_its_batch_sizes() -> None:
    (unit,) = plan("benchmark_moe")
    assert (unit.layer.label, unit.layer.scheme, unit.layer.dtype) == ("Mixtral-8x7B TP2", "unquantized", "bfloat16")
    assert list_batch_sizes(unit) == [
        *(1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096)
    ]


def test_benchmark_cutlass_fp4_moe_has_the_true_sizes_of_deepseek_r1_and_both_timers() -> None:
    (unit,) = plan("benchmark_cutlass_fp4_moe")
    assert unit.layer.label == "DeepSeek-R1-FP4 TP1"
    assert unit.layer.sizes == {"num_experts": 256, "top_k": 8, "hidden_size": 7168, "intermediate_size": 2048}
    assert (list_batch_sizes(unit), unit.timers) == (CUTLASS_BATCH_SIZES, ("graph", "eager"))


def test_limits_on_the_fp4_table_mean_hidden_and_intermediate_size() -> None:
    selection = Selection(limit_k=(7168,), limit_n=(2048,))
    assert [unit.layer.model for unit in plan("benchmark_cutlass_fp4_moe", selection)] == ["DeepSeek-R1-FP4"]
    with pytest.raises(UsageError, match=r"--limit-k 2048 leaves nothing .*; there is 7168"):
        plan("benchmark_cutlass_fp4_moe", Selection(limit_k=(2048,)))


def test_benchmark_cutlass_moe_fp8_is_mixtral_per_tensor_and_per_channel() -> None:
    units = plan("benchmark_cutlass_moe_fp8")
    assert [(unit.layer.label, unit.layer.scheme) for unit in units] == [
        ("Mixtral-8x7B TP1", "fp8_w8a8"),
        ("Mixtral-8x7B TP1", "fp8_w8a8_channel"),
    ]
    assert [list_batch_sizes(unit) for unit in units] == [CUTLASS_BATCH_SIZES] * 2


def test_bench_mxfp4_qutlass_has_four_layers_three_rotations_and_both_activations() -> None:
    units = plan("bench_mxfp4_qutlass")
    sizes = {unit.layer.module: tuple(unit.layer.sizes.values()) for unit in units}
    assert sizes == {  # n, k; weight_shapes.py has k, n
        "qkv_proj": (6144, 4096),
        "o_proj": (4096, 4096),
        "gate_up_proj": (28672, 4096),
        "down_proj": (4096, 14336),
    }
    assert {(unit.layer.module, unit.layer.scheme) for unit in units} == {
        (module, f"mxfp4_w4a4_hadamard{size}") for module in sizes for size in (32, 64, 128)
    }
    for unit in units:
        assert list_batch_sizes(unit) == [
            *(1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 24576, 32768)
        ]
        assert {case.options.get("activations", "dynamic") for case in unit.cases} == {"dynamic", "prequantized"}


def test_benchmark_silu_mul_fp8_quant_has_its_experts_strategies_and_mean_tokens() -> None:
    units = plan("benchmark_silu_mul_fp8_quant")
    assert [tuple(unit.layer.sizes.values()) for unit in units] == [(8, 7168), (32, 7168), (256, 7168)]
    assert {unit.layer.scheme for unit in units} == {"fp8_group128"}
    means = [8, 16, 32, 64, 128, 256, 512]
    for unit in units:
        by_strategy: dict[str, list[int]] = {}
        for case in unit.cases:
            by_strategy.setdefault(case.options.get("token_strategy", "uniform"), []).append(case.num_tokens)
        assert by_strategy == {"uniform": means, "max_t": means, "random_imbalanced": [2 * mean for mean in means]}
