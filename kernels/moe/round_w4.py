"""The Triton kernel that rounds activations of the 4-bit MoE kernels to FP4 and back.

Without FP4 tensor cores there is no use for packed codes: what is written are the 16-bit values that the codes stand
for. In NVFP4 the global scale stays in them: it is taken out once, after the sum over k.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl

from kernels.gemm.mxfp4_kernels import e8m0_inverses, e8m0_values, nearest_e2m1
from kernels.moe.activations import FP8_MAX
from kernels.moe.routing import is_computed


@triton.jit
def abs_bits(x):
    """Magnitudes as integers: in the order of the floats, with infinity and NaN on top, which tl.max would drop."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def round_to_fp4(x, global_scale_ptr, FORMAT: tl.constexpr, GROUP_SIZE: tl.constexpr):
    """x [ROWS, K] float32 as kernels.quantize.fp4 quantizes and dequantizes it, but for NVFP4's global scale.

    The values are exact in bfloat16. Divisions are rounded as IEEE has it: a half that an approximation moves would be
    rounded to another code.
    """
    groups = tl.reshape(x, (x.shape[0], x.shape[1] // GROUP_SIZE, GROUP_SIZE))
    amax = tl.max(abs_bits(groups), 2)  # [ROWS, K / GROUP_SIZE]
    if FORMAT == "mxfp4":
        exponent = (amax + 0x200000) >> 23  # avoid_saturation: a mantissa of 1.75 carries into it
        code = tl.where(amax < 0x7F800000, tl.maximum(exponent - 2, 0), 255)
        scale = e8m0_values(code)
        scaled = groups * e8m0_inverses(code)[:, :, None]
    else:
        global_scale = tl.load(global_scale_ptr)
        scale = tl.div_rn(amax.to(tl.float32, bitcast=True) * global_scale, 6.0)
        scale = tl.minimum(scale, FP8_MAX).to(tl.float8e4nv).to(tl.float32)
        scale = tl.where(amax > 0x7F800000, float("nan"), scale)  # NaN, which tl.minimum dropped
        divisor = tl.where(scale == 0, 1.0, scale)[:, :, None]
        scaled = tl.div_rn(groups * global_scale, tl.broadcast_to(divisor, groups.shape))
    values = nearest_e2m1(scaled) * scale[:, :, None]
    return tl.reshape(values, (x.shape[0], x.shape[1]))


@triton.jit
def round_rows_kernel(
    x_ptr,  # [num_rows / top_k, K]
    weights_ptr,  # [num_rows], multiply a row before it is rounded; or None
    global_scale_ptr,  # nvfp4: [1]; else None
    out_ptr,  # [num_rows, K]
    ids_ptr,  # this and the next three: see is_computed
    expert_map_ptr,
    expert_num_tokens_ptr,
    rows_per_expert,
    K,
    top_k,
    FORMAT: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
):
    """out[row] = x[row / top_k] rounded to FP4, BLOCK_SIZE_K columns a program."""
    row = tl.program_id(0).to(tl.int64)
    if not is_computed(row, row >= 0, ids_ptr, expert_map_ptr, expert_num_tokens_ptr, rows_per_expert):
        return
    offs_k = tl.program_id(1) * BLOCK_SIZE_K + tl.arange(0, BLOCK_SIZE_K)[None, :]
    x = tl.load(x_ptr + row // top_k * K + offs_k, mask=offs_k < K, other=0.0).to(tl.float32)
    if weights_ptr is not None:
        x *= tl.load(weights_ptr + row)
    values = round_to_fp4(x, global_scale_ptr, FORMAT, GROUP_SIZE)
    tl.store(out_ptr + row * K + offs_k, values.to(out_ptr.dtype.element_ty), mask=offs_k < K)
