"""The Triton MXFP4 linear layer: picks a configuration and launches the kernels of mxfp4_kernels.py.

One launch to three: round activations (w4a4), the matrix product, the sum over its splits (few tokens). Weights are
repacked once, before the first launch (kernels/gemm/w4_words.py).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import triton

from kernels.configs import read_config
from kernels.gemm.mxfp4_inputs import HADAMARD_SIZES, unsupported_activations
from kernels.gemm.mxfp4_kernels import mxfp4_gemm_kernel, rotate_round_kernel, sum_splits_kernel, unpack_rows_kernel
from kernels.gemm.w4_words import pack_words
from kernels.gemm.words import PACKED, STEP, Words
from kernels.requirements import missing_capability
from kernels.spec import Case, Device, Launch, Outputs, Tensors

ENOUGH_PROGRAMS = 256
"""Nearly two for each of a Hopper's 132 SMs: with fewer the sum is split, so that enough loads are under way."""

VALUES_PER_PROGRAM = 2048
"""What a program rounds or unpacks; to rotate them, a tensor core takes 16 rows at least."""


@dataclass(frozen=True, slots=True)
class Mxfp4GemmConfig:
    """Launch configuration of mxfp4_gemm_triton."""

    BLOCK_SIZE_M: int
    """Tokens of a tile."""
    BLOCK_SIZE_N: int
    """Output features of a tile."""
    GROUP_SIZE_M: int
    """Tiles of tokens that share a tile of weights in L2."""
    SPLIT_K: int
    """Programs that share the sum of a tile; a second launch adds their parts."""
    num_warps: int
    num_stages: int


def default_config(m: int, n: int, k: int) -> Mxfp4GemmConfig:
    """By tokens: the best of about 12 configurations a case on an H200, at the sizes of Llama-3.3-70B.

    Few tokens: the sum is split until most SMs have two programs.

    Args:
        m, n, k: tokens, output features, input features.
    """
    block_m = min(max(triton.next_power_of_2(m), 16), 128)
    num_tiles = triton.cdiv(m, block_m) * triton.cdiv(n, 128)
    split_k, most_splits = 1, 8 if m <= 64 else 2 if m <= 256 else 1
    while split_k < most_splits and num_tiles * split_k < ENOUGH_PROGRAMS and k >= 1024 * split_k:
        split_k *= 2
    return Mxfp4GemmConfig(
        BLOCK_SIZE_M=block_m,
        BLOCK_SIZE_N=128,
        GROUP_SIZE_M=8,
        SPLIT_K=max(split_k, 2 if m <= 32 and k >= 1024 else 1),
        num_warps=4 if block_m <= 32 else 8,
        num_stages=4 if block_m <= 64 else 3,
    )


def rotate_round_triton(x: torch.Tensor, hadamard_size: int) -> torch.Tensor:
    """What quantize_mxfp4(rotate_hadamard(x, hadamard_size)) stands for, in one launch.

    Args:
        x: [M, k] bfloat16 or float16, contiguous, k divisible by hadamard_size.
    Returns:
        [M, k] bfloat16.
    """
    values = torch.empty(x.shape, dtype=torch.bfloat16, device=x.device)
    num_groups, groups = x.numel() // hadamard_size, VALUES_PER_PROGRAM // hadamard_size
    rotate_round_kernel[(triton.cdiv(num_groups, groups),)](
        x, values, num_groups, HADAMARD_SIZE=hadamard_size, RSQRT_SIZE=hadamard_size**-0.5, GROUPS=groups
    )
    return values


def unpack_rows_triton(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """dequantize_mxfp4 [M, k] bfloat16 of codes [M, k / 2] and scales [M, k / 32], in one launch."""
    values = torch.empty(codes.shape[0], 2 * codes.shape[1], dtype=torch.bfloat16, device=codes.device)
    unpack_rows_kernel[(triton.cdiv(values.numel(), VALUES_PER_PROGRAM),)](
        codes, scales, values, values.numel(), BLOCK_SIZE=VALUES_PER_PROGRAM
    )
    return values


def mxfp4_gemm_triton(x: torch.Tensor, w: Words, dtype: torch.dtype, config: Mxfp4GemmConfig) -> torch.Tensor:
    """x @ w.T with w in MXFP4.

    Args:
        x: [M, k] bfloat16 or float16, contiguous.
        w: of one matrix [n, k].
        dtype: of the output.
    Returns:
        [M, n].
    """
    (m, k), n, split_k = x.shape, w.num_rows, config.SPLIT_K
    out = torch.empty(m, n, dtype=dtype, device=x.device)
    parts = out if split_k == 1 else torch.empty(split_k, m, n, device=x.device)
    block_m, block_n = config.BLOCK_SIZE_M, config.BLOCK_SIZE_N
    mxfp4_gemm_kernel[(triton.cdiv(m, block_m) * triton.cdiv(n, block_n), split_k)](
        x, w.words, w.scales, w.factor, parts, m, n, k, triton.cdiv(k, STEP * split_k),
        EVEN_N=n % block_n == 0, EVEN_K=k % STEP == 0, BLOCK_SIZE_M=block_m, BLOCK_SIZE_N=block_n,
        GROUP_SIZE_M=config.GROUP_SIZE_M, num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return out if split_k == 1 else sum_splits_triton(parts, out)


def sum_splits_triton(parts: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """out, the sum of parts [SPLIT_K, M, n] float32."""
    sum_splits_kernel[(triton.cdiv(out.numel(), 1024),)](parts, out, out.numel(), SPLIT_K=len(parts), BLOCK_SIZE=1024)
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
    x, hadamard_size = inputs["x"], HADAMARD_SIZES.get(case.layer.scheme)
    codes, scales = weights["w"], weights["w_scale"]
    w = PACKED.get(codes, lambda: pack_words("mxfp4", codes[None], scales[None]))

    def run() -> Outputs:
        values = x
        if "x_codes" in inputs:
            values = unpack_rows_triton(inputs["x_codes"], inputs["x_scale"])
        elif hadamard_size is not None:
            values = rotate_round_triton(x, hadamard_size)
        return (mxfp4_gemm_triton(values, w, x.dtype, config),)

    return Launch(run, asdict(config))


def unsupported_triton(case: Case, device: Device) -> str | None:
    """16-bit tensor cores for bfloat16 came with sm_80."""
    return missing_capability(device, (8, 0)) or unsupported_activations(case)
