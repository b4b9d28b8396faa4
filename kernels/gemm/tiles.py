"""Which tile of a product a Triton program computes."""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl


@triton.jit
def tile_of_program(num_tiles_m, num_tiles_n, GROUP_SIZE_M: tl.constexpr):
    """Walk GROUP_SIZE_M tiles of tokens down before one across: tiles of the same weights find them in L2."""
    pid = tl.program_id(0)
    first_m = pid // (GROUP_SIZE_M * num_tiles_n) * GROUP_SIZE_M
    group_rows = tl.minimum(num_tiles_m - first_m, GROUP_SIZE_M)
    in_group = pid % (GROUP_SIZE_M * num_tiles_n)
    return first_m + in_group % group_rows, in_group // group_rows
