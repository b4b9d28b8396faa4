"""What the copy engine reads matrices by: rows of all of them, tiles that wgmma can read."""

import pytest
import torch
from triton.experimental.gluon import language as gl

from kernels.gemm.descriptors import in_tiles


@pytest.mark.parametrize(
    ("dtype", "columns", "swizzle"),
    [
        pytest.param(torch.float8_e4m3fn, 128, 128, id="a group of FP8"),
        pytest.param(torch.uint8, 64, 64, id="a step of one row of 4 bits"),
        pytest.param(torch.int16, 64, 128, id="two rows of FP4 words"),
        pytest.param(torch.bfloat16, 32, 64, id="the least Hadamard group"),
    ],
)
def test_a_line_of_a_tile_is_as_wide_as_wgmma_can_read_it(dtype: torch.dtype, columns: int, swizzle: int) -> None:
    matrices = torch.empty(3, 100, 256, dtype=dtype)
    descriptor = in_tiles(matrices, 64, columns)
    assert descriptor.base.data_ptr() == matrices.data_ptr()
    assert (list(descriptor.shape), list(descriptor.block_shape)) == ([300, 256], [64, columns])
    assert descriptor.layout == gl.NVMMASharedLayout(swizzle, 8 * matrices.element_size(), rank=2)
