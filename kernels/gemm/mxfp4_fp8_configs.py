"""The launch configurations of MXFP4 as FP8: which product, in what tiles, its sum in how many splits."""

from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import triton

from kernels.errors import ConfigError
from kernels.gemm.mxfp4_hopper import STEP
from kernels.gemm.mxfp4_rows import MOST_COLUMNS, ROWS
from kernels.gemm.stream_k import Division, divide_tiles
from kernels.sms import DEFAULT_NUM_SMS
from kernels.spec import Case

ENOUGH_PROGRAMS = 192
"""With fewer of them the sum is split, for more than FEW_TOKENS."""
FEW_TOKENS = 32
TOKENS_TO_SPLIT = 16
"""Up to so many, where an SM has registers for four programs, the sum of even the largest matrix is split in two."""
MOST_SPLITS = 8
LEAST_COLUMNS_OF_SPLIT = 512
PROGRAMS_AT_ONCE = 2
"""Of an SM, of few tokens, that load enough: what comes after them waits."""
STEPS_TO_BEGIN = 6
"""Beginning and ending a program takes about as long: that ranks the splits tried on an H200 as they were measured."""
LEAST_TOKENS_TO_UNPACK = 3072
"""From so many on, unpacked weights are read often enough to be written to memory once: the chip is at its power
limit then, and unpacking takes power. On an H200 it lost at 2048, won at 4096, and at 3072 in one of two layers.
"""
MOST_FEATURES_BY_ROWS = 16384
"""One token is multiplied by rows up to here: on an H200 it won at 10240 and took as long at 57344."""
FEATURES = 128
"""Output features of a tile of "specialized"."""
STEPS = {8: 4, 16: 2}
"""That a program of "specialized" takes at a time, by its warps."""
FROM_ONE = range(1, 2**31)
SHARED_BYTES = (227 - 5) * 1024
"""Of an SM, for the steps in flight of "specialized" and the sums that its warps hand over; 4 KiB take its stores."""


@dataclass(frozen=True, slots=True)
class Mxfp4Fp8Config:
    """Launch configuration of the FP8 product."""

    BLOCK_SIZE_M: int
    """Tokens of a tile."""
    BLOCK_SIZE_N: int
    """Output features of a tile."""
    GROUP_SIZE_M: int
    """Tiles of tokens that share a tile of weights in L2."""
    SPLIT_K: int
    """Programs of "pipelined" that share the sum of a tile; another launch adds their parts."""
    PROMOTE: bool
    """Add the sum over each 128 columns to a float32 sum outside of the tensor core; only "pipelined" does."""
    PRODUCT: str
    """One of PRODUCTS."""
    num_warps: int
    """Of "specialized" those that multiply: 8, or 16 that take every other step each."""
    num_stages: int
    """Steps in flight."""

    @property
    def turns(self) -> int:
        """Of "specialized": warps take one of so many steps."""
        return self.num_warps // 8


PRODUCTS = ("rows", "pipelined", "specialized", "unpacked")
"""Weights are unpacked in registers by mxfp4_rows_kernel, for one token, where only the warps are read; by
mxfp4_fp8_gemm_kernel; by mxfp4_hopper_gemm_kernel; into memory, and torch multiplies: nothing else is read then."""


def default_fp8_config(m: int, n: int, k: int) -> Mxfp4Fp8Config:
    """By tokens: the best of those tried on an H200, at the sizes of Llama-3.3-70B.

    Args:
        m, n, k: tokens, output features, input features.
    """
    if m == 1 and k <= MOST_COLUMNS and n <= MOST_FEATURES_BY_ROWS:
        return Mxfp4Fp8Config(1, ROWS.value, 1, 1, PROMOTE=False, PRODUCT="rows", num_warps=16, num_stages=1)
    if m >= LEAST_TOKENS_TO_UNPACK and n % 16 == 0 == k % 16:
        return Mxfp4Fp8Config(256, 128, 8, 1, PROMOTE=False, PRODUCT="unpacked", num_warps=8, num_stages=4)
    if m > FEW_TOKENS:
        config = specialized_config(m)
        if 2 * divide_steps(m, n, k, config, DEFAULT_NUM_SMS).num_programs >= DEFAULT_NUM_SMS:
            return config
    block_m = min(max(triton.next_power_of_2(m), 16), 128)
    block_n = 128 if m <= FEW_TOKENS else 64
    num_tiles, split_k = triton.cdiv(m, block_m) * triton.cdiv(n, block_n), 1
    if m <= FEW_TOKENS:
        split_k = count_splits(m, num_tiles, k)
    else:
        while split_k < MOST_SPLITS and num_tiles * split_k < ENOUGH_PROGRAMS and k >= 1024 * split_k:
            split_k *= 2
    return Mxfp4Fp8Config(
        BLOCK_SIZE_M=block_m,
        BLOCK_SIZE_N=block_n,
        GROUP_SIZE_M=8,
        SPLIT_K=split_k,
        PROMOTE=True,
        PRODUCT="pipelined",
        num_warps=4,
        num_stages=5 if m <= 64 else 4,
    )


def count_splits(m: int, num_tiles: int, k: int) -> int:
    """How many programs share the sum of a tile of few tokens, so that the last of them ends soonest."""

    def steps_until_end(split_k: int) -> int:
        waves = triton.cdiv(num_tiles * split_k, PROGRAMS_AT_ONCE * DEFAULT_NUM_SMS)
        steps: int = waves * (triton.cdiv(k, STEP.value * split_k) + STEPS_TO_BEGIN)
        return steps

    most = max(min(k // LEAST_COLUMNS_OF_SPLIT, MOST_SPLITS), 1)
    least = min(2 if m <= TOKENS_TO_SPLIT else 1, most)
    return min(range(least, most + 1), key=steps_until_end)


def specialized_config(m: int) -> Mxfp4Fp8Config:
    """Tiles of as many tokens as there are."""
    block_m = min(max(triton.next_power_of_2(m), 64), 256)
    return Mxfp4Fp8Config(
        BLOCK_SIZE_M=block_m,
        BLOCK_SIZE_N=FEATURES,
        GROUP_SIZE_M=8,
        SPLIT_K=1,
        PROMOTE=False,
        PRODUCT="specialized",
        num_warps=8 if block_m == 256 else 16,
        num_stages={64: 10, 128: 6, 256: 5}[block_m],
    )


def divide_steps(m: int, n: int, k: int, config: Mxfp4Fp8Config, num_sms: int) -> Division:
    """Who computes what of "specialized"."""
    num_tiles = triton.cdiv(m, config.BLOCK_SIZE_M) * triton.cdiv(n, config.BLOCK_SIZE_N)
    return divide_tiles(num_tiles, triton.cdiv(k, STEP.value * STEPS[config.num_warps]), num_sms)


def check_fp8_config(config: Mxfp4Fp8Config, case: Case) -> None:
    """Refuse what the product chosen cannot compute, or would compute wrong; what it does not read may be anything.

    Shared memory of "pipelined" is Triton's to share out, who says so if it does not fit.

    Raises:
        ConfigError: which value it is, what it may be, what to set it to.
    """
    n, k = case.layer.sizes["n"], case.layer.sizes["k"]
    product = f"PRODUCT={config.PRODUCT!r}"
    if config.PRODUCT not in PRODUCTS:
        raise ConfigError(f"mxfp4_gemm has no {product}: use one of {', '.join(PRODUCTS)}")
    if config.PRODUCT == "rows" and (case.num_tokens > 1 or k > MOST_COLUMNS):
        raise ConfigError(
            f"{product} keeps one token of {MOST_COLUMNS} columns at most in registers "
            f"(this is {case.num_tokens} of {k}): use 'pipelined'"
        )
    if config.PRODUCT == "unpacked" and case.layer.dtype != "bfloat16":
        raise ConfigError(
            f"{product}: torch's row-wise product gives bfloat16 (this is {case.layer.dtype}): use 'specialized'"
        )
    if config.PRODUCT == "unpacked" and n % 16:
        raise ConfigError(
            f"{product}: torch's row-wise product takes 16 features or a multiple (this is {n}): use 'specialized'"
        )
    for name, allowed in list_allowed(config, k):
        value = getattr(config, name)
        if value not in allowed:
            near = allowed[max(bisect(allowed, value) - 1, 0)]
            raise ConfigError(f"{product} takes {name} {say(allowed)} (this is {value}): set it to {near}")


def say(allowed: Sequence[int]) -> str:
    """Numbers in a sentence."""
    if allowed is FROM_ONE:
        return "from 1 on"
    if isinstance(allowed, range) and allowed.step == 1:
        return f"from {allowed[0]} to {allowed[-1]}"
    return " or ".join(map(str, allowed))


def list_allowed(config: Mxfp4Fp8Config, k: int) -> Iterator[tuple[str, Sequence[int]]]:
    """Fields that the product reads and what they may be, one after the other: later ones take earlier ones as right.

    "pipelined" must multiply by wgmma, whose left operand has what its assembly takes of a word in one thread: 64 rows
    of weights at least, and groups of four warps. In the turns of 16 warps a stage must always be of the same: others
    could take its last fill for this one.
    """
    if config.PRODUCT == "rows":
        yield "num_warps", (1, 2, 4, 8, 16, 32)
    elif config.PRODUCT == "pipelined":
        yield "BLOCK_SIZE_M", (16, 32, 64, 128, 256)
        yield "BLOCK_SIZE_N", (64, 128, 256)
        yield "num_warps", (4, 8)
        yield "GROUP_SIZE_M", FROM_ONE
        yield "SPLIT_K", range(1, triton.cdiv(k, STEP.value) + 1)
        yield "num_stages", FROM_ONE
    elif config.PRODUCT == "specialized":
        yield "BLOCK_SIZE_M", (64, 128, 256)
        yield "BLOCK_SIZE_N", (FEATURES,)
        yield "num_warps", (8, 16) if config.BLOCK_SIZE_M < 256 else (8,)
        yield "GROUP_SIZE_M", FROM_ONE
        yield "num_stages", range(2, most_stages(config) + 1, config.turns)


def most_stages(config: Mxfp4Fp8Config) -> int:
    """Steps of "specialized" that fit an SM's shared memory, FP8 tokens and words of weights."""
    step_bytes: int = STEP.value * config.BLOCK_SIZE_M + STEP.value // 2 * config.BLOCK_SIZE_N + 16
    sums_bytes = 4 * config.BLOCK_SIZE_M * config.BLOCK_SIZE_N if config.turns > 1 else 0
    return (SHARED_BYTES - sums_bytes) // step_bytes
