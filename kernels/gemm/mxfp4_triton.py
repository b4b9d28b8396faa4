"""The Triton MXFP4 linear layer: picks a configuration and launches the kernels of mxfp4_kernels.py.

One launch to three: rotate and quantize (dynamic w4a4), the matrix product, the sum over its splits (few tokens).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import triton

from kernels.configs import read_config
from kernels.gemm.mxfp4_inputs import HADAMARD_SIZES, unsupported_activations
from kernels.gemm.mxfp4_kernels import mxfp4_gemm_kernel, rotate_quantize_kernel, sum_splits_kernel
from kernels.quantize.fp4 import MXFP4_GROUP_SIZE
from kernels.requirements import missing_capability
from kernels.spec import Case, Device, Launch, Outputs, Tensors

ENOUGH_PROGRAMS = 264
"""Two for each of a Hopper's 132 SMs: with fewer the sum over k is split, so that enough loads are under way."""

VALUES_PER_PROGRAM = 2048
"""What a program of rotate_quantize_kernel rotates; a tensor core takes 16 rows at least."""


@dataclass(frozen=True, slots=True)
class Mxfp4GemmConfig:
    """Launch configuration of mxfp4_gemm_triton."""

    BLOCK_SIZE_M: int
    """Tokens of a tile."""
    BLOCK_SIZE_N: int
    """Output features of a tile."""
    BLOCK_SIZE_K: int
    """Step of the sum."""
    GROUP_SIZE_M: int
    """Tiles of tokens that share a tile of weights in L2."""
    SPLIT_K: int
    """Programs that share the sum of a tile; a second launch adds their parts."""
    num_warps: int
    num_stages: int


def default_config(m: int, n: int, k: int) -> Mxfp4GemmConfig:
    """Few tokens: narrow tiles, and the sum split until most SMs have two programs. Many: as wide as registers allow.

    Args:
        m, n, k: tokens, output features, input features.
    """
    block_m = min(max(triton.next_power_of_2(m), 16), 128)
    block_n = 64 if block_m <= 32 else 128
    num_tiles = triton.cdiv(m, block_m) * triton.cdiv(n, block_n)
    split_k = 1
    while split_k < 8 and num_tiles * split_k < ENOUGH_PROGRAMS and k >= 1024 * split_k:
        split_k *= 2
    return Mxfp4GemmConfig(
        BLOCK_SIZE_M=block_m,
        BLOCK_SIZE_N=block_n,
        BLOCK_SIZE_K=128 if block_m <= 64 else 64,
        GROUP_SIZE_M=8,
        SPLIT_K=split_k if block_m <= 64 else 1,
        num_warps=4 if block_n == 64 else 8,
        num_stages=4 if block_m <= 64 else 3,
    )


def rotate_quantize_triton(x: torch.Tensor, hadamard_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """quantize_mxfp4(rotate_hadamard(x, hadamard_size)) in one launch.

    Args:
        x: [M, k] bfloat16 or float16, contiguous, k divisible by hadamard_size.
    Returns:
        codes [M, k / 2] and scales [M, k / 32] uint8.
    """
    m, k = x.shape
    codes = torch.empty(m, k // 2, dtype=torch.uint8, device=x.device)
    scales = torch.empty(m, k // MXFP4_GROUP_SIZE, dtype=torch.uint8, device=x.device)
    num_groups, groups = m * k // hadamard_size, VALUES_PER_PROGRAM // hadamard_size
    rotate_quantize_kernel[(triton.cdiv(num_groups, groups),)](
        x, codes, scales, num_groups, HADAMARD_SIZE=hadamard_size, RSQRT_SIZE=hadamard_size**-0.5, GROUPS=groups
    )
    return codes, scales


def mxfp4_gemm_triton(
    x: torch.Tensor,
    x_scale: torch.Tensor | None,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    dtype: torch.dtype,
    config: Mxfp4GemmConfig,
) -> torch.Tensor:
    """x @ w.T with w in MXFP4, and x in MXFP4 if it has scales.

    Args:
        x: [M, k] bfloat16 or float16; with x_scale [M, k / 32] uint8 codes [M, k / 2] uint8; contiguous.
        w, w_scale: [n, k / 2] and [n, k / 32] uint8, contiguous.
        dtype: of the output.
    Returns:
        [M, n].
    """
    m, n, k = x.shape[0], w.shape[0], 2 * w.shape[1]
    out = torch.empty(m, n, dtype=dtype, device=x.device)
    parts = out if config.SPLIT_K == 1 else torch.empty(config.SPLIT_K, m, n, device=x.device)
    block_m, block_n, block_k = config.BLOCK_SIZE_M, config.BLOCK_SIZE_N, config.BLOCK_SIZE_K
    mxfp4_gemm_kernel[(triton.cdiv(m, block_m) * triton.cdiv(n, block_n), config.SPLIT_K)](
        x, x if x_scale is None else x_scale, w, w_scale, parts,
        m, n, k, k // 2, k // MXFP4_GROUP_SIZE, triton.cdiv(k, block_k * config.SPLIT_K),
        EVEN_K=k % block_k == 0, BLOCK_SIZE_M=block_m, BLOCK_SIZE_N=block_n, BLOCK_SIZE_K=block_k,
        GROUP_SIZE_M=config.GROUP_SIZE_M, num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    if config.SPLIT_K > 1:
        sum_splits_kernel[(triton.cdiv(m * n, 1024),)](parts, out, m * n, SPLIT_K=config.SPLIT_K, BLOCK_SIZE=1024)
    return out


def prepare_triton(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """Pick the default configuration."""
    config = default_config(case.num_tokens, case.layer.sizes["n"], case.layer.sizes["k"])
    return launch_triton(case, weights, inputs, config)


def prepare_triton_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """Take a given configuration."""
    return launch_triton(case, weights, inputs, read_config(Mxfp4GemmConfig, config, case))


def launch_triton(case: Case, weights: Tensors, inputs: Tensors, config: Mxfp4GemmConfig) -> Launch:
    """The launch with a given configuration."""
    x, w, w_scale = inputs["x"], weights["w"], weights["w_scale"]
    hadamard_size = HADAMARD_SIZES.get(case.layer.scheme)

    def run() -> Outputs:
        if hadamard_size is None:
            return (mxfp4_gemm_triton(x, None, w, w_scale, x.dtype, config),)
        if "x_codes" in inputs:
            codes, scales = inputs["x_codes"], inputs["x_scale"]
        else:
            codes, scales = rotate_quantize_triton(x, hadamard_size)
        return (mxfp4_gemm_triton(codes, scales, w, w_scale, x.dtype, config),)

    return Launch(run, asdict(config))


def unsupported_triton(case: Case, device: Device) -> str | None:
    """16-bit tensor cores for bfloat16 came with sm_80."""
    return missing_capability(device, (8, 0)) or unsupported_activations(case)
