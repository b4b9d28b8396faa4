"""Our INT4 MoE for Hopper: launches gemm_int4_hopper.py between the kernels of align.py, activations.py and sums.py.

Six launches, or seven from 2049 pairs on: align (one or two), quantize hidden states, gate-up, quantize the
intermediate, down, sum. From the first rounding to the down product rows are those of the blocks. The batched format
needs neither align nor sum.
"""

from collections.abc import Mapping
from dataclasses import asdict

import torch
import triton

from kernels.configs import read_config
from kernels.errors import ShapeError
from kernels.gemm.descriptors import in_tiles
from kernels.gemm.words import Words
from kernels.moe.activations import quantize_blocks_kernel
from kernels.moe.align import Blocks
from kernels.moe.fused_gluon import REGISTERS, GluonConfig
from kernels.moe.gemm_hopper import BLOCK_SIZE_M
from kernels.moe.gemm_int4_hopper import HALF, int4_hopper_kernel
from kernels.moe.inputs import weights_input
from kernels.moe.routing import Routing, find_blocks, routing_of
from kernels.moe.schemes import GROUP_SIZE
from kernels.moe.sums import sum_over_choices
from kernels.moe.words_triton import OFFSET_FACTORS, WordsLayer
from kernels.quantize.fp8 import FP8_DTYPE
from kernels.sms import count_sms
from kernels.spec import Case, Launch, Outputs, Tensors

ROWS_OF_BLOCK: int = BLOCK_SIZE_M.value
SUMS_OF_STAGE: int = HALF.value

DEFAULT = GluonConfig(GATE_UP_GROUP_SIZE_M=8, DOWN_GROUP_SIZE_M=8, num_stages=5)
"""The best of four on an H200, Mixtral-8x7B TP2 at M=2048. One stage more does not fit."""


def int4_moe_gluon(layer: WordsLayer, inputs: Tensors, config: GluonConfig, *, on_input: bool) -> torch.Tensor:
    """The formula of w4a8_moe.py, without leaving the device.

    Args:
        layer: of format "int4".
        inputs: as make_moe_inputs makes them, contiguous.
        on_input: whether the router's weight multiplies the experts' input; batched activations are not weighted.
    Returns:
        Like hidden_states.
    """
    hidden_states, routing = inputs["hidden_states"], routing_of(inputs)
    n, k = layer.w1.num_rows // 2, layer.w2.num_rows
    x = hidden_states.view(-1, k)
    blocks = find_blocks(inputs, len(layer.w2.words), ROWS_OF_BLOCK, may_be_single=False, ordered=True)
    h = torch.empty(blocks.max_blocks * ROWS_OF_BLOCK, n, dtype=torch.bfloat16, device=x.device)
    out = torch.empty(routing.num_rows, k, dtype=x.dtype, device=x.device)
    input_weights, output_weights = (routing.topk_weights, None) if on_input else (None, routing.topk_weights)
    a = quantize_blocks(x, input_weights, routing.top_k, routing, blocks)
    launch_product(a, layer.w1, layer.w1_factor, h, routing, blocks, config, is_gate_up=True)
    a = quantize_blocks(h, output_weights, None, routing, blocks)
    launch_product(a, layer.w2, layer.w2_factor, out, routing, blocks, config, is_gate_up=False)
    return sum_over_choices(out, routing, out.dtype).view(hidden_states.shape)


def quantize_blocks(
    x: torch.Tensor, weights: torch.Tensor | None, top_k: int | None, routing: Routing, blocks: Blocks
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of the blocks: FP8 codes [rows, K], scales [rows] float32 and sums of 128 codes [rows, S] float16.

    Args:
        x: [tokens, K], a row for top_k pairs; or the rows of the blocks if top_k is None.
        weights: [num_pairs] float32, multiply scales: products are linear in both the rows and their rounding.
    """
    num_rows, k = blocks.max_blocks * ROWS_OF_BLOCK, x.shape[1]
    block_size = triton.next_power_of_2(k)
    num_sums = max(block_size // GROUP_SIZE, SUMS_OF_STAGE)
    codes = torch.empty(num_rows, k, dtype=FP8_DTYPE, device=x.device)
    scales = torch.empty(num_rows, device=x.device)
    sums = torch.empty(num_rows, num_sums, dtype=torch.float16, device=x.device)
    quantize_blocks_kernel[(num_rows,)](
        x, weights, codes, scales, sums, blocks.pairs, blocks.rows, routing.rows_per_expert, k, top_k, *OFFSET_FACTORS,
        LAYOUT=blocks.layout, BLOCK_SIZE_M=ROWS_OF_BLOCK, NUM_SUMS=num_sums, BLOCK_SIZE_K=block_size,
        num_warps=min(max(block_size // 1024, 1), 8),
    )  # fmt: skip
    return codes, scales, sums


def launch_product(
    a: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    w: Words,
    factor: torch.Tensor,
    out: torch.Tensor,
    routing: Routing,
    blocks: Blocks,
    config: GluonConfig,
    *,
    is_gate_up: bool,
) -> None:
    """Write out [rows of the blocks, N], or [num_rows, K]: a as quantize_blocks returns it times w."""
    codes, scales, sums = a
    if w.scales is None:
        raise ShapeError("words without scales: pack int4 weights with pack_int4")
    row_pairs, k = w.num_rows // 2, codes.shape[1]
    int4_hopper_kernel[(count_sms(out.device),)](
        in_tiles(codes, ROWS_OF_BLOCK, GROUP_SIZE), scales, in_tiles(sums.view(FP8_DTYPE), ROWS_OF_BLOCK, GROUP_SIZE),
        in_tiles(w.words.view(-1, GROUP_SIZE), GROUP_SIZE, GROUP_SIZE), w.scales.flatten().view(torch.int16), factor,
        out, blocks.pairs, blocks.experts, blocks.rows, routing.rows_per_expert, blocks.num_blocks, blocks.max_blocks,
        blocks.order, blocks.num_long, row_pairs, k, IS_GATE_UP=is_gate_up,
        SUM_STEPS=sums.shape[1] // SUMS_OF_STAGE,
        SUM_WIDTH=min(max(triton.next_power_of_2(k // GROUP_SIZE), 16), SUMS_OF_STAGE), LAYOUT=blocks.layout,
        GROUP_SIZE_M=config.GATE_UP_GROUP_SIZE_M if is_gate_up else config.DOWN_GROUP_SIZE_M,
        STAGES=config.num_stages, num_warps=4, maxnreg=REGISTERS,
    )  # fmt: skip


def prepare_int4_gluon(case: Case, layer: WordsLayer, inputs: Tensors) -> Launch:
    """Pick the default configuration."""
    return launch_int4_gluon(case, layer, inputs, DEFAULT)


def prepare_int4_gluon_with(case: Case, layer: WordsLayer, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """Take a given configuration."""
    return launch_int4_gluon(case, layer, inputs, read_config(GluonConfig, config, case))


def launch_int4_gluon(case: Case, layer: WordsLayer, inputs: Tensors, config: GluonConfig) -> Launch:
    """The launch with a given configuration."""

    def run() -> Outputs:
        return (int4_moe_gluon(layer, inputs, config, on_input=weights_input(case)),)

    return Launch(run, asdict(config))
