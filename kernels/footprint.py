"""What a layer's weights need of memory, learnt from tensors that have none: sizes in milliseconds, on any machine.

The kernel's own make_weights runs while every tensor is made on torch's "meta" device, which knows shapes and nothing
else. So sizes are exact, and a kernel declares nothing for it.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._C import DispatchKey
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.registry import find_kernel
from kernels.spec import Layer, Tensors

META = torch.device("meta")
CPU = torch.device("cpu")
aten = torch.ops.aten

DRAWS = (aten.normal_, aten.uniform_, aten.random_)
"""They fill a tensor from a generator, which there is none of for the meta device."""

FEW_EXPERTS, ONE_MORE = 2, 3
"""Numbers of experts that are tried: experts are alike, so every dimension grows evenly with their number."""


class Unallocated(TorchDispatchMode):
    """While entered, tensors get a shape and no memory, wherever they are asked for; what they would take is counted.

    Values are nobody's: .item() raises, and nonzero() finds as many as there could be.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = 0
        """Of all tensors that are alive now."""
        self.peak_bytes = 0
        """The most that were alive at once. An operator's scratch memory is not seen: it may need more than this."""
        self._storages: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None:
            kwargs["device"] = META
        result = self._compute(func, args, kwargs)
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return result

    def _compute(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What the operator would return, as far as shapes go."""
        if func.overloadpacket in DRAWS:
            return args[0]
        if func is aten.randn.generator:
            return torch.empty(args[0], dtype=kwargs.get("dtype"), device=META)
        if func is aten.nonzero.default:
            return torch.empty(args[0].numel(), args[0].dim(), dtype=torch.int64, device=META)
        if func.namespace == "vllm":  # written in Python, around kernels that are launched with what it makes
            with self:
                return func._op_dk(DispatchKey.CUDA, *args, **kwargs)
        if func.namespace not in ("aten", "prims") and not func._schema.returns:
            return None  # somebody's kernel that writes into its arguments
        return func(*args, **kwargs)

    def _count(self, tensor: torch.Tensor) -> None:
        """Add the tensor's memory until it is freed; that of a view has been added."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._storages:
            return

        def forget(_: object) -> None:
            del self._storages[key]
            self.live_bytes -= size

        self._storages[key] = weakref.ref(storage, forget)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a layer's weights need of memory."""

    size_bytes: int
    """Of the weights: what a WeightsReceipt will say."""
    peak_bytes: int
    """The least that must be free to make them: float32 values come before their codes. Scratch comes on top."""


def weights_footprint(layer: Layer) -> Footprint:
    """What making the layer's weights takes, in bytes; exact for what is kept, a lower bound for the peak."""
    weights, temporary_bytes = outline_weights(layer)
    size_bytes = sum(tensor.nbytes for tensor in weights.values())
    return Footprint(size_bytes, size_bytes + temporary_bytes)


def outline_weights(layer: Layer) -> tuple[Tensors, int]:
    """The layer's weights on the meta device, and the most bytes besides them that making them takes.

    Of more than a few experts only a few are made, and the dimensions are carried on: hundreds would take seconds.
    """
    num_experts = layer.sizes.get("num_experts", 0)
    if num_experts <= ONE_MORE:
        return run_unallocated(lambda: find_kernel(layer.kernel).make_weights(layer, 0, CPU))
    (few, _), (more, temporary_bytes) = (
        outline_weights(replace(layer, sizes={**layer.sizes, "num_experts": number}))
        for number in (FEW_EXPERTS, ONE_MORE)
    )
    weights = {}
    for name, tensor in few.items():
        sizes = zip(tensor.shape, more[name].shape, strict=True)
        shape = [size + (larger - size) * (num_experts - FEW_EXPERTS) for size, larger in sizes]
        weights[name] = torch.empty(shape, dtype=tensor.dtype, device=META)
    return weights, temporary_bytes


def run_unallocated(make: Callable[[], Tensors]) -> tuple[Tensors, int]:
    """What `make` returns, without memory, and the most bytes besides it that were alive at once."""
    with Unallocated() as counted:
        tensors = make()
    return tensors, counted.peak_bytes - counted.live_bytes
