"""The Triton fused MoE: picks a configuration and launches the kernels of moe_align.py and moe_gemm.py.

Two launches to eight: align (none, one or four), quantize (unless on load), gate-up, down, sum (unless top_k is 1).
"""

from dataclasses import asdict, dataclass

import torch
import triton

from kernels.moe.align import Blocks, align_blocks_triton
from kernels.moe.gemm import moe_down_kernel, moe_gate_up_kernel, moe_sum_kernel, quantize_kernel
from kernels.quantize.fp8 import FP8_DTYPE
from kernels.spec import Case, Device, Launch, Outputs, Tensors

GROUP_SIZE = 128
LEAST_PROGRAMS = 32
"""A quarter of a Hopper's SMs: with fewer programs the gate-up GEMM is split into narrower tiles."""


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """Launch configuration of fused_moe_triton."""

    BLOCK_SIZE_M: int
    """Rows of a block: pairs of one expert."""
    GATE_UP_BLOCK_SIZE_N: int
    """Columns of the intermediate per program; below 128 the block scheme quantizes it in the down GEMM instead."""
    DOWN_BLOCK_SIZE_N: int
    """Columns of the output per program."""
    BLOCK_SIZE_K: int
    """Step of both sums; 128 in the block scheme."""
    GROUP_SIZE_M: int
    """Blocks that share a tile of weights in L2."""
    SWAP_AB: bool
    """Weights as the left operand."""
    QUANTIZE_ON_LOAD: bool
    """Quantize hidden states in the gate-up GEMM instead of in a launch of its own."""
    num_warps: int
    num_stages: int


def default_config(
    num_tokens: int, top_k: int, num_experts: int, hidden_size: int, intermediate_size: int, grouped: bool
) -> MoeConfig:
    """The best of about 40 configurations a case on an H200 (18 cases, 3 models), put into rules by rows per expert.

    Decode reads weights and little else: 16 rows, deep pipelines. Prefill multiplies: as many rows as an expert has, up
    to 128, or 64 where per-group sums need the registers.
    """
    num_pairs = num_tokens * top_k
    num_blocks = max(min(num_experts, num_pairs), 1)
    rows = num_pairs / num_blocks
    if grouped:
        return default_block_config(rows, num_blocks, intermediate_size)
    return default_tensor_config(rows, hidden_size, intermediate_size)


def default_block_config(rows: float, num_blocks: int, intermediate_size: int) -> MoeConfig:
    """For 128 x 128 blocks; narrow gate-up tiles only where wide ones would leave most of the SMs without a program."""
    wide = num_blocks * intermediate_size >= LEAST_PROGRAMS * GROUP_SIZE
    block_m = 16 if rows <= 16 else 32 if rows <= 32 else 64
    latency_bound = num_blocks * intermediate_size < 132 * GROUP_SIZE
    return MoeConfig(
        BLOCK_SIZE_M=block_m,
        GATE_UP_BLOCK_SIZE_N=128 if wide else 32,
        DOWN_BLOCK_SIZE_N=128,
        BLOCK_SIZE_K=GROUP_SIZE,
        GROUP_SIZE_M=8,
        SWAP_AB=block_m <= 32,
        QUANTIZE_ON_LOAD=False,
        num_warps=4 if 12 < rows <= 32 else 8,
        num_stages=5 if latency_bound else 4 if block_m == 64 else 3,
    )


def default_tensor_config(rows: float, hidden_size: int, intermediate_size: int) -> MoeConfig:
    """For one scale per tensor."""
    block_m = 16 if rows <= 8 else 32 if rows <= 32 else 64 if rows <= 128 else 128
    long_steps = block_m == 16 and rows > 1 and hidden_size % 256 == 0 == intermediate_size % 256
    stages_by_rows = {16: 4 if long_steps else 6, 32: 5, 64: 5, 128: 4 if rows <= 512 else 3}
    return MoeConfig(
        BLOCK_SIZE_M=block_m,
        GATE_UP_BLOCK_SIZE_N=64 if block_m == 16 else 128,
        DOWN_BLOCK_SIZE_N=128 if block_m == 16 else 256,
        BLOCK_SIZE_K=256 if long_steps else 128,
        GROUP_SIZE_M=32,
        SWAP_AB=block_m <= 32,
        QUANTIZE_ON_LOAD=False,
        num_warps=4 if block_m == 64 else 8,
        num_stages=stages_by_rows[block_m],
    )


def fused_moe_triton(
    hidden_states: torch.Tensor, weights: Tensors, topk_weights: torch.Tensor, topk_ids: torch.Tensor, config: MoeConfig
) -> torch.Tensor:
    """The formula of fused_moe.py on tensor cores, without leaving the device: align, quantize, gate-up, down, sum.

    Args:
        hidden_states: [M, K] bfloat16 or float16, contiguous.
        weights: as make_weights makes them; with a1_scale the scheme is per tensor, else 128 x 128 blocks.
        topk_weights, topk_ids: [M, top_k] float32 and int32, contiguous.
    Returns:
        [M, K] like hidden_states.
    """
    num_tokens, k = hidden_states.shape
    num_experts, _, n = weights["w2"].shape
    top_k, num_pairs = topk_ids.shape[1], topk_ids.numel()
    grouped = "a1_scale" not in weights
    aligned = num_pairs * 4 > num_experts  # fewer pairs rarely share an expert: each is a block of its own
    blocks = align_blocks_triton(topk_ids, num_experts, config.BLOCK_SIZE_M) if aligned else Blocks(*(topk_ids,) * 3)
    num_blocks = blocks.experts.numel()
    a, a_scale = hidden_states, weights.get("a1_scale", hidden_states)
    if not config.QUANTIZE_ON_LOAD:
        a, a_scale = quantize_triton(hidden_states, weights.get("a1_scale"))
    h_is_fp8 = not grouped or config.GATE_UP_BLOCK_SIZE_N == GROUP_SIZE
    device, dtype = hidden_states.device, hidden_states.dtype
    h = torch.empty(num_pairs, n, dtype=FP8_DTYPE if h_is_fp8 else dtype, device=device)
    h_scale = torch.empty(num_pairs, n // GROUP_SIZE, device=device) if grouped else weights["a2_scale"]
    out = torch.empty(num_tokens, k, dtype=dtype, device=device)
    by_pair = out if top_k == 1 else torch.empty(num_pairs, k, dtype=dtype, device=device)
    shared = {
        "GROUPED": grouped, "ALIGNED": aligned, "SWAP_AB": config.SWAP_AB, "BLOCK_SIZE_M": config.BLOCK_SIZE_M,
        "BLOCK_SIZE_K": config.BLOCK_SIZE_K, "GROUP_SIZE_M": config.GROUP_SIZE_M,
        "num_warps": config.num_warps, "num_stages": config.num_stages,
    }  # fmt: skip
    block_n = config.GATE_UP_BLOCK_SIZE_N
    moe_gate_up_kernel[(num_blocks * triton.cdiv(n, block_n),)](
        a, a_scale, weights["w1"], weights["w1_scale"], h, h_scale,
        blocks.pairs, blocks.experts, blocks.rows, num_blocks, n, k, top_k,
        EVEN_N=n % block_n == 0, EVEN_K=k % config.BLOCK_SIZE_K == 0, BLOCK_SIZE_N=block_n, **shared,
    )  # fmt: skip
    block_n = config.DOWN_BLOCK_SIZE_N
    moe_down_kernel[(num_blocks * triton.cdiv(k, block_n),)](
        h, h_scale, weights["w2"], weights["w2_scale"], topk_weights, by_pair,
        blocks.pairs, blocks.experts, blocks.rows, num_blocks, n, k,
        EVEN_N=n % config.BLOCK_SIZE_K == 0, EVEN_K=k % block_n == 0, BLOCK_SIZE_N=block_n, **shared,
    )  # fmt: skip
    if top_k > 1:
        moe_sum_kernel[(num_tokens, triton.cdiv(k, 1024))](by_pair, out, k, top_k, 1024)
    return out


def quantize_triton(x: torch.Tensor, scale: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """kernels.quantize.fp8 on the device: with the static scale, or per group of 128 columns if there is none."""
    codes = torch.empty(x.shape, dtype=FP8_DTYPE, device=x.device)
    num_groups = triton.cdiv(x.numel(), GROUP_SIZE)
    scales = torch.empty(x.shape[0], x.shape[1] // GROUP_SIZE, device=x.device) if scale is None else scale
    quantize_kernel[(triton.cdiv(num_groups, 16),)](x, codes, scales, num_groups, x.numel(), scale is None, 16)
    return codes, scales


def prepare_triton(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """Pick the default configuration."""
    sizes = case.layer.sizes
    config = default_config(
        case.num_tokens,
        sizes["top_k"],
        sizes["num_experts"],
        sizes["hidden_size"],
        sizes["intermediate_size"],
        grouped="a1_scale" not in weights,
    )
    return launch_triton(weights, inputs, config)


def launch_triton(weights: Tensors, inputs: Tensors, config: MoeConfig) -> Launch:
    """The launch with a given configuration: what a tuner times."""

    def run() -> Outputs:
        return (fused_moe_triton(inputs["hidden_states"], weights, inputs["topk_weights"], inputs["topk_ids"], config),)

    return Launch(run, asdict(config))


def unsupported_triton(case: Case, device: Device) -> str | None:
    """FP8 tensor cores came with sm_89."""
    if device.type != "cuda":
        return f"needs a CUDA GPU (this is {device.type})"
    if device.type == "cuda" and device.capability < (8, 9):
        return f"needs sm_89 (this is {device.arch})"
    return None
