"""The Hadamard rotation against compressed-tensors' matrix, and the properties that make it free."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.errors import ShapeError
from kernels.quantize.hadamard import hadamard_matrix, rotate_hadamard


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # of compressed-tensors' imports
@pytest.mark.parametrize("size", [1, 2, 32, 64, 128])
def test_the_matrix_is_that_of_compressed_tensors(size: int):
    from compressed_tensors.transform.utils.hadamard import deterministic_hadamard_matrix

    signs = deterministic_hadamard_matrix(size, dtype=torch.float32)
    assert torch.equal(hadamard_matrix(size), signs * size**-0.5)


@pytest.mark.parametrize("size", [1, 16, 128])
def test_the_matrix_is_symmetric_and_its_own_inverse(size: int):
    matrix = hadamard_matrix(size)
    assert torch.equal(matrix, matrix.T)
    torch.testing.assert_close(matrix @ matrix, torch.eye(size))


@settings(max_examples=15, deadline=None)
@given(size=st.sampled_from([32, 64, 128]), seed=st.integers(0, 999))
def test_rotating_both_operands_leaves_their_product_as_it_is(size: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(rows, 256, generator=generator) for rows in (3, 5))
    torch.testing.assert_close(rotate_hadamard(x, size) @ rotate_hadamard(w, size).T, x @ w.T, rtol=1e-4, atol=1e-4)


def test_groups_are_rotated_alone_and_an_outlier_is_spread_over_its_group():
    x = torch.zeros(2, 96, dtype=torch.bfloat16)
    x[1, 40] = 8.0
    rotated = rotate_hadamard(x, 32)
    assert rotated.dtype == torch.float32
    assert not rotated[0].any()
    assert not rotated[1, :32].any()
    assert not rotated[1, 64:].any()
    torch.testing.assert_close(rotated[1, 32:64].abs(), torch.full((32,), 8.0 * 32**-0.5))


@pytest.mark.parametrize("size", [0, -2, 3, 96])
def test_a_size_that_is_no_power_of_two_is_refused(size: int):
    with pytest.raises(ShapeError, match=f"size {size}: give a power of two"):
        hadamard_matrix(size)


def test_a_row_that_does_not_divide_into_groups_is_refused():
    with pytest.raises(ShapeError, match="96 does not divide into Hadamard groups of 64"):
        rotate_hadamard(torch.zeros(2, 96), 64)
