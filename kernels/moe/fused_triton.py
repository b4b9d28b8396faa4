"""Our Triton fused MoE: launches the kernels of align.py, activations.py, gemm.py, gemv.py and sums.py.

Two launches to seven: align (none, one or two), quantize hidden states (unless they stay values or are quantized on
load), gate-up, quantize the intermediate (only by whole rows), down, sum (unless top_k is 1 and no expert map leaves
pairs out). The batched format needs neither align nor sum, and neither do a few tokens (gemv.py).
"""

from collections.abc import Mapping
from dataclasses import asdict

import torch
import triton

from kernels.configs import read_config
from kernels.errors import ConfigError
from kernels.moe.activations import quantize_triton
from kernels.moe.align import Blocks
from kernels.moe.gemm import moe_down_kernel, moe_gate_up_kernel
from kernels.moe.gemv import down_gemv, gate_up_gemv
from kernels.moe.inputs import is_batched, weights_input
from kernels.moe.routing import Routing, find_blocks, gemm_arguments, routing_of
from kernels.moe.schemes import GROUP_SIZE, MoeScheme, scheme_of
from kernels.moe.sums import sum_over_choices
from kernels.moe.triton_configs import MoeConfig, default_config, fit_stages
from kernels.quantize.fp8 import FP8_DTYPE
from kernels.requirements import missing_capability
from kernels.sms import count_shared_bytes
from kernels.spec import Case, Device, Launch, Outputs, Tensors


def fused_moe_triton(
    scheme: MoeScheme, weights: Tensors, inputs: Tensors, config: MoeConfig, weight_input: bool = False
) -> torch.Tensor:
    """The formula of fused_moe.py on tensor cores, without leaving the device.

    Args:
        weights, inputs: as make_weights and make_inputs make them, contiguous.
        weight_input: the router's weight multiplies the experts' input instead of their output.
    Returns:
        Like hidden_states; the padding of the batched format stays unwritten.
    """
    hidden_states, routing = inputs["hidden_states"], routing_of(inputs)
    x = hidden_states.view(-1, hidden_states.shape[-1])
    blocks = find_blocks(inputs, weights["w2"].shape[0], config.BLOCK_SIZE_M)
    h, h_scale = gate_up_triton(scheme, weights, x, routing, blocks, config, weight_input)
    topk_weights = None if weight_input else routing.topk_weights
    if config.BLOCK_SIZE_M == 1:
        return down_gemv(scheme, weights, h, h_scale, topk_weights, routing, config, x.dtype)
    out = down_triton(scheme, weights, h, h_scale, topk_weights, routing, blocks, config, x.dtype)
    return sum_over_choices(out, routing, out.dtype).view(hidden_states.shape)


def gemm_constants(scheme: MoeScheme, blocks: Blocks, config: MoeConfig) -> dict[str, object]:
    """What both GEMMs are compiled for."""
    return {
        "SCALING": scheme.scaling, "LAYOUT": blocks.layout, "SWAP_AB": config.SWAP_AB,
        "BLOCK_SIZE_M": config.BLOCK_SIZE_M, "BLOCK_SIZE_K": config.BLOCK_SIZE_K, "GROUP_SIZE_M": config.GROUP_SIZE_M,
        "num_warps": config.num_warps, "num_stages": config.num_stages,
    }  # fmt: skip


def gate_up_triton(
    scheme: MoeScheme,
    weights: Tensors,
    x: torch.Tensor,
    routing: Routing,
    blocks: Blocks,
    config: MoeConfig,
    weight_input: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """q(silu(gate) * up) [num_rows, N] and its scales; values to be quantized on load where a tile knows no scale.

    The router's weight enters before q(): where hidden states are quantized in a launch of their own, as a copy for
    each pair, else in the GEMM.
    """
    _, k, n = weights["w2"].shape
    weight_input = weight_input and routing.topk_weights is not None
    grouped = scheme.scaling == "block"
    quantize_first = scheme.activation_dtype is not None and not config.QUANTIZE_ON_LOAD
    a, a_scale = x, weights.get("a1_scale", x if grouped else None)  # grouped on load: never read
    if quantize_first:
        a, a_scale = quantize_triton(scheme, x, weights.get("a1_scale"), routing, weight_input)
    by_pair = quantize_first and weight_input
    topk_weights = routing.topk_weights if weight_input and not by_pair else None
    block_n = config.GATE_UP_BLOCK_SIZE_N
    h_is_fp8 = scheme.scaling == "tensor" or (grouped and block_n == GROUP_SIZE and config.BLOCK_SIZE_M > 1)
    h = torch.empty(routing.num_rows, n, dtype=FP8_DTYPE if h_is_fp8 else x.dtype, device=x.device)
    h_scale = torch.empty(routing.num_rows, n // GROUP_SIZE, device=x.device) if grouped else weights.get("a2_scale")
    if config.BLOCK_SIZE_M == 1:
        gate_up_gemv(scheme, weights, a, a_scale, topk_weights, routing, h, config)
    else:
        moe_gate_up_kernel[(blocks.max_blocks * triton.cdiv(n, block_n),)](
            a, a_scale, weights["w1"], weights.get("w1_scale"), topk_weights, h, h_scale,
            *gemm_arguments(routing, blocks), n, k, 1 if by_pair else routing.top_k, routing.rows_per_expert,
            EVEN_N=n % block_n == 0, EVEN_K=k % config.BLOCK_SIZE_K == 0, BLOCK_SIZE_N=block_n,
            **gemm_constants(scheme, blocks, config),
        )  # fmt: skip
    return quantize_triton(scheme, h, None, routing) if scheme.rounds_whole_rows else (h, h_scale)


def down_triton(
    scheme: MoeScheme,
    weights: Tensors,
    h: torch.Tensor,
    h_scale: torch.Tensor | None,
    topk_weights: torch.Tensor | None,
    routing: Routing,
    blocks: Blocks,
    config: MoeConfig,
    dtype: torch.dtype,
) -> torch.Tensor:
    """topk_weight * (h @ w2.T) [num_rows, K], or without the weights if there are none."""
    _, k, n = weights["w2"].shape
    out = torch.empty(routing.num_rows, k, dtype=dtype, device=h.device)
    block_n = config.DOWN_BLOCK_SIZE_N
    moe_down_kernel[(blocks.max_blocks * triton.cdiv(k, block_n),)](
        h, h_scale, weights["w2"], weights.get("w2_scale"), topk_weights, out,
        *gemm_arguments(routing, blocks), n, k, routing.rows_per_expert,
        EVEN_N=n % config.BLOCK_SIZE_K == 0, EVEN_K=k % block_n == 0, BLOCK_SIZE_N=block_n,
        **gemm_constants(scheme, blocks, config),
    )  # fmt: skip
    return out


def prepare_fused(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """Pick the default configuration."""
    shared_bytes = count_shared_bytes(inputs["hidden_states"].device)
    config = fit_stages(default_config(case), scheme_of(case.layer), shared_bytes)
    return launch_triton(case, weights, inputs, config)


def prepare_fused_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """Take a given configuration."""
    return launch_triton(case, weights, inputs, read_config(MoeConfig, config, case))


def launch_triton(case: Case, weights: Tensors, inputs: Tensors, config: MoeConfig) -> Launch:
    """The launch with a given configuration.

    Raises:
        ConfigError: the configuration quantizes on load what this scheme cannot, or has no tiles for batched rows.
    """
    scheme = scheme_of(case.layer)
    if config.QUANTIZE_ON_LOAD and scheme.scaling not in ("tensor", "block"):
        raise ConfigError(
            f"QUANTIZE_ON_LOAD=True: {case.layer.scheme} rounds no activations or whole rows of them, only one scale "
            f"per tensor or per 128 columns is known on load: set it to False"
        )
    if config.BLOCK_SIZE_M == 1 and is_batched(case):
        raise ConfigError(
            "BLOCK_SIZE_M=1: row by row, sums of tokens are computed, which batched rows have not: set 16"
        )

    def run() -> Outputs:
        return (fused_moe_triton(scheme, weights, inputs, config, weights_input(case)),)

    return Launch(run, asdict(config))


def unsupported_triton(case: Case, device: Device) -> str | None:
    """FP8 tensor cores came with sm_89, bfloat16 and INT8 on wide enough ones with sm_80."""
    return missing_capability(device, (8, 9) if scheme_of(case.layer).weight_dtype == FP8_DTYPE else (8, 0))
