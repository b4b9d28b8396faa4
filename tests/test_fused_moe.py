"""The fused MoE in Triton's interpreter against its reference, on the routings that break kernels."""

from dataclasses import replace

import pytest
import torch
import triton
from poison import poisoned_empty

from kernels.errors import KernelError, ShapeError
from kernels.fused_moe import KERNEL, bytes_moved, fused_moe_reference, make_inputs, make_weights
from kernels.moe.align import align_blocks_triton, max_num_blocks
from kernels.moe.fused_triton import launch_triton
from kernels.moe.inputs import moe_flops
from kernels.moe.schemes import scheme_of
from kernels.moe.triton_configs import MoeConfig, default_config, fit_stages
from kernels.sms import count_shared_bytes
from kernels.spec import Case, Device, Layer, Tensors

CPU = torch.device("cpu")
PER_TENSOR, BLOCK_128 = "fp8_w8a8", "fp8_w8a8_block128"
SCHEMES = (PER_TENSOR, BLOCK_128)
"""Those whose activations can be quantized on load; tests/test_moe_schemes.py has what holds for all."""

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


def error_of_triton(weights: Tensors, inputs: Tensors, case: Case, config: MoeConfig | None = None) -> float:
    reference = fused_moe_reference(case, weights, inputs)
    launch = KERNEL.providers["triton"].prepare(case, weights, inputs)
    launch = launch if config is None else launch_triton(case, weights, inputs, config)
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
        patch.setattr("kernels.moe.routing.align_blocks_triton", None)
        error = error_of_triton(*tensors_of(case), case, config)
    assert error < BFLOAT16_ERROR


@pytest.mark.parametrize("scheme", SCHEMES)
def test_top_1_needs_no_sum(scheme: str):
    case = case_of(scheme, top_k=1, num_tokens=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kernels.moe.sums.moe_sum_kernel", None)
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


@pytest.mark.parametrize(("num_experts", "num_tokens"), [(8, 700), (8, 1), (5, 30)])
def test_alignment_orders_blocks_by_whether_they_are_more_than_half_full(num_experts: int, num_tokens: int):
    topk_ids = torch.rand(num_tokens, num_experts).topk(2).indices.int()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned_empty)
        blocks = align_blocks_triton(topk_ids, num_experts, 16, ordered=True)
    assert blocks.order is not None and blocks.num_long is not None
    assert sorted(blocks.order.tolist()) == list(range(blocks.max_blocks))
    rows = blocks.rows[blocks.order.long()].tolist()
    num_long, num_blocks = int(blocks.num_long), int((blocks.rows > 0).sum())
    assert all(row > 8 for row in rows[:num_long])
    assert all(0 < row <= 8 for row in rows[num_long:num_blocks])


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
    case = case_of(PER_TENSOR, num_experts=128, top_k=8, k=2048, n=768)
    rows = [default_config(replace(case, num_tokens=m)).BLOCK_SIZE_M for m in (1, 64, 512, 4096, 16384)]
    assert rows == [1, 16, 32, 128, 128]
    for num_tokens in (16, 4096):
        case = case_of(BLOCK_128, num_experts=256, top_k=8, k=7168, n=256, num_tokens=num_tokens)
        assert default_config(case).BLOCK_SIZE_K == 128


@pytest.mark.parametrize(
    ("scheme", "num_tokens", "stages"),
    [(PER_TENSOR, 4, (4, 3)), (PER_TENSOR, 64, (5, 3)), (PER_TENSOR, 2048, (3, 3)), (BLOCK_128, 64, (5, 3))],
)
def test_stages_are_as_many_as_shared_memory_holds(scheme: str, num_tokens: int, stages: tuple[int, int]):
    """Compiled for sm_89 these take 73,728, 81,920, 98,304 and 73,728 bytes of 101,376."""
    case = case_of(scheme, num_experts=2, top_k=2, k=1024, n=1024, num_tokens=num_tokens)
    config = default_config(case)
    hopper, ada = (fit_stages(config, scheme_of(case.layer), room * 1024) for room in (227, 99))
    assert (hopper.num_stages, ada.num_stages) == stages
    assert replace(hopper, num_stages=config.num_stages) == config == replace(ada, num_stages=config.num_stages)


@pytest.mark.parametrize(
    ("scheme", "module", "field"),
    [(PER_TENSOR, "fused_triton", "num_stages"), ("int8_w8a16", "words_triton", "GATE_UP_BLOCK_SIZE_N")],
)
def test_the_default_configuration_fits_the_device(
    scheme: str, module: str, field: str, monkeypatch: pytest.MonkeyPatch
):
    case = case_of(scheme, num_experts=2, top_k=1, k=256, n=66 * 256, num_tokens=40)
    weights, inputs = tensors_of(case)
    prepare = KERNEL.providers["triton"].prepare
    hopper = prepare(case, weights, inputs).config
    monkeypatch.setattr(f"kernels.moe.{module}.count_shared_bytes", lambda device: 99 * 1024)
    assert prepare(case, weights, inputs).config[field] < hopper[field]


@pytest.mark.gpu
def test_a_gpu_has_as_much_shared_memory_as_triton_lets_a_program_have():
    known = triton.runtime.driver.active.utils.get_device_properties(torch.cuda.current_device())
    assert count_shared_bytes(torch.device("cuda")) == known["max_shared_mem"]


def test_our_provider_says_what_it_lacks():
    case, cpu, old = case_of(BLOCK_128), Device("cpu", "a CPU"), Device("cuda", "NVIDIA A100-SXM4-80GB", (8, 0))
    triton, torch_moe = KERNEL.providers["triton"].unsupported, KERNEL.providers["torch"].unsupported
    assert triton(case, cpu) == "needs a CUDA GPU (this is cpu)"
    assert triton(case, old) == "needs sm_89 (this is sm_80)"
    assert triton(case_of("int8_w8a8"), old) is None
    assert triton(case_of("unquantized"), replace(old, capability=(7, 5))) == "needs sm_80 (this is sm_75)"
    assert torch_moe(case_of(PER_TENSOR, n=4), cpu) == "needs intermediate_size divisible by 8 (this is 4)"
    assert torch_moe(case, cpu) is None


@pytest.mark.parametrize(("capability", "runs"), [((8, 0), False), ((9, 0), True), ((10, 3), True), ((12, 0), False)])
def test_torch_multiplies_groups_where_it_does_not_wait_for_their_sizes_and_batches_anywhere(
    capability: tuple[int, int], runs: bool
):
    device, torch_moe = Device("cuda", "a GPU", capability), KERNEL.providers["torch"].unsupported
    reason = f"needs sm_90 or sm_100, where torch's grouped_mm does not ask the host (this is {device.arch})"
    assert torch_moe(case_of(BLOCK_128), device) == (None if runs else reason)
    assert torch_moe(replace(case_of(BLOCK_128), options={"activation_format": "batched"}), device) is None


@pytest.mark.parametrize("scheme", ["fp8_w8a8_channel", "unquantized"])
def test_quantizing_on_load_where_no_scale_is_known_is_an_error_that_names_the_scheme(scheme: str):
    case = case_of(scheme)
    with pytest.raises(KernelError, match=f"QUANTIZE_ON_LOAD=True: {scheme} .* set it to False"):
        launch_triton(case, {}, {}, PLAIN_ON_LOAD)
