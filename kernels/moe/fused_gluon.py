"""Our fused MoE of the block scheme for Hopper: launches gemm_hopper.py between the kernels of align.py and rows.py.

Five launches, or eight from 2048 pairs on: align, quantize hidden states, gate-up, down, sum. The batched format needs
neither align nor sum.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import triton
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels.configs import read_config
from kernels.moe.align import Blocks, align_blocks_triton
from kernels.moe.fused_triton import routing_of
from kernels.moe.gemm_hopper import BLOCK_SIZE_M, moe_block_kernel
from kernels.moe.inputs import weights_input
from kernels.moe.rows import Routing, moe_sum_kernel, quantize_triton
from kernels.moe.schemes import GROUP_SIZE, MOE_SCHEMES, scheme_of
from kernels.quantize.fp8 import FP8_DTYPE
from kernels.requirements import missing_family
from kernels.sms import count_sms
from kernels.spec import Case, Device, Launch, Outputs, Tensors

TILE = gl.NVMMASharedLayout.get_default_for([GROUP_SIZE, GROUP_SIZE], gl.float8e4nv)
REGISTERS = 168
"""Of a thread, before the warps that multiply take those that the warps that load give back."""


@dataclass(frozen=True, slots=True)
class GluonConfig:
    """Launch configuration of fused_moe_gluon."""

    GROUP_SIZE_M: int
    """Blocks that share a tile of weights in L2."""
    num_stages: int
    """Tiles in flight, 48 KiB each."""


def find_blocks(inputs: Tensors, num_experts: int) -> Blocks:
    """Blocks of rows of one expert each; num_experts is this rank's."""
    block_size_m = int(BLOCK_SIZE_M.value)
    if "expert_num_tokens" in inputs:
        counts = inputs["expert_num_tokens"]
        max_blocks = num_experts * triton.cdiv(inputs["hidden_states"].shape[1], block_size_m)
        return Blocks(counts, counts, counts, max_blocks, "batched")
    return align_blocks_triton(inputs["topk_ids"], num_experts, block_size_m, inputs.get("expert_map"))


def multiply(
    a: torch.Tensor,
    a_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    topk_weights: torch.Tensor | None,
    out: torch.Tensor,
    out_scale: torch.Tensor | None,
    routing: Routing,
    blocks: Blocks,
    top_k: int,
    config: GluonConfig,
) -> None:
    """One launch of moe_block_kernel, gated if there is an out_scale; w [E, rows, k]."""
    num_experts, rows, k = w.shape
    tiles = TensorDescriptor.from_tensor(w.view(num_experts * rows, k), [GROUP_SIZE, GROUP_SIZE], TILE)
    num_tiles = blocks.max_blocks * triton.cdiv(rows, 2 * GROUP_SIZE)
    moe_block_kernel[(min(num_tiles, count_sms(a.device)),)](
        a, a_scale, tiles, w_scale, topk_weights, out, out_scale, blocks.pairs, blocks.experts, blocks.rows,
        blocks.max_blocks, routing.rows_per_expert, rows, k,
        LAYOUT=blocks.layout, GATED=out_scale is not None, TOP_K=top_k,
        GROUP_SIZE_M=config.GROUP_SIZE_M, STAGES=config.num_stages, num_warps=4, maxnreg=REGISTERS,
    )  # fmt: skip


def fused_moe_gluon(weights: Tensors, inputs: Tensors, config: GluonConfig, weight_input: bool = False) -> torch.Tensor:
    """The formula of fused_moe.py in `fp8_w8a8_block128`, without leaving the device.

    Args:
        weights, inputs: as make_weights and make_inputs make them, contiguous.
        weight_input: the router's weight multiplies the experts' input instead of their output.
    Returns:
        Like hidden_states; the padding of the batched format stays unwritten.
    """
    hidden_states, routing = inputs["hidden_states"], routing_of(inputs)
    num_experts, k, n = weights["w2"].shape
    x = hidden_states.view(-1, k)
    blocks = find_blocks(inputs, num_experts)
    weight_input = weight_input and routing.topk_weights is not None
    a, a_scale = quantize_triton(MOE_SCHEMES["fp8_w8a8_block128"], x, None, routing, weight_input)
    h = torch.empty(routing.num_rows, n, dtype=FP8_DTYPE, device=x.device)
    h_scale = torch.empty(routing.num_rows, n // GROUP_SIZE, device=x.device)
    top_k = 1 if weight_input else routing.top_k
    multiply(a, a_scale, weights["w1"], weights["w1_scale"], None, h, h_scale, routing, blocks, top_k, config)
    out = torch.empty(routing.num_rows, k, dtype=x.dtype, device=x.device)
    topk_weights = None if weight_input else routing.topk_weights
    multiply(h, h_scale, weights["w2"], weights["w2_scale"], topk_weights, out, None, routing, blocks, 1, config)
    if routing.topk_ids is None or (routing.top_k == 1 and routing.expert_map is None):
        return out.view(hidden_states.shape)
    total = torch.empty_like(x)
    moe_sum_kernel[(len(x), triton.cdiv(k, 1024))](out, *routing.computed[:2], total, k, routing.top_k, 1024)
    return total


def prepare_gluon(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """Pick the default configuration."""
    return launch_gluon(case, weights, inputs, GluonConfig(GROUP_SIZE_M=8, num_stages=4))


def prepare_gluon_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """Take a given configuration."""
    return launch_gluon(case, weights, inputs, read_config(GluonConfig, config, case))


def launch_gluon(case: Case, weights: Tensors, inputs: Tensors, config: GluonConfig) -> Launch:
    """The launch with a given configuration."""

    def run() -> Outputs:
        return (fused_moe_gluon(weights, inputs, config, weights_input(case)),)

    return Launch(run, asdict(config))


def unsupported_gluon(case: Case, device: Device) -> str | None:
    """wgmma, and the tensor core's copy engine as it is used here, are Hopper's alone."""
    if scheme_of(case.layer).scaling != "block":
        return f"multiplies 128 x 128 blocks that have one scale (this is {case.layer.scheme})"
    return missing_family(device, 9)
