"""Our fused MoE of the block scheme for Hopper: launches gemm_hopper.py and down_hopper.py between Triton kernels.

Four launches, five from 2049 pairs on: count pairs (only then), align and quantize hidden states, gate-up, down, sum.
The batched format needs three: quantize, gate-up, down.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import triton

from kernels.configs import read_config
from kernels.gemm.descriptors import in_tiles
from kernels.moe.activations import quantize_triton
from kernels.moe.align_quantize import align_and_quantize
from kernels.moe.down_hopper import moe_down_hopper_kernel
from kernels.moe.gemm_hopper import BLOCK_SIZE_M, HALF_M, moe_gate_up_hopper_kernel
from kernels.moe.inputs import weights_input
from kernels.moe.routing import find_blocks, routing_of
from kernels.moe.schemes import GROUP_SIZE, MOE_SCHEMES, scheme_of
from kernels.moe.sums import sum_over_choices
from kernels.quantize.fp8 import FP8_DTYPE
from kernels.requirements import missing_family
from kernels.sms import count_sms
from kernels.spec import Case, Device, Launch, Outputs, Tensors

SCHEME = MOE_SCHEMES["fp8_w8a8_block128"]
ROWS_OF_BLOCK: int = BLOCK_SIZE_M.value
REGISTERS = 168
"""Of a thread, before the warps that multiply take those that the warps that load give back."""


@dataclass(frozen=True, slots=True)
class GluonConfig:
    """Launch configuration of fused_moe_gluon, and of int4_moe_gluon."""

    GATE_UP_GROUP_SIZE_M: int
    """Blocks that share a tile of weights in L2, of the gate-up GEMM."""
    DOWN_GROUP_SIZE_M: int
    """The same of the down GEMM."""
    num_stages: int
    """Tiles in flight, 48 KiB each; of INT4 32 KiB."""


DEFAULT = GluonConfig(GATE_UP_GROUP_SIZE_M=1, DOWN_GROUP_SIZE_M=8, num_stages=4)
"""The best on an H200: DeepSeek-V3 TP8 and Qwen3-30B-A3B, M=64 to 4096. One stage more does not fit."""


def fused_moe_gluon(weights: Tensors, inputs: Tensors, config: GluonConfig, weight_input: bool = False) -> torch.Tensor:
    """The formula of fused_moe.py in `fp8_w8a8_block128`, without leaving the device.

    Args:
        weights, inputs: as make_weights and make_inputs make them, contiguous.
        weight_input: the router's weight multiplies the experts' input instead of their output.
    Returns:
        Like hidden_states; the padding of the batched format stays unwritten.
    """
    hidden_states, routing = inputs["hidden_states"], routing_of(inputs)
    w1, w2, w1_scale, w2_scale = (weights[name] for name in ("w1", "w2", "w1_scale", "w2_scale"))
    num_experts, k, n = w2.shape
    x = hidden_states.view(-1, k)
    weight_input = weight_input and routing.topk_weights is not None
    if routing.topk_ids is None:
        blocks = find_blocks(inputs, num_experts, ROWS_OF_BLOCK, may_be_single=False)
        a, a_scale = quantize_triton(SCHEME, x, None, routing)
    else:
        blocks, a, a_scale = align_and_quantize(routing, num_experts, ROWS_OF_BLOCK, x, weight_rows=weight_input)
    h = torch.empty(blocks.max_blocks * ROWS_OF_BLOCK, n, dtype=FP8_DTYPE, device=x.device)
    h_scale = torch.empty(len(h), n // GROUP_SIZE, device=x.device)
    out = torch.empty(routing.num_rows, k, dtype=x.dtype, device=x.device)
    where = (
        blocks.pairs, blocks.experts, blocks.rows, routing.rows_per_expert, blocks.num_blocks, blocks.max_blocks, n, k,
    )  # fmt: skip
    constants = {"LAYOUT": blocks.layout, "STAGES": config.num_stages, "num_warps": 4, "maxnreg": REGISTERS}
    num_sms = count_sms(x.device)
    moe_gate_up_hopper_kernel[(min(num_sms, blocks.max_blocks * (n // GROUP_SIZE)),)](
        a, a_scale, in_tiles(w1, GROUP_SIZE, GROUP_SIZE), w1_scale, h, h_scale, *where,
        TOP_K=1 if weight_input else routing.top_k, GROUP_SIZE_M=config.GATE_UP_GROUP_SIZE_M, **constants,
    )  # fmt: skip
    moe_down_hopper_kernel[(min(num_sms, blocks.max_blocks * triton.cdiv(k, 2 * GROUP_SIZE)),)](
        in_tiles(h, HALF_M.value, GROUP_SIZE), h_scale, in_tiles(w2, GROUP_SIZE, GROUP_SIZE), w2_scale, out, *where,
        GROUP_SIZE_M=config.DOWN_GROUP_SIZE_M, **constants,
    )  # fmt: skip
    by_weight = None if weight_input else routing.topk_weights
    return sum_over_choices(out, routing, out.dtype, weights=by_weight).view(hidden_states.shape)


def prepare_gluon(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """Pick the default configuration."""
    return launch_gluon(case, weights, inputs, DEFAULT)


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
