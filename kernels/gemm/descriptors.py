"""What the copy engine of a Hopper reads matrices by: tensor descriptors of Gluon."""

import torch
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

OF_BYTES = {1: gl.int8, 2: gl.int16}
"""A type for each width: of a type nothing else is asked."""


def in_tiles(matrices: torch.Tensor, rows: int, columns: int) -> TensorDescriptor:
    """Matrices [..., columns of a row] one below the other, in tiles, each in shared memory as wgmma reads it."""
    matrix, tile = matrices.view(-1, matrices.shape[-1]), [rows, columns]
    layout = gl.NVMMASharedLayout.get_default_for(tile, OF_BYTES[matrix.element_size()])
    return TensorDescriptor.from_tensor(matrix, tile, layout)
