"""Sets the process up before any test imports Triton: kernels run in its interpreter, and nobody phones home."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # `make gpu-test` may say 0
os.environ["DO_NOT_TRACK"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
from triton.runtime import interpreter

from flows.cli import end_quietly

end_quietly()
torch.set_num_threads(2)

ROUNDED_BY_TORCH = {
    "bf16": (torch.bfloat16, torch.uint16, np.uint16),
    "fp8e4nv": (torch.float8_e4m3fn, torch.uint8, np.uint8),
    "fp8e5": (torch.float8_e5m2, torch.uint8, np.uint8),
}

convert_float_of_triton = interpreter._convert_float
patch_tensor_of_triton = interpreter._patch_lang_tensor


def convert_float(data, from_dtype, to_dtype, rounding_mode):
    """Round as the hardware does; Triton's own loses the carry when a mantissa rounds up to the next power of two."""
    if from_dtype.name != "fp32" or to_dtype.name not in ROUNDED_BY_TORCH:
        return convert_float_of_triton(data, from_dtype, to_dtype, rounding_mode)
    dtype, bits, numpy_bits = ROUNDED_BY_TORCH[to_dtype.name]
    rounded = torch.from_numpy(np.array(data, dtype=np.float32, ndmin=1)).to(dtype).view(bits)
    return rounded.numpy().astype(numpy_bits).reshape(np.shape(data))


def patch_tensor(tensor, scope):
    """Let a tensor bound a loop; Triton 3.6 relies on an int() of a [1] array that newer numpy refuses."""
    patch_tensor_of_triton(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


@pytest.fixture(autouse=True)
def interpreter_as_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Triton's interpreter compute what a GPU does, in every supported version of Triton."""
    monkeypatch.setattr(interpreter, "_convert_float", convert_float)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_tensor)
