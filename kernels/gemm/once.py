"""What is made of a layer's weights once: a layer is loaded once, and launched with many configurations."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch.utils.weak import WeakIdKeyDictionary

Made = TypeVar("Made")


class OncePerTensor(Generic[Made]):
    """Keeps what was made of a tensor as long as the tensor is there."""

    def __init__(self) -> None:
        self._made = WeakIdKeyDictionary()

    def get(self, tensor: torch.Tensor, make: Callable[[], Made]) -> Made:
        """What was made of the tensor before, or is made now; it must not hold the tensor itself."""
        if tensor not in self._made:
            self._made[tensor] = make()
        made: Made = self._made[tensor]
        return made
