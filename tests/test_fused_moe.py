"""The fused MoE in Triton's interpreter against its reference, on the routings that break kernels."""

from dataclasses import replace

import pytest
import torch

from kernels.errors import ShapeError
from kernels.fused_moe import (
    BLOCK_128,
    KERNEL,
    PER_TENSOR,
    bytes_moved,
    fused_moe_reference,
    make_inputs,
    make_weights,
)
from kernels.moe import vllm_fused
from kernels.moe.align import align_blocks_triton, max_num_blocks
from kernels.moe.fused_triton import MoeConfig, default_config, launch_triton
from kernels.moe.inputs import moe_flops
from kernels.quantize.fp8 import dequantize_fp8_block, dequantize_fp8_group, quantize_fp8_group
from kernels.spec import Case, Device, Layer, Tensors

CPU = torch.device("cpu")
H200 = Device("cuda", "NVIDIA H200", (9, 0))
SCHEMES = (PER_TENSOR, BLOCK_128)

# Left when the intermediate stays float32: the output's bfloat16, and a few codes flipped by another order of sums.
FLOAT32_ERROR = 0.008
# The block scheme with narrow tiles keeps the intermediate in bfloat16 until the down GEMM quantizes it.
BFLOAT16_ERROR = 0.035

NARROW = MoeConfig(16, 32, 64, 128, 1, SWAP_AB=True, QUANTIZE_ON_LOAD=True, num_warps=4, num_stages=3)
SWAPPED = MoeConfig(16, 128, 64, 128, 1, SWAP_AB=True, QUANTIZE_ON_LOAD=False, num_warps=4, num_stages=3)
PLAIN = MoeConfig(64, 128, 128, 128, 4, SWAP_AB=False, QUANTIZE_ON_LOAD=False, num_warps=8, num_stages=3)
PLAIN_ON_LOAD = replace(PLAIN, BLOCK_SIZE_M=16, GATE_UP_BLOCK_SIZE_N=64, QUANTIZE_ON_LOAD=True)


def case_of(
    scheme: str, num_experts: int = 4, top_k: int = 2, k: int = 256, n: int = 128, num_tokens: int = 5, tp_size: int = 1
) -> Case:
    sizes = {"num_experts": num_experts, "top_k": top_k, "hidden_size": k, "intermediate_size": n}
    return Case(Layer("fused_moe", "grid", tp_size, 1, scheme, "bfloat16", sizes), num_tokens)


def tensors_of(case: Case) -> tuple[Tensors, Tensors]:
    weights = make_weights(case.layer, 1, CPU)
    return weights, make_inputs(case, weights, 2, CPU)


def relative_error(output: torch.Tensor, reference: torch.Tensor) -> float:
    return ((output.float() - reference).norm() / reference.norm()).item()


def poisoned_empty(*args, empty=torch.empty, **kwargs) -> torch.Tensor:
    tensor = empty(*args, **kwargs)
    tensor.view(torch.uint8).fill_(0xFF)  # NaN in bfloat16, float32 and e4m3, -1 in int32
    return tensor


def error_of_triton(weights: Tensors, inputs: Tensors, case: Case, config: MoeConfig | None = None) -> float:
    reference = fused_moe_reference(case, weights, inputs)
    launch = KERNEL.providers["triton"].prepare(case, weights, inputs)
    launch = launch if config is None else launch_triton(weights, inputs, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned_empty)
        (output,) = launch.run()
    assert output.dtype == torch.bfloat16
    return relative_error(output, reference)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("config", [NARROW, SWAPPED, PLAIN, PLAIN_ON_LOAD])
def test_every_kind_of_configuration_computes_the_formula(scheme: str, config: MoeConfig):
    case = case_of(scheme, n=256, num_tokens=7)
    is_rounded = scheme == BLOCK_128 and config.GATE_UP_BLOCK_SIZE_N < 128
    assert error_of_triton(*tensors_of(case), case, config) < (BFLOAT16_ERROR if is_rounded else FLOAT32_ERROR)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("config", [NARROW, PLAIN])
def test_a_few_pairs_skip_the_alignment(scheme: str, config: MoeConfig):
    case = case_of(scheme, num_experts=24, num_tokens=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kernels.moe.fused_triton.align_blocks_triton", None)
        error = error_of_triton(*tensors_of(case), case, config)
    assert error < BFLOAT16_ERROR


@pytest.mark.parametrize("scheme", SCHEMES)
def test_top_1_needs_no_sum(scheme: str):
    case = case_of(scheme, top_k=1, num_tokens=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kernels.moe.fused_triton.moe_sum_kernel", None)
        error = error_of_triton(*tensors_of(case), case, SWAPPED)
    assert error < FLOAT32_ERROR


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_tokens_may_go_to_one_expert(scheme: str):
    case = case_of(scheme, top_k=1, num_tokens=35)
    weights, inputs = tensors_of(case)
    inputs["topk_ids"] = torch.full_like(inputs["topk_ids"], 2)
    assert error_of_triton(weights, inputs, case, SWAPPED) < FLOAT32_ERROR


@pytest.mark.parametrize("scheme", SCHEMES)
def test_experts_may_stay_empty(scheme: str):
    case = case_of(scheme, num_experts=8, num_tokens=19)
    weights, inputs = tensors_of(case)
    inputs["topk_ids"] = torch.tensor([[0, 5]], dtype=torch.int32).repeat(19, 1)
    assert error_of_triton(weights, inputs, case, SWAPPED) < FLOAT32_ERROR


@pytest.mark.parametrize("config", [NARROW, SWAPPED, PLAIN])
def test_an_intermediate_size_of_96_is_masked(config: MoeConfig):
    case = case_of(PER_TENSOR, n=96, tp_size=8)
    assert error_of_triton(*tensors_of(case), case, config) < FLOAT32_ERROR


def test_a_hidden_size_that_no_tile_divides_is_masked():
    case = case_of(PER_TENSOR, k=144)
    for config in (NARROW, PLAIN):
        assert error_of_triton(*tensors_of(case), case, config) < FLOAT32_ERROR


@pytest.mark.parametrize("provider", ["torch", "triton"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("num_tokens", [1, 33])
def test_providers_are_within_the_declared_tolerance(provider: str, scheme: str, num_tokens: int):
    case = case_of(scheme, num_tokens=num_tokens)
    weights, inputs = tensors_of(case)
    reference = fused_moe_reference(case, weights, inputs)
    output = KERNEL.providers[provider].prepare(case, weights, inputs).run()[0].float()
    limit = KERNEL.tolerance[scheme]
    close = (output - reference).abs() <= limit.element_error * (reference.abs() + reference.square().mean().sqrt())
    assert relative_error(output, reference) <= limit.relative_error
    assert close.float().mean() >= limit.share_close


def test_the_reference_agrees_with_one_token_at_a_time():
    case = case_of(BLOCK_128, num_tokens=3)
    weights, inputs = tensors_of(case)
    w1, w2 = (dequantize_fp8_block(weights[w], weights[f"{w}_scale"]) for w in ("w1", "w2"))
    expected = torch.zeros(3, 256)
    for token, x in enumerate(dequantize_fp8_group(*quantize_fp8_group(inputs["hidden_states"]))):
        for expert, weight in zip(inputs["topk_ids"][token], inputs["topk_weights"][token], strict=True):
            gate, up = (w1[expert] @ x).chunk(2)
            h = dequantize_fp8_group(*quantize_fp8_group(torch.nn.functional.silu(gate) * up))
            expected[token] += weight * (w2[expert] @ h)
    assert relative_error(fused_moe_reference(case, weights, inputs), expected) < FLOAT32_ERROR


@pytest.mark.parametrize("scheme", SCHEMES)
def test_outputs_are_of_order_one_and_no_static_scale_saturates(scheme: str):
    case = case_of(scheme, k=512, num_tokens=32)
    weights, inputs = tensors_of(case)
    assert 0.2 < fused_moe_reference(case, weights, inputs).std() < 1
    assert inputs["hidden_states"].abs().max() < weights.get("a1_scale", torch.ones(1)) * 448


def test_the_seed_alone_decides_the_tensors():
    case = case_of(BLOCK_128)
    (weights, inputs), (again, inputs_again) = tensors_of(case), tensors_of(case)
    assert all(torch.equal(weights[name].view(torch.uint8), again[name].view(torch.uint8)) for name in weights)
    assert all(torch.equal(inputs[name], inputs_again[name]) for name in inputs)
    other = make_inputs(case, weights, 3, CPU)
    assert not torch.equal(inputs["hidden_states"], other["hidden_states"])


def test_routing_is_normalized_and_never_picks_an_expert_twice():
    inputs = tensors_of(case_of(PER_TENSOR, num_tokens=50))[1]
    torch.testing.assert_close(inputs["topk_weights"].sum(dim=1), torch.ones(50))
    assert (inputs["topk_ids"][:, 0] != inputs["topk_ids"][:, 1]).all()
    assert inputs["topk_ids"].dtype == torch.int32


@pytest.mark.parametrize(
    ("num_experts", "num_tokens", "top_k", "block_size_m"),
    [(8, 5, 2, 16), (4, 1, 1, 16), (100, 300, 8, 16), (6, 70, 3, 64)],
)
def test_alignment_puts_every_pair_into_one_block_of_its_expert(num_experts, num_tokens, top_k, block_size_m):
    topk_ids = torch.rand(num_tokens, num_experts).topk(top_k).indices.int()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned_empty)
        blocks = align_blocks_triton(topk_ids, num_experts, block_size_m)
    placed = []
    for block, (expert, rows) in enumerate(zip(blocks.experts.tolist(), blocks.rows.tolist(), strict=True)):
        pairs = blocks.pairs[block * block_size_m :][:rows].long()
        assert (topk_ids.flatten()[pairs] == expert).all()
        placed += pairs.tolist()
    assert sorted(placed) == list(range(num_tokens * top_k))


def test_the_bound_on_blocks_holds_for_the_worst_routing():
    for num_experts in range(1, 7):
        for num_pairs in range(1, 40):
            spread = [1] * min(num_experts - 1, num_pairs - 1)
            counts = [*spread, num_pairs - len(spread)]
            assert sum(-(-count // 4) for count in counts) <= max_num_blocks(num_pairs, num_experts, 4)


@pytest.mark.parametrize(("k", "n", "name"), [(256, 96, "intermediate_size 96"), (192, 128, "hidden_size 192")])
def test_a_block_scheme_that_does_not_fit_is_refused_by_name(k: int, n: int, name: str):
    layer = case_of(BLOCK_128, k=k, n=n).layer
    with pytest.raises(ShapeError, match=f"{name} per rank is not a multiple of 128"):
        KERNEL.check_layer(layer)
    KERNEL.check_layer(replace(layer, scheme=PER_TENSOR))


def test_cost_counts_only_the_experts_that_are_routed_to():
    case = case_of(BLOCK_128, num_experts=16, num_tokens=4)
    inputs = tensors_of(case)[1] | {"topk_ids": torch.tensor([[3, 9]] * 4, dtype=torch.int32)}
    assert moe_flops(case, inputs) == 2 * 8 * 3 * 128 * 256
    assert bytes_moved(case, inputs) == 2 * (3 * 128 * 256 + 4 * 6) + 2 * 4 * 256 * 2 + 8 * 8


def test_the_default_configuration_widens_with_the_rows_per_expert():
    rows = [default_config(m, 8, 128, 2048, 768, grouped=False).BLOCK_SIZE_M for m in (1, 64, 512, 4096, 16384)]
    assert rows == [16, 16, 32, 128, 128]
    for num_tokens in (1, 16, 4096):
        assert default_config(num_tokens, 8, 256, 7168, 256, grouped=True).BLOCK_SIZE_K == 128


def test_providers_say_what_they_lack():
    case, cpu, old = case_of(BLOCK_128), Device("cpu", "a CPU"), Device("cuda", "NVIDIA A100-SXM4-80GB", (8, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_fused.importlib.util, "find_spec", lambda _: None)
        for name in ("vllm-triton-shipped", "vllm-triton-default", "vllm-cutlass"):
            unsupported = KERNEL.providers[name].unsupported
            assert unsupported(case, cpu) == "needs a CUDA GPU (this is cpu)"
            assert unsupported(case, old) == "needs sm_89 (this is sm_80)"
            assert unsupported(case, H200) == "needs the vllm package, which is not installed"
    assert KERNEL.providers["triton"].unsupported(case, old) == "needs sm_89 (this is sm_80)"
    assert KERNEL.providers["torch"].unsupported(case, old) is None
    assert KERNEL.providers["torch"].unsupported(case_of(PER_TENSOR, n=4), cpu) is not None


def test_the_shipped_configuration_is_the_nearest_batch_size(tmp_path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "E=4,N=128,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json"
    file.write_text('{"triton_version": "3.6.0", "1": {"BLOCK_SIZE_M": 16}, "64": {"BLOCK_SIZE_M": 64}}')
    monkeypatch.setattr(vllm_fused, "config_folder", lambda: tmp_path)
    monkeypatch.setattr(vllm_fused, "unsupported_default", lambda *_: None)
    case = case_of(BLOCK_128, num_tokens=40)
    assert vllm_fused.shipped_config(case, "NVIDIA H200") == (f"{file.name}, batch size 64", {"BLOCK_SIZE_M": 64})
    shipped = KERNEL.providers["vllm-triton-shipped"]
    assert shipped.unsupported(case, H200) is None
    assert shipped.unsupported(case_of(BLOCK_128, n=256), H200) == (
        "vLLM ships no E=4,N=256,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json"
    )
