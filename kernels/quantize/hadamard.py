"""The Hadamard rotation that spreads outliers over a group before it is quantized to 4 bits.

H[1] = [1];  H[2 n] = [[H[n], H[n]], [H[n], -H[n]]];  rotated group = group @ H[n] / sqrt(n)

H[n] / sqrt(n) is symmetric and its own inverse: rotating both operands of a matrix product leaves the product as it is.
Source: QuaRot (arXiv:2404.00456), section 3; J. J. Sylvester (1867).
"""

import torch

from kernels.errors import ShapeError


def hadamard_matrix(size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Sylvester's orthonormal Hadamard matrix [size, size] float32.

    Raises:
        ShapeError: size is not a power of two.
    """
    if size < 1 or size & (size - 1):
        raise ShapeError(f"a Hadamard matrix of size {size}: give a power of two")
    matrix = torch.ones(1, 1, device=device)
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    normalized: torch.Tensor = matrix * size**-0.5
    return normalized


def rotate_hadamard(x: torch.Tensor, size: int) -> torch.Tensor:
    """Rotate every group of `size` values along the last dimension, in float32.

    Args:
        x: [..., k] any float dtype, k divisible by size.
    Returns:
        [..., k] float32.
    Raises:
        ShapeError: k is not divisible by size, or size is not a power of two.
    """
    k = x.shape[-1]
    if k % size:
        raise ShapeError(f"a last dimension of {k} does not divide into Hadamard groups of {size}: use a smaller one")
    groups = x.float().unflatten(-1, (k // size, size))
    rotated: torch.Tensor = groups @ hadamard_matrix(size, x.device)
    return rotated.flatten(-2)
