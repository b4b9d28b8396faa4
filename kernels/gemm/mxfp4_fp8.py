"""MXFP4 x MXFP4 as a product on FP8 tensor cores, which loses nothing: see kernels/gemm/mxfp4_fp8_kernels.py.

Weights stay in 4 bits. Launches: rotate and round activations, or unpack prequantized ones; the product, with weights
unpacked in registers, by Triton for a few tokens, and the sum over its splits, or by kernels/gemm/mxfp4_hopper.py for
more. One token is multiplied by integers instead, as kernels/gemm/mxfp4_rows.py says. With very many tokens weights are
unpacked into memory that is free again after the product, torch's row-wise scaled GEMM multiplies. There, and after
Triton's tiles of more than 64 tokens, a last launch computes rows of activations that FP8 cannot hold: it looks at a
flag for each row and mostly returns.
"""

from collections.abc import Mapping
from dataclasses import asdict

import torch
import triton

from kernels.configs import read_config
from kernels.gemm.descriptors import in_tiles
from kernels.gemm.mxfp4_fp8_activations import Fp8Rows, rotate_to_fp8, rows_to_fp8
from kernels.gemm.mxfp4_fp8_configs import (
    STEPS,
    Mxfp4Fp8Config,
    check_fp8_config,
    default_fp8_config,
    divide_steps,
    specialized_config,
)
from kernels.gemm.mxfp4_fp8_kernels import mxfp4_fp8_gemm_kernel, unpack_words_kernel
from kernels.gemm.mxfp4_fp8_words import PACKED, Fp8Words, pack_fp8_words
from kernels.gemm.mxfp4_hopper import STEP, mxfp4_hopper_gemm_kernel
from kernels.gemm.mxfp4_inputs import HADAMARD_SIZES, unsupported_activations
from kernels.gemm.mxfp4_rows import multiply_rows, quantize_token
from kernels.gemm.mxfp4_triton import sum_splits_triton
from kernels.gemm.mxfp4_wide_rows import wide_rows_triton
from kernels.gemm.stream_k import Division
from kernels.quantize.fp8 import FP8_DTYPE
from kernels.requirements import missing_family
from kernels.sms import count_sms
from kernels.spec import Case, Device, Launch, Outputs, Tensors

REGISTERS = {8: 168, 16: 96}
"""Of a thread of "specialized", by warps, before those that multiply take what those that load give."""
ROWS_TO_UNPACK = 32
"""A program's, of one step."""
MOST_TOKENS_WITH_WIDE = 64
"""Of tiles of "pipelined" that compute wide rows too: larger ones have no registers for that code."""


def prepare_fp8(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """Pick the default configuration."""
    m, n, k = case.num_tokens, case.layer.sizes["n"], case.layer.sizes["k"]
    config = default_fp8_config(m, n, k)
    if config.PRODUCT == "unpacked" and case.layer.dtype != "bfloat16":
        config = specialized_config(m)
    return launch_fp8(case, weights, inputs, config)


def prepare_fp8_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """Take a given configuration."""
    return launch_fp8(case, weights, inputs, read_config(Mxfp4Fp8Config, config, case))


def launch_fp8(case: Case, weights: Tensors, inputs: Tensors, config: Mxfp4Fp8Config) -> Launch:
    """The launch with a given configuration."""
    check_fp8_config(config, case)
    w = PACKED.get(weights["w"], lambda: pack_fp8_words(weights["w"], weights["w_scale"]))
    dtype = inputs["x"].dtype
    hadamard_size = HADAMARD_SIZES[case.layer.scheme]
    if config.PRODUCT == "rows":
        return launch_rows(case, w, inputs, config)

    splits_rows = config.PRODUCT == "pipelined" and config.BLOCK_SIZE_M <= MOST_TOKENS_WITH_WIDE
    splits = config.SPLIT_K if splits_rows else 1

    def run() -> Outputs:
        if "x_codes" in inputs:
            x = rows_to_fp8(inputs["x_codes"], inputs["x_scale"], splits)
        else:
            x = rotate_to_fp8(inputs["x"], hadamard_size, splits)
        if config.PRODUCT == "unpacked":
            return (multiply_unpacked(x, w),)
        multiply = multiply_specialized if config.PRODUCT == "specialized" else multiply_fp8
        return (multiply(x, w, dtype, config),)

    return Launch(run, asdict(config))


def launch_rows(case: Case, w: Fp8Words, inputs: Tensors, config: Mxfp4Fp8Config) -> Launch:
    """The launch of one token."""

    def run() -> Outputs:
        if "x_codes" in inputs:
            codes, scales = inputs["x_codes"], inputs["x_scale"]
        else:
            codes, scales = quantize_token(inputs["x"], HADAMARD_SIZES[case.layer.scheme])
        dtype = inputs["x"].dtype
        return (multiply_rows(codes, scales, w, dtype, config.num_warps),)

    return Launch(run, asdict(config))


def multiply_fp8(x: Fp8Rows, w: Fp8Words, dtype: torch.dtype, config: Mxfp4Fp8Config) -> torch.Tensor:
    """x @ w.T [M, n], weights unpacked in registers."""
    (m, k), n, split_k = x.codes.shape, w.words.shape[1], config.SPLIT_K
    block_m, block_n = config.BLOCK_SIZE_M, config.BLOCK_SIZE_N
    wide_too = block_m <= MOST_TOKENS_WITH_WIDE
    out = torch.empty(m, n, dtype=dtype, device=x.codes.device)
    parts = out if split_k == 1 else torch.empty(split_k, m, n, device=out.device)
    mxfp4_fp8_gemm_kernel[(triton.cdiv(m, block_m) * triton.cdiv(n, block_n), split_k)](
        x.codes, x.scale, x.values, x.is_wide if wide_too else None, w.words, w.shifts, w.factor, parts,
        m, n, k, triton.cdiv(k, 128 * split_k), 0 if len(x.scale) == 1 else m,
        EVEN_N=n % block_n == 0, EVEN_K=k % 128 == 0, BLOCK_SIZE_M=block_m, BLOCK_SIZE_N=block_n,
        GROUP_SIZE_M=config.GROUP_SIZE_M, PROMOTE=config.PROMOTE, STAGES=config.num_stages,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    if split_k > 1:
        sum_splits_triton(parts, out)
    if not wide_too:
        wide_rows_triton(x, w, out)
    return out


def multiply_specialized(x: Fp8Rows, w: Fp8Words, dtype: torch.dtype, config: Mxfp4Fp8Config) -> torch.Tensor:
    """x @ w.T [M, n], weights unpacked in registers of warps that multiply while others load."""
    (m, k), n = x.codes.shape, w.words.shape[1]
    block_m, block_n, turns = config.BLOCK_SIZE_M, config.BLOCK_SIZE_N, config.turns
    steps, work = STEPS[config.num_warps], divide_steps(m, n, k, config, count_sms(x.codes.device))
    pairs = find_pairs(work, turns, x.is_early)
    num_parts = work.num_programs * (1 if pairs == "none" else 2) if work.in_parts else 0
    out = torch.empty(m, n, dtype=dtype, device=x.codes.device)
    parts = torch.empty(num_parts, block_n, block_m, device=out.device)
    mxfp4_hopper_gemm_kernel[(work.num_programs,)](
        in_tiles(x.codes, block_m, STEP.value), x.scale, x.values, x.is_wide,
        in_tiles(w.words, block_n, 64), w.words, w.shifts, w.factor, out, parts, x.arrived,
        m, n, k, work.num_whole, work.units_per_tile * steps, work.share * steps, work.programs_per_tile,
        GROUP_SIZE_M=config.GROUP_SIZE_M, TURNS=turns, UNROLL=steps // turns, STAGES=config.num_stages,
        PAIRS=pairs, IS_EARLY=x.is_early, launch_pdl=x.is_early,
        num_warps=4, maxnreg=REGISTERS[config.num_warps],
    )  # fmt: skip
    return out


def find_pairs(work: Division, turns: int, is_early: bool) -> str:
    """Of which tiles the last two programs trade halves, which must be neighbours: other launches may have most SMs.

    Of "some" if all programs begin early and have nothing but parts: elsewhere it cost more than it saved. With two
    turns, up to 128 tokens, it was not tried.
    """
    if work.in_pairs:
        return "all"
    has_only_parts = work.in_parts and work.num_whole == 0 and work.programs_per_tile == 1
    return "some" if is_early and has_only_parts and turns == 1 else "none"


def multiply_unpacked(x: Fp8Rows, w: Fp8Words) -> torch.Tensor:
    """x @ w.T [M, n] bfloat16, weights unpacked into memory; torch sums on tensor cores alone."""
    (_, k), n = x.codes.shape, w.words.shape[1]
    codes = torch.empty(n, k, dtype=FP8_DTYPE, device=x.codes.device)
    unpack_words_kernel[(len(w.words), triton.cdiv(n, ROWS_TO_UNPACK))](
        w.words, w.shifts, codes, n, k, ROWS=ROWS_TO_UNPACK
    )
    out: torch.Tensor = torch._scaled_mm(
        x.codes, codes.T, x.scale.view(-1, 1), w.factor[None, :], out_dtype=torch.bfloat16, use_fast_accum=True
    )
    wide_rows_triton(x, w, out)
    return out


def unsupported_fp8(case: Case, device: Device) -> str | None:
    """Made for Hopper: Blackwell multiplies FP4 itself, and Triton 3.7 does not compile a row's rotation for it."""
    scheme = case.layer.scheme
    reason = unsupported_activations(case)
    if reason is None and scheme not in HADAMARD_SIZES:
        reason = f"multiplies MXFP4 activations, {scheme} leaves them in 16 bits"
    return reason or missing_family(device, 9)
