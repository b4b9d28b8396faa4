"""A linear layer with weights in MXFP4, its activations in 16 bits or rotated and quantized to MXFP4 as well.

    mxfp4_w4a16               y = x @ w.T,         w = q(W)
    mxfp4_w4a4_hadamard<h>    y = q(x R) @ w.T,    w = q(W R)

R rotates groups of h columns by the orthonormal Hadamard matrix, so that (x R) @ (W R).T = x @ W.T; q() rounds to
MXFP4, e2m1 values with one power of two per 32. M tokens, n output features, k input features.
Source: vLLM, benchmarks/kernels/bench_mxfp4_qutlass.py; OCP Microscaling Formats (MX) v1.0; QuaRot (arXiv:2404.00456).
"""

import torch
from torch.nn.functional import linear

from kernels.gemm.mxfp4_fp8 import prepare_fp8, prepare_fp8_with, unsupported_fp8
from kernels.gemm.mxfp4_inputs import (
    ACTIVATION_OPTIONS,
    HADAMARD_SIZES,
    LINEAR_SIZES,
    SCHEMES,
    W4A16,
    bytes_moved,
    check_layer,
    count_weights,
    dequantize_weights,
    flops,
    make_inputs,
    make_weights,
    round_activations,
    unsupported_activations,
)
from kernels.gemm.mxfp4_triton import prepare_triton, prepare_triton_with, unsupported_triton
from kernels.gemm.mxfp4_vllm import VLLM_PROVIDERS
from kernels.spec import Case, Device, Kernel, Launch, Outputs, Provider, Tensors, Tolerance


def mxfp4_gemm_reference(case: Case, weights: Tensors, inputs: Tensors) -> torch.Tensor:
    """The formula of this file in float32, on what the scheme rounds x and w to.

    MXFP4 values and 16-bit activations fit into TF32's 10 bits of mantissa, so the products are exact whether or not
    TF32 is switched on.

    Returns:
        [M, n] float32.
    """
    return linear(round_activations(case, inputs).float(), dequantize_weights(weights, torch.float32))


def prepare_torch_16bit(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """What the layer costs without quantization: a 16-bit GEMM on operands that were dequantized before timing.

    That includes rotating and quantizing x for the w4a4 schemes, dynamic ones too: the values are the scheme's, the
    time is that of the GEMM alone. It multiplies dequantized e2m1 values, which draw less power than Gaussian ones: at
    M=2048 on an H200 it ran at 853 TFLOP/s where a Gaussian bf16 GEMM of the same run reached 706.
    """
    dtype = inputs["x"].dtype
    x, w = round_activations(case, inputs).to(dtype), dequantize_weights(weights, dtype)

    def run() -> Outputs:
        return (linear(x, w),)

    return Launch(run)


def prepare_torch(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """All of it in plain torch, every time: rotate, quantize and dequantize x, dequantize w, multiply in 16 bits."""
    dtype = inputs["x"].dtype

    def run() -> Outputs:
        return (linear(round_activations(case, inputs).to(dtype), dequantize_weights(weights, dtype)),)

    return Launch(run)


def unsupported_torch(case: Case, device: Device) -> str | None:
    """Runs everywhere."""
    return unsupported_activations(case)


ROUNDED_OUTPUT = Tolerance(
    relative_error=0.004,
    element_error=0.01,
    share_close=0.999,
    reason="products are exact and summed in float32, so what is left is rounding the output to bfloat16: at most "
    "0.002 of an element",
)
REQUANTIZED = Tolerance(
    relative_error=0.02,
    element_error=0.05,
    share_close=0.99,
    reason="the output's rounding to bfloat16, and values of the rotated x so close to halfway between two codes that "
    "the order of the rotation's float32 sum decides (about 1 in 100,000): one moves its row by up to 1 / sqrt(k)",
)


KERNEL = Kernel(
    name="mxfp4_gemm",
    title="MXFP4 linear layer, with and without Hadamard-rotated MXFP4 activations",
    schemes=SCHEMES,
    size_names=LINEAR_SIZES,
    make_weights=make_weights,
    make_inputs=make_inputs,
    reference=mxfp4_gemm_reference,
    providers={
        "torch-bf16": Provider(prepare_torch_16bit, unsupported_torch),
        "torch": Provider(prepare_torch, unsupported_torch),
        "triton": Provider(prepare_triton, unsupported_triton, prepare_with=prepare_triton_with),
        "triton-exact-fp8": Provider(prepare_fp8, unsupported_fp8, prepare_with=prepare_fp8_with),
        **VLLM_PROVIDERS,
    },
    baseline="torch-bf16",
    tolerance={**dict.fromkeys(HADAMARD_SIZES, REQUANTIZED), W4A16: ROUNDED_OUTPUT},
    flops=flops,
    bytes_moved=bytes_moved,
    gemm_dtype={**dict.fromkeys(HADAMARD_SIZES, "float8_e4m3fn"), W4A16: "bfloat16"},
    num_weights=count_weights,
    check_layer=check_layer,
    options=ACTIVATION_OPTIONS,
)
