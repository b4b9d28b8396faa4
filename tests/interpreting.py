"""Triton's interpreter, mended where a GPU computes otherwise and where it takes longer than it needs to."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

CONVERTED_BY_TORCH = {
    "bf16": (torch.bfloat16, torch.uint16, np.uint16),
    "fp8e4nv": (torch.float8_e4m3fn, torch.uint8, np.uint8),
    "fp8e5": (torch.float8_e5m2, torch.uint8, np.uint8),
}
"""By Triton's name of a dtype, torch's, and how its bits are held."""

convert_float_of_triton = interpreter._convert_float
patch_tensor_of_triton = interpreter._patch_lang_tensor
create_dot_of_triton = interpreter.InterpreterBuilder.create_dot
cast_of_triton = interpreter.InterpreterBuilder.cast_impl


def convert_float(data, from_dtype, to_dtype, rounding_mode):
    """Round to and from float32 as the hardware does.

    Triton's own loses the carry when a mantissa rounds up to a power of two, and the value of subnormal bfloat16.
    """
    if from_dtype.name == "fp32" and to_dtype.name in CONVERTED_BY_TORCH:
        dtype, bits, numpy_bits = CONVERTED_BY_TORCH[to_dtype.name]
        rounded = torch.from_numpy(np.array(data, dtype=np.float32, ndmin=1)).to(dtype).view(bits)
        return rounded.numpy().astype(numpy_bits).reshape(np.shape(data))
    if to_dtype.name == "fp32" and from_dtype.name in CONVERTED_BY_TORCH:
        dtype, _, numpy_bits = CONVERTED_BY_TORCH[from_dtype.name]
        widened = torch.from_numpy(np.array(data, dtype=numpy_bits, ndmin=1)).view(dtype).float()
        return widened.numpy().view(np.uint32).reshape(np.shape(data))
    return convert_float_of_triton(data, from_dtype, to_dtype, rounding_mode)


def patch_tensor(tensor, scope):
    """Let a tensor bound a loop; Triton 3.6 relies on an int() of a [1] array that newer numpy refuses."""
    patch_tensor_of_triton(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
    """Multiply the values of bfloat16 operands; Triton's own multiplies their bits as integers."""
    a, b = (cast_of_triton(self, x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
    return create_dot_of_triton(self, a, b, d, input_precision, max_num_imprecise_acc)


def create_si_to_fp(self, src, dst_type):
    """Convert integers to bfloat16 by way of float32; Triton's own makes their value its bits."""
    if dst_type.scalar == tl.bfloat16:
        src = cast_of_triton(self, src, tl.float32)
    return cast_of_triton(self, src, dst_type)


PATCHED = (tl, tl.core, tl.math, tl.tensor, tl.core.tensor_descriptor_base)
"""Whose builtins Triton replaces while a kernel runs."""
BUILTINS = {owner: [name for name in dir(owner) if tl.core.is_builtin(getattr(owner, name, None))] for owner in PATCHED}


def patch_builtin(owner, builder, scope):
    """As Triton's own, which looks for builtins among all names, also at each call that a kernel makes: it took a third
    of a test's time. Within a kernel all are replaced already."""
    names = BUILTINS[owner]
    if not tl.core.is_builtin(getattr(owner, names[0])):
        return
    for name in names:
        interpreter._patch_attr(owner, name, getattr(owner, name), builder, scope)


AS_BUILT = replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
"""Looking for overflow in each sum, which no GPU does here, took a fifth of a test's time."""
numpy_dtype_of_scalar = cache(interpreter._get_np_dtype)


def numpy_dtype_of(dtype):
    """As Triton's own, which makes a table of all at each call."""
    return numpy_dtype_of_scalar(tl.uint64 if dtype.scalar.is_ptr() else dtype.scalar)


def mend_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the end of a test."""
    monkeypatch.setattr(interpreter, "_convert_float", convert_float)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_tensor)
    monkeypatch.setattr(interpreter, "_patch_builtin", patch_builtin)
    monkeypatch.setattr(interpreter, "_get_np_dtype", numpy_dtype_of)
    monkeypatch.setattr(interpreter.interpreter_builder, "options", AS_BUILT)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_si_to_fp", create_si_to_fp)
