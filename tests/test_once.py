"""What is made of a layer's weights once."""

import gc
import weakref

import torch

from kernels.gemm.once import OncePerTensor


def test_it_is_made_once_for_a_tensor_and_again_for_an_equal_one() -> None:
    kept, tensor = OncePerTensor[list[int]](), torch.zeros(4)
    first = kept.get(tensor, lambda: [1])
    assert kept.get(tensor, lambda: [2]) is first
    assert kept.get(tensor.clone(), lambda: [3]) == [3]


def test_it_goes_with_the_tensor() -> None:
    kept, tensor = OncePerTensor[torch.Tensor](), torch.zeros(4)
    made = weakref.ref(kept.get(tensor, lambda: torch.ones(8)))
    assert made() is not None
    del tensor
    gc.collect()
    assert made() is None
