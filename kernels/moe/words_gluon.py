"""Our MoE with repacked FP4 weights for Hopper: launches words_hopper.py after align.py and columns.py, before sums.py.

Five launches, or six from 2049 pairs on: align (one or two), order the columns of hidden states, gate-up, down, sum
(unless top_k is 1 and no expert map leaves pairs out). The batched format needs neither align nor sum. Few pairs go row
by row (gemv_words.py), in two launches.
"""

from bisect import bisect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import cast

import torch
import triton

from kernels.configs import read_config
from kernels.gemm.descriptors import in_tiles
from kernels.gemm.words import Words
from kernels.moe.align import Blocks
from kernels.moe.columns import order_columns
from kernels.moe.inputs import is_batched, moe_sizes, weights_input
from kernels.moe.routing import Routing, find_blocks, routing_of
from kernels.moe.sums import sum_over_choices
from kernels.moe.words_hopper import words_hopper_kernel
from kernels.moe.words_triton import BY_ROW, WordsLayer, goes_by_row, launch_words, prepare_words_with
from kernels.requirements import missing_family
from kernels.sms import count_sms
from kernels.spec import Case, Device, Launch, Outputs, Tensors

MOST_ROWS = (5, 12, 24)
"""Rows per expert up to which the next default is not the better one; half of its block, or a few more."""
REGISTERS = {1: (232, 40, 168), 2: (104, 32, 80)}
"""By programs an SM: of a thread that multiplies, of one that copies, and before they have given and taken."""
SCALES = {"mxfp4": torch.int8, "nvfp4": torch.int16}
"""What a lane has of a row and step."""


@dataclass(frozen=True, slots=True)
class WordsGluonConfig:
    """Launch configuration of words_moe_gluon."""

    BLOCK_SIZE_M: int
    """Rows of a block: pairs of one expert."""
    ROWS: int
    """Of weights that four warps multiply, 64 or 128; a tile has twice as many."""
    BY_WARPGROUP: bool
    """Whether wgmma multiplies, or each warp by itself."""
    num_stages: int
    """Tiles in flight of a program: 9 or 18 KiB of words and scales, and 256 bytes of each of a block's rows."""
    programs_per_sm: int
    """One or two, which share its registers."""


DEFAULTS = (
    WordsGluonConfig(8, 64, BY_WARPGROUP=False, num_stages=8, programs_per_sm=2),
    WordsGluonConfig(8, 128, BY_WARPGROUP=False, num_stages=4, programs_per_sm=2),
    WordsGluonConfig(16, 128, BY_WARPGROUP=False, num_stages=4, programs_per_sm=2),
    WordsGluonConfig(32, 128, BY_WARPGROUP=True, num_stages=6, programs_per_sm=1),
    WordsGluonConfig(64, 128, BY_WARPGROUP=True, num_stages=5, programs_per_sm=1),
)
"""For pairs that rarely share an expert, and by rows per expert: the best of 3 to 7 configurations a case on an H200,
DeepSeek-R1-FP4 TP8, half of its experts at TP1 and Qwen3-30B-A3B, M=1 to 2048."""


def default_config(case: Case) -> WordsGluonConfig:
    """By rows per expert."""
    num_experts, top_k, _, _ = moe_sizes(case.layer)
    num_experts *= case.layer.ep_size
    num_pairs = case.num_tokens * top_k
    if num_pairs * 4 <= num_experts and not is_batched(case):
        return DEFAULTS[0]
    rows = num_pairs / max(num_experts if is_batched(case) else min(num_experts, num_pairs), 1)
    return DEFAULTS[1 + bisect(MOST_ROWS, rows)]


def words_moe_gluon(layer: WordsLayer, inputs: Tensors, config: WordsGluonConfig, *, on_input: bool) -> torch.Tensor:
    """The formula of the MoE with 16-bit activations, without leaving the device.

    Args:
        layer: by lanes.
        inputs: as make_moe_inputs makes them, contiguous.
        on_input: whether the router's weight multiplies the experts' input; batched activations are not weighted.
    Returns:
        Like hidden_states; the padding of the batched format stays unwritten.
    """
    hidden_states, routing = inputs["hidden_states"], routing_of(inputs)
    k = hidden_states.shape[-1]
    blocks = find_blocks(inputs, len(layer.w2.words), config.BLOCK_SIZE_M, may_be_single=False)
    a = order_columns(hidden_states.view(-1, k))
    h = torch.empty(routing.num_rows, layer.w1.num_rows // 2, dtype=a.dtype, device=a.device)
    by_row = torch.empty(routing.num_rows, k, dtype=a.dtype, device=a.device)
    gate_up_weights, down_weights = (routing.topk_weights, None) if on_input else (None, routing.topk_weights)
    launch_product(layer, layer.w1, layer.w1_factor, a, gate_up_weights, h, routing, blocks, config, gated=True)
    launch_product(layer, layer.w2, layer.w2_factor, h, down_weights, by_row, routing, blocks, config, gated=False)
    return sum_over_choices(by_row, routing, hidden_states.dtype).view(hidden_states.shape)


def launch_product(
    layer: WordsLayer,
    w: Words,
    factor: torch.Tensor,
    a: torch.Tensor,
    weights: torch.Tensor | None,
    out: torch.Tensor,
    routing: Routing,
    blocks: Blocks,
    config: WordsGluonConfig,
    *,
    gated: bool,
) -> None:
    """Write out [num_rows, columns] of a [rows, columns of whole steps]; see words_hopper_kernel."""
    _, num_steps, num_rows_w, _ = w.words.shape
    tiles = blocks.max_blocks * triton.cdiv(num_rows_w, 2 * config.ROWS)
    multiplying, copying, most = REGISTERS[config.programs_per_sm]
    scales = cast(torch.Tensor, w.scales).view(SCALES[layer.format])
    words_hopper_kernel[(min(config.programs_per_sm * count_sms(a.device), tiles),)](
        a, in_tiles(w.words.view(-1, 64), config.ROWS, 64), scales, factor, weights, out,
        blocks.pairs, blocks.experts, blocks.rows, routing.rows_per_expert, blocks.num_blocks, blocks.max_blocks,
        num_rows_w, num_steps, out.shape[1],
        GATED=gated, LAYOUT=blocks.layout, TOP_K=routing.num_rows // len(a), BLOCK_SIZE_M=config.BLOCK_SIZE_M,
        ROWS=config.ROWS, BY_WARPGROUP=config.BY_WARPGROUP, STAGES=config.num_stages,
        REGISTERS=multiplying, COPYING_REGISTERS=copying, num_warps=4, maxnreg=most,
    )  # fmt: skip


def prepare_gluon(case: Case, layer: WordsLayer, inputs: Tensors) -> Launch:
    """Pick the default configuration: of few pairs the one that goes row by row."""
    if goes_by_row(case, layer.format):
        return launch_words(case, layer, inputs, BY_ROW)
    return launch_gluon(case, layer, inputs, default_config(case))


def prepare_gluon_with(case: Case, layer: WordsLayer, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """Take a given configuration: those that go row by row have another record."""
    if config.get("BLOCK_SIZE_M") == 1:
        return prepare_words_with(case, layer, inputs, config)
    return launch_gluon(case, layer, inputs, read_config(WordsGluonConfig, config, case))


def launch_gluon(case: Case, layer: WordsLayer, inputs: Tensors, config: WordsGluonConfig) -> Launch:
    """The launch with a given configuration."""

    def run() -> Outputs:
        return (words_moe_gluon(layer, inputs, config, on_input=weights_input(case)),)

    return Launch(run, asdict(config))


def unsupported_gluon(case: Case, device: Device) -> str | None:
    """wgmma, and the tensor core's copy engine as it is used here, are Hopper's alone."""
    if case.layer.scheme.endswith("w4a4"):
        return f"multiplies 16-bit activations (this is {case.layer.scheme})"
    return missing_family(device, 9)
