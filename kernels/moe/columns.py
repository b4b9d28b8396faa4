"""The order in which words_hopper.py reads the columns of tokens: that in which lanes have those of weights."""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import torch
import triton
import triton.language as tl


@triton.jit
def order_columns_kernel(
    x_ptr,  # [M, K]
    out_ptr,  # [M, columns], K in whole steps
    K,
    columns,
    BLOCK_SIZE: tl.constexpr,
):
    """The columns of each step in the order in which lanes have them: bits 4 to 0 of a column before bits 6 and 5."""
    row = tl.program_id(0).to(tl.int64)
    offs = tl.program_id(1) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    column = offs // 128 * 128 + offs // 2 % 4 * 32 + offs % 128 // 8 * 2 + offs % 2
    x = tl.load(x_ptr + row * K + column, mask=column < K, other=0.0)
    tl.store(out_ptr + row * columns + offs, x, mask=offs < columns)


def order_columns(x: torch.Tensor) -> torch.Tensor:
    """A copy of x [M, K] as words_hopper.py reads it, [M, K in whole steps]."""
    columns = triton.cdiv(x.shape[1], 128) * 128
    out = torch.empty(len(x), columns, dtype=x.dtype, device=x.device)
    order_columns_kernel[(len(x), triton.cdiv(columns, 1024))](x, out, x.shape[1], columns, BLOCK_SIZE=1024)
    return out
