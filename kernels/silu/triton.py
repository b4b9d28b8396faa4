# mypy: disable-error-code="no-untyped-def"
"""Our Triton kernel for silu_mul_fp8: a fixed grid of one-warp programs, each strides over all experts' tiles."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import triton
import triton.language as tl

from kernels.configs import read_config
from kernels.errors import ConfigError, ShapeError
from kernels.quantize.fp8 import AMAX_FLOOR, FP8_MAX
from kernels.requirements import missing_capability
from kernels.silu.groups import empty_outputs, scheme_of
from kernels.sms import count_sms
from kernels.spec import Case, Device, Launch, Tensors

PROGRAMS_PER_SM = 32
COLUMNS_PER_TILE = 512
WARP_SIZE = 32
# 65536 registers of an SM / (32 programs of 32 threads): one register more, and the last programs would run alone.
MAX_REGISTERS = 64
MAX_ITEMS = 2**31 - 1


@triton.jit
def ue8m0_scale(amax):
    """The smallest power of two that is at least amax / 448, exactly; NaN for infinity, which UE8M0 has not."""
    return tl.where(amax < float("inf"), (ue8m0_exponent(amax) << 23).to(tl.float32, bitcast=True), float("nan"))


@triton.jit
def inverse_ue8m0_scale(amax):
    """1 / ue8m0_scale(amax), exactly."""
    inverse = ((254 - ue8m0_exponent(amax)) << 23).to(tl.float32, bitcast=True)
    return tl.where(amax < float("inf"), inverse, float("nan"))


@triton.jit
def ue8m0_exponent(amax):
    """The biased exponent of ue8m0_scale(amax), for a normal amax of at least 2**-117.

    448 is 1.75 * 2**8: the exponent of amax less 8, and one more where the mantissa is above 1.75. Adding 2**21 - 1 to
    the bits carries into the exponent there and nowhere else.
    """
    return ((amax.to(tl.int32, bitcast=True) + 0x1FFFFF) >> 23) - 8


@triton.jit
def silu_mul_fp8_kernel(
    y_ptr,  # [E, T, 2 * H] bfloat16, contiguous
    tokens_per_expert_ptr,  # [E] int32
    codes_ptr,  # [E, T, H] float8_e4m3fn, contiguous
    scales_ptr,  # [E, T, H / GROUP_SIZE] float32, strides (T * H / GROUP_SIZE, 1, T)
    num_experts,
    max_tokens,
    H: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    UE8M0: tl.constexpr,
    FP8_MAX: tl.constexpr,
    AMAX_FLOOR: tl.constexpr,
    BLOCK_SIZE_E: tl.constexpr,
    BLOCK_SIZE_G: tl.constexpr,
):
    """Every program strides over the tiles of all experts; a tile is BLOCK_SIZE_G groups of one valid row.

    How many tiles there are is known on the device only, so the grid is fixed, and the row's expert is found by a
    cumulative sum over tokens_per_expert. Programs that run together read neighbouring tiles: with a contiguous range
    per program the largest input (E=256, T=1024, H=7168) took 1.19 times as long on an H200.
    """
    NUM_GROUPS: tl.constexpr = H // GROUP_SIZE
    TILES_PER_ROW: tl.constexpr = (NUM_GROUPS + BLOCK_SIZE_G - 1) // BLOCK_SIZE_G
    offs_e = tl.arange(0, BLOCK_SIZE_E)
    num_tokens = tl.load(tokens_per_expert_ptr + offs_e, mask=offs_e < num_experts, other=0)
    row_ends = tl.cumsum(num_tokens, 0)  # [BLOCK_SIZE_E]
    num_tiles = tl.sum(num_tokens, 0) * TILES_PER_ROW

    # Eight columns a thread: 16-byte loads that a warp coalesces, 8-byte stores.
    offs_g = tl.arange(0, BLOCK_SIZE_G)
    offs_n = tl.arange(0, GROUP_SIZE // 8)[None, :, None] * 8 + tl.arange(0, 8)[None, None, :]
    for tile in tl.range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        row = tile // TILES_PER_ROW
        is_before = row_ends <= row
        expert = tl.sum(is_before.to(tl.int32), 0).to(tl.int64)
        token = row - tl.max(tl.where(is_before, row_ends, 0), 0)
        groups = tile % TILES_PER_ROW * BLOCK_SIZE_G + offs_g
        mask = groups < NUM_GROUPS
        offs = (groups * GROUP_SIZE)[:, None, None] + offs_n  # [BLOCK_SIZE_G, GROUP_SIZE / 8, 8]
        gate_ptrs = y_ptr + (expert * max_tokens + token) * (2 * H) + offs
        gate = tl.load(gate_ptrs, mask=mask[:, None, None], other=0.0)
        up = tl.load(gate_ptrs + H, mask=mask[:, None, None], other=0.0)

        gate = gate.to(tl.float32)
        activation = gate / (1.0 + tl.exp(-gate)) * up.to(tl.float32)
        amax = tl.maximum(tl.max(tl.max(tl.abs(activation), 2), 1), AMAX_FLOOR)  # [BLOCK_SIZE_G]
        inverse_scales = inverse_ue8m0_scale(amax) if UE8M0 else FP8_MAX / amax
        codes = (activation * inverse_scales[:, None, None]).to(codes_ptr.dtype.element_ty)

        tl.store(codes_ptr + (expert * max_tokens + token) * H + offs, codes, mask=mask[:, None, None])
        scale_ptrs = scales_ptr + expert * max_tokens * NUM_GROUPS + groups * max_tokens + token
        tl.store(scale_ptrs, ue8m0_scale(amax) if UE8M0 else amax * (1.0 / FP8_MAX), mask=mask)


@dataclass(frozen=True, slots=True)
class SiluConfig:
    """Launch configuration of silu_mul_fp8_triton."""

    BLOCK_SIZE_E: int
    """Experts that a program counts the tokens of: at least as many as there are."""
    BLOCK_SIZE_G: int
    """Groups of a tile."""
    num_programs: int
    num_warps: int
    maxnreg: int
    """Most registers of a thread."""


def default_config(y: torch.Tensor, group_size: int) -> SiluConfig:
    """Blocks, warps and grid for an input [E, T, 2 * H]: as many programs as the SMs hold at once, no more than items.

    A program is one warp, so that no barrier keeps a warp from its next loads. Fewer experts than lanes are padded to a
    warp, because the compiler spills registers over a narrower scan.
    """
    num_experts, max_tokens, columns = y.shape
    num_items = num_experts * max_tokens * (columns // 2 // group_size)
    return SiluConfig(
        BLOCK_SIZE_E=max(WARP_SIZE, triton.next_power_of_2(num_experts)),
        BLOCK_SIZE_G=COLUMNS_PER_TILE // group_size,
        num_programs=min(count_sms(y.device) * PROGRAMS_PER_SM, num_items),
        num_warps=1,
        maxnreg=MAX_REGISTERS,
    )


def silu_mul_fp8_triton(
    y: torch.Tensor,
    tokens_per_expert: torch.Tensor,
    group_size: int = 128,
    ue8m0: bool = False,
    config: SiluConfig | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """silu(y[..., :H]) * y[..., H:] in FP8, one scale per group of columns of each valid row, by a persistent kernel.

    Args:
        y: [E, T, 2 * H] bfloat16, contiguous, H divisible by group_size.
        tokens_per_expert: [E] int32, valid rows of each expert, at most T; read on the device only.
        group_size: columns that share a scale: 64, 128 or 256.
        ue8m0: scales rounded up to powers of two.
        config: default_config's if not given.
    Returns:
        codes [E, T, H] float8_e4m3fn; scales [E, T, H / group_size] float32 with strides (T * H / group_size, 1, T).
        The padding of both stays unwritten.
    Raises:
        ShapeError: a size or layout the kernel does not take; the message names it and the limit.
    """
    check_input(y, tokens_per_expert, group_size)
    codes, scales = empty_outputs(y, group_size)
    config = config or default_config(y, group_size)
    if config.num_programs == 0:
        return codes, scales
    silu_mul_fp8_kernel[(config.num_programs,)](
        y,
        tokens_per_expert,
        codes,
        scales,
        y.shape[0],
        y.shape[1],
        H=y.shape[2] // 2,
        GROUP_SIZE=group_size,
        UE8M0=ue8m0,
        FP8_MAX=FP8_MAX,
        AMAX_FLOOR=AMAX_FLOOR,
        BLOCK_SIZE_E=config.BLOCK_SIZE_E,
        BLOCK_SIZE_G=config.BLOCK_SIZE_G,
        num_warps=config.num_warps,
        maxnreg=config.maxnreg,
    )
    return codes, scales


def check_input(y: torch.Tensor, tokens_per_expert: torch.Tensor, group_size: int) -> None:
    """Raise ShapeError for what the kernel's pointer arithmetic cannot address."""
    if y.ndim != 3 or y.shape[2] % (2 * group_size) or y.shape[2] == 0:
        raise ShapeError(f"y has shape {tuple(y.shape)}: give [E, T, 2 * H] with H a multiple of {group_size}")
    if y.dtype != torch.bfloat16 or not y.is_contiguous():
        raise ShapeError(f"y is {y.dtype} with strides {y.stride()}: give contiguous bfloat16")
    if tokens_per_expert.shape != y.shape[:1] or tokens_per_expert.dtype != torch.int32:
        raise ShapeError(
            f"tokens_per_expert is {tokens_per_expert.dtype} {tuple(tokens_per_expert.shape)}: "
            f"give int32 [{y.shape[0]}], one count per expert"
        )
    if max(y.numel() // (2 * group_size), y[0].numel() if y.shape[0] else 0) > MAX_ITEMS:
        raise ShapeError(f"y {tuple(y.shape)} has more items than the {MAX_ITEMS} of an int32: split it by experts")


def prepare_triton(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """Our persistent kernel with the default configuration."""
    return launch_triton(case, inputs, default_config(inputs["y"], scheme_of(case).group_size))


def prepare_triton_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """The same with a given configuration."""
    return launch_triton(case, inputs, read_config(SiluConfig, config, case))


def launch_triton(case: Case, inputs: Tensors, config: SiluConfig) -> Launch:
    """The launch with a given configuration.

    Raises:
        ConfigError: the configuration leaves experts out.
    """
    y, tokens_per_expert, scheme = inputs["y"], inputs["tokens_per_expert"], scheme_of(case)
    if y.shape[0] > config.BLOCK_SIZE_E:
        raise ConfigError(f"BLOCK_SIZE_E={config.BLOCK_SIZE_E}: y has {y.shape[0]} experts, give as many at least")
    return Launch(
        lambda: silu_mul_fp8_triton(y, tokens_per_expert, scheme.group_size, scheme.ue8m0, config), asdict(config)
    )


def unsupported_by_triton(case: Case, device: Device) -> str | None:
    """Hardware conversion to float8_e4m3fn came with sm_89."""
    return missing_capability(device, (8, 9))
