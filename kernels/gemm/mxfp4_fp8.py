"""MXFP4 x MXFP4 as a product on FP8 tensor cores, which loses nothing: see kernels/gemm/mxfp4_fp8_kernels.py.

Weights stay in 4 bits. Launches: rotate and round activations, or unpack prequantized ones; the product, with weights
unpacked in registers, by Triton for a few tokens, and the sum over its splits, or by kernels/gemm/mxfp4_hopper.py for
more. One token is multiplied by integers instead, as kernels/gemm/mxfp4_rows.py says. With very many tokens weights are
unpacked into memory that is free again after the product, torch's row-wise scaled GEMM multiplies. There, and after
Triton's tiles of more than 64 tokens, a last launch computes rows of activations that FP8 cannot hold: it looks at a
flag for each row and mostly returns.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import triton

from kernels.configs import read_config
from kernels.errors import ConfigError
from kernels.gemm.descriptors import in_tiles
from kernels.gemm.mxfp4_fp8_configs import (
    PRODUCTS,
    STEPS,
    Mxfp4Fp8Config,
    default_fp8_config,
    divide_steps,
    specialized_config,
)
from kernels.gemm.mxfp4_fp8_kernels import (
    LARGEST_SHIFT,
    LEAST_SHIFT,
    NUM_ARRIVED,
    mxfp4_fp8_gemm_kernel,
    rotate_to_fp8_kernel,
    rows_to_fp8_kernel,
    unpack_words_kernel,
)
from kernels.gemm.mxfp4_hopper import STEP, mxfp4_hopper_gemm_kernel
from kernels.gemm.mxfp4_inputs import HADAMARD_SIZES, unsupported_activations
from kernels.gemm.mxfp4_rotate_hopper import LINES, rotate_to_fp8_hopper_kernel
from kernels.gemm.mxfp4_rows import MOST_COLUMNS, multiply_rows, quantize_token
from kernels.gemm.mxfp4_triton import sum_splits_triton
from kernels.gemm.mxfp4_wide_rows import wide_rows_kernel
from kernels.gemm.once import OncePerTensor
from kernels.quantize.fp4 import E8M0_NAN, MXFP4_GROUP_SIZE, e8m0_values
from kernels.quantize.fp8 import FP8_DTYPE
from kernels.requirements import missing_family
from kernels.sms import count_sms
from kernels.spec import Case, Device, Launch, Outputs, Tensors

REGISTERS = {8: 168, 16: 96}
"""Of a thread of "specialized", by warps, before those that multiply take what those that load give."""
REGISTERS_TO_ROTATE = 96
"""Of a thread, where an SM has more than a few rows: it holds five of 8192 columns at a time then, else four."""
FEW_ROWS = 256
"""Up to so many, two for an SM, have a warp for 1024 columns of a row, more for 2048: others are rotated meanwhile."""
ROWS_TO_UNPACK = 32
"""A program's, of one step."""
LEAST_GROUPS = 32
"""Of a program that unpacks prequantized rows: with fewer the four bytes that its assembly takes are of two threads."""
LONGEST_ROW = 8192
LONGEST_SHARED_ROW = 65536
LEAST_LONG_ROWS = 256
"""Rows between these lengths, if there are so many, are rotated in shared memory: in registers one fills an SM."""
MOST_TOKENS_WITH_WIDE = 64
"""Of tiles of "pipelined" that compute wide rows too: larger ones have no registers for that code."""
FLAGS_AT_ONCE = 4096
"""Of rows, that a program which looks for wide ones reads."""
WIDEST_SPAN_OF_WEIGHTS = LARGEST_SHIFT.value - LEAST_SHIFT.value


@dataclass(frozen=True, slots=True)
class Fp8Rows:
    """Rows of MXFP4 as FP8 codes times a power of two, and those that this cannot hold."""

    codes: torch.Tensor
    """[M, k] float8_e4m3fn."""
    scale: torch.Tensor
    """[splits, M] float32."""
    values: torch.Tensor
    """[M, k] bfloat16, written where is_wide."""
    is_wide: torch.Tensor
    """[splits, M] int32."""
    arrived: torch.Tensor
    """[NUM_ARRIVED] int32, zeros."""


def empty_rows(m: int, k: int, splits: int, device: torch.device) -> Fp8Rows:
    """Room for m rows of k columns, whose splits have scales of their own."""
    return Fp8Rows(
        codes=torch.empty(m, k, dtype=FP8_DTYPE, device=device),
        scale=torch.empty(splits, m, device=device),
        values=torch.empty(m, k, dtype=torch.bfloat16, device=device),
        is_wide=torch.empty(splits, m, dtype=torch.int32, device=device),
        arrived=torch.empty(NUM_ARRIVED.value, dtype=torch.int32, device=device),
    )


def size_of_split(k: int, splits: int) -> int:
    """Columns that a split of the sum has: whole steps."""
    columns: int = STEP.value * triton.cdiv(k, STEP.value * splits)
    return columns


def rotate_to_fp8(x: torch.Tensor, hadamard_size: int, splits: int = 1) -> Fp8Rows:
    """What quantize_mxfp4(rotate_hadamard(x, hadamard_size)) stands for; x [M, k] bfloat16 or float16, contiguous."""
    m, k = x.shape
    if splits == 1 and LONGEST_ROW < k <= LONGEST_SHARED_ROW and m >= LEAST_LONG_ROWS:
        return rotate_long_rows(x, hadamard_size)
    size = size_of_split(k, splits)
    rows, groups = empty_rows(m, k, splits, x.device), max(triton.next_power_of_2(size // hadamard_size), 16)
    columns_of_warp = 1024 if splits == 1 and m <= FEW_ROWS else 2048
    registers = REGISTERS_TO_ROTATE if m > FEW_ROWS else None
    rotate_to_fp8_kernel[(m, splits)](
        x, rows.codes, rows.scale, rows.values, rows.is_wide, rows.arrived, k, size,
        HADAMARD_SIZE=hadamard_size, RSQRT_SIZE=hadamard_size**-0.5, GROUPS=groups,
        num_warps=min(max(groups * hadamard_size // columns_of_warp, 4), 16), maxnreg=registers,
    )  # fmt: skip
    return rows


def rotate_long_rows(x: torch.Tensor, hadamard_size: int) -> Fp8Rows:
    """The same, with rows in shared memory, not split."""
    m, k = x.shape
    rows = empty_rows(m, k, 1, x.device)
    rotate_to_fp8_hopper_kernel[(m,)](
        in_tiles(x.view(-1, hadamard_size), LINES.value, hadamard_size),
        rows.codes, rows.scale, rows.values, rows.is_wide, rows.arrived, k,
        RSQRT_SIZE=hadamard_size**-0.5, PARTS=triton.cdiv(k, LINES.value * hadamard_size), num_warps=8,
    )  # fmt: skip
    return rows


def rows_to_fp8(codes: torch.Tensor, scales: torch.Tensor, splits: int = 1) -> Fp8Rows:
    """What codes [M, k / 2] with scales [M, k / 32] stand for."""
    m, k = codes.shape[0], 2 * codes.shape[1]
    rows, size = empty_rows(m, k, splits, codes.device), size_of_split(k, splits)
    rows_to_fp8_kernel[(m, splits)](
        codes, scales, rows.codes, rows.scale, rows.values, rows.is_wide, rows.arrived, k, size,
        GROUPS=max(triton.next_power_of_2(size // MXFP4_GROUP_SIZE), LEAST_GROUPS),
    )  # fmt: skip
    return rows


@dataclass(frozen=True, slots=True)
class Fp8Words:
    """MXFP4 weights as the FP8 kernel reads them: codes stay 4 bits, scales become shifts of exponents.

    Of each row and step of 128 columns there are 64 bytes, all rows of a step one after the other. Four bytes hold
    columns c to c + 3 of the step's first half, and those of its second half: magnitudes in three bits of the nibbles
    of two bytes each, as prmt takes selectors; the sign of byte i's column of either half in bit 7 or 3 of byte i.
    """

    words: torch.Tensor
    """[steps, N, 64] int8."""
    shifts: torch.Tensor
    """[steps, N] int32: a byte for each group of 32, 0 to 11."""
    factor: torch.Tensor
    """[N] float32: of whole sums, a power of two."""


PACKED = OncePerTensor[Fp8Words]()
"""By the codes of a matrix, its words."""


def place_signs(words: torch.Tensor) -> torch.Tensor:
    """Of words int32 of eight e2m1 codes: the sign of code i to bit 8 i + 7, that of code 4 + i to bit 8 i + 3."""
    signs = torch.zeros_like(words)
    for i in range(4):
        signs |= ((words >> 4 * i + 3) & 1) << 8 * i + 7 | ((words >> 4 * i + 19) & 1) << 8 * i + 3
    return words & 0x77777777 | signs


def pack_fp8_words(codes: torch.Tensor, scales: torch.Tensor) -> Fp8Words:
    """Repack weights; columns are padded with zeros to whole steps.

    Args:
        codes: [N, k / 2] uint8, the first of two e2m1 codes in the low nibble.
        scales: [N, k / 32] uint8, e8m0.
    Raises:
        ConfigError: a row's scales span too much for one power of two beside FP8.
    """
    steps = -(-codes.shape[1] // 64)
    is_nan = scales == E8M0_NAN
    is_used = ((codes.unflatten(1, (-1, MXFP4_GROUP_SIZE // 2)) & 0x77) != 0).any(2) & ~is_nan
    largest = torch.where(is_used, scales, 0).amax(1)
    below = torch.where(is_used, largest[:, None].int() - scales, 0)
    span = 0 if below.is_meta else int(below.max())  # who compiles ahead has shapes and no values
    if span > WIDEST_SPAN_OF_WEIGHTS:
        raise ConfigError(
            f"a row of the weights has scales that span {span} powers of two, "
            f"{WIDEST_SPAN_OF_WEIGHTS} at most fit beside FP8: use triton"
        )
    padded = torch.nn.functional.pad(codes, (0, 64 * steps - codes.shape[1]))
    halves = padded.unflatten(1, (steps, 2, 16, 2))  # [N, steps, half, four columns, two bytes of two nibbles]
    words = place_signs(halves.transpose(2, 3).flatten(2).transpose(0, 1).contiguous().view(torch.int32)).view(
        torch.int8
    )
    shifts = (WIDEST_SPAN_OF_WEIGHTS - below).to(torch.uint8)
    shifts = torch.nn.functional.pad(shifts, (0, 4 * steps - shifts.shape[1])).view(torch.int32)
    factor = e8m0_values(largest) * 2.0**-LARGEST_SHIFT.value
    return Fp8Words(words, shifts.T.contiguous(), torch.where(is_nan.any(1), torch.nan, factor))


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
    w = PACKED.get(weights["w"], lambda: pack_fp8_words(weights["w"], weights["w_scale"]))
    dtype = inputs["x"].dtype
    hadamard_size = HADAMARD_SIZES[case.layer.scheme]
    if config.PRODUCT not in PRODUCTS:
        raise ConfigError(f"mxfp4_gemm has no PRODUCT {config.PRODUCT!r}: use one of {', '.join(PRODUCTS)}")
    if config.PRODUCT == "specialized" and config.num_warps not in (8, 16):
        raise ConfigError(f"PRODUCT='specialized' multiplies by 8 warps or 16 (this is num_warps={config.num_warps})")
    if config.PRODUCT == "unpacked" and dtype != torch.bfloat16:
        raise ConfigError(f"PRODUCT='unpacked': torch's row-wise product gives bfloat16 (this is {case.layer.dtype})")
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
    m, k = case.num_tokens, case.layer.sizes["k"]
    if m > 1 or k > MOST_COLUMNS:
        raise ConfigError(
            f"PRODUCT='rows' keeps one token of {MOST_COLUMNS} columns at most in registers (this is {m} of {k})"
        )

    def run() -> Outputs:
        if "x_codes" in inputs:
            codes, scales = inputs["x_codes"], inputs["x_scale"]
        else:
            codes, scales = quantize_token(inputs["x"], HADAMARD_SIZES[case.layer.scheme])
        dtype = inputs["x"].dtype
        return (multiply_rows(codes, scales, w.words, w.shifts, w.factor, dtype, config.num_warps),)

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
        multiply_wide_rows(x, w, out)
    return out


def multiply_specialized(x: Fp8Rows, w: Fp8Words, dtype: torch.dtype, config: Mxfp4Fp8Config) -> torch.Tensor:
    """x @ w.T [M, n], weights unpacked in registers of warps that multiply while others load."""
    (m, k), n = x.codes.shape, w.words.shape[1]
    block_m, block_n, turns = config.BLOCK_SIZE_M, config.BLOCK_SIZE_N, config.num_warps // 8
    steps, work = STEPS[config.num_warps], divide_steps(m, n, k, config, count_sms(x.codes.device))
    out = torch.empty(m, n, dtype=dtype, device=x.codes.device)
    parts = torch.empty(work.num_programs if work.in_parts else 0, block_n, block_m, device=out.device)
    mxfp4_hopper_gemm_kernel[(work.num_programs,)](
        in_tiles(x.codes, block_m, STEP.value), x.scale, x.values, x.is_wide,
        in_tiles(w.words, block_n, 64), w.words, w.shifts, w.factor, out, parts, x.arrived,
        m, n, k, work.num_whole, work.units_per_tile * steps, work.share * steps, work.programs_per_tile,
        GROUP_SIZE_M=config.GROUP_SIZE_M, TURNS=turns, UNROLL=steps // turns, STAGES=config.num_stages,
        IN_PAIRS=work.in_pairs, num_warps=4, maxnreg=REGISTERS[config.num_warps],
    )  # fmt: skip
    return out


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
    multiply_wide_rows(x, w, out)
    return out


def multiply_wide_rows(x: Fp8Rows, w: Fp8Words, out: torch.Tensor) -> None:
    """Write x @ w.T to out [M, n] in rows of x that are wide."""
    (m, k), n = x.codes.shape, w.words.shape[1]
    wide_rows_kernel[(count_sms(out.device),)](
        x.values, x.is_wide, w.words, w.shifts, w.factor, out, m, n, k,
        EVEN_K=k % 128 == 0, BLOCK_SIZE_M=64, BLOCK_SIZE_N=128, FLAGS=FLAGS_AT_ONCE, num_warps=8,
    )  # fmt: skip


def unsupported_fp8(case: Case, device: Device) -> str | None:
    """Made for Hopper: Blackwell multiplies FP4 itself, and Triton 3.7 does not compile a row's rotation for it."""
    scheme = case.layer.scheme
    reason = unsupported_activations(case)
    if reason is None and scheme not in HADAMARD_SIZES:
        reason = f"multiplies MXFP4 activations, {scheme} leaves them in 16 bits"
    return reason or missing_family(device, 9)
