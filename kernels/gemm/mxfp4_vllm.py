"""vLLM's implementations of the MXFP4 linear layer: Marlin with 16-bit activations, QuTLASS with MXFP4 activations.

vllm is imported inside the functions that run it; whether it is there is asked without importing it.
"""

import importlib
from typing import Any

import torch

from kernels.gemm.mxfp4_inputs import (
    HADAMARD_SIZES,
    W4A16,
    is_prequantized,
    round_activations,
    unsupported_activations,
)
from kernels.requirements import missing_capability, missing_family, missing_vllm
from kernels.spec import Case, Device, Launch, Outputs, Provider, Tensors

QUTLASS_K, QUTLASS_N = 128, 8
"""What QuTLASS's gemm.cu aligns the rows of the operands and of the output to: 64 bytes of codes, 16 of bfloat16."""


class MarlinLayer(torch.nn.Module):
    """The attributes of vLLM's linear layer that its Marlin kernel reads, and replaces by repacked copies."""

    def __init__(self, case: Case, weights: Tensors) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weights["w"], requires_grad=False)
        self.weight_scale = torch.nn.Parameter(weights["w_scale"], requires_grad=False)
        self.output_size_per_partition = case.layer.sizes["n"]
        self.input_size_per_partition = case.layer.sizes["k"]
        self.params_dtype = getattr(torch, case.layer.dtype)


def prepare_marlin(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """MarlinMxFp4LinearKernel on the 16-bit values of the activations; the weights are repacked once.

    Its locks live in vLLM's workspace where a version keeps them there: without one they would be zeroed in every call.
    """
    from vllm.model_executor.kernels.linear.mxfp4.base import MxFp4LinearLayerConfig
    from vllm.model_executor.kernels.linear.mxfp4.marlin import MarlinMxFp4LinearKernel
    from vllm.v1.worker.workspace import init_workspace_manager, is_workspace_manager_initialized

    x = round_activations(case, inputs).to(inputs["x"].dtype)
    if not is_workspace_manager_initialized():
        init_workspace_manager(x.device)
    kernel, layer = MarlinMxFp4LinearKernel(MxFp4LinearLayerConfig()), MarlinLayer(case, weights)
    kernel.process_weights_after_loading(layer)

    def run() -> Outputs:
        return (kernel.apply_weights(layer, x),)

    return Launch(run, {"source": "vLLM MarlinMxFp4LinearKernel"})


def unsupported_marlin(case: Case, device: Device) -> str | None:
    """16-bit activations only; the rest in the words of MarlinMxFp4LinearKernel."""
    if case.layer.scheme != W4A16 and not is_prequantized(case):
        return f"computes 16-bit activations, {case.layer.scheme} quantizes them inside; see activations=prequantized"
    reason = unsupported_activations(case) or missing_capability(device, (8, 0)) or missing_vllm()
    if reason is not None:
        return reason
    from vllm.model_executor.kernels.linear.mxfp4.base import MxFp4LinearLayerConfig
    from vllm.model_executor.kernels.linear.mxfp4.marlin import MarlinMxFp4LinearKernel

    for supported, why in (
        MarlinMxFp4LinearKernel.is_supported(),
        MarlinMxFp4LinearKernel.can_implement(MxFp4LinearLayerConfig()),
    ):
        if not supported:
            return f"vLLM's MarlinMxFp4LinearKernel: {why}"
    return None


def qutlass_scales(scales: torch.Tensor) -> torch.Tensor:
    """e8m0 scales [rows, k / 32] in the blocked order that Blackwell's tensor cores read."""
    from vllm.model_executor.layers.quantization.qutlass_utils import to_blocked

    blocked: torch.Tensor = to_blocked(scales.view(torch.float8_e8m0fnu), backend="triton")
    return blocked.view(torch.float8_e8m0fnu)


def prepare_qutlass(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """vLLM's matmul_mxf4_bf16_tn on codes as they are and scales reordered once, as its benchmark's row "noquant"."""
    from vllm._custom_ops import matmul_mxf4_bf16_tn

    x, w = inputs["x_codes"], weights["w"]
    x_scale, w_scale = qutlass_scales(inputs["x_scale"]), qutlass_scales(weights["w_scale"])
    alpha = torch.ones(1, device=x.device)

    def run() -> Outputs:
        return (matmul_mxf4_bf16_tn(x, w, x_scale, w_scale, alpha),)

    return Launch(run, {"source": "vLLM matmul_mxf4_bf16_tn"})


def unsupported_qutlass(case: Case, device: Device) -> str | None:
    """Bfloat16 and aligned rows on Blackwell; activations prequantized, since its own quantization is another function.

    fusedQuantizeMx(method="abs_max") rounds 3 x / 2 ** floor(log2(max|x|)) and leaves the 3 in the codes; MXFP4, and so
    the reference, rounds 4 x / 2 ** floor(log2(max|x|)): the nearest codes differ throughout.
    """
    reason = unsupported_activations(case) or unsupported_qutlass_case(case)
    return reason or missing_family(device, 10, 12) or missing_vllm() or missing_qutlass()


def unsupported_qutlass_case(case: Case) -> str | None:
    """What of the case QuTLASS does not compute."""
    sizes, scheme = case.layer.sizes, case.layer.scheme
    if scheme not in HADAMARD_SIZES:
        return f"multiplies MXFP4 activations, {scheme} leaves them in 16 bits"
    if not is_prequantized(case):
        return "rounds activations to 3 x / 2**floor(log2(max|x|)), not to MXFP4; see activations=prequantized"
    if case.layer.dtype != "bfloat16":
        return f"its output is bfloat16 (this is {case.layer.dtype})"
    for name, multiple in (("k", QUTLASS_K), ("n", QUTLASS_N)):
        if sizes[name] % multiple:
            return f"needs {name} to be a multiple of {multiple} (this is {sizes[name]})"
    return None


def missing_qutlass() -> str | None:
    """Why the installed vLLM has no QuTLASS: it is built for some architectures only."""
    importlib.import_module("vllm._custom_ops")  # loads the extensions there are
    extension: Any = torch.ops._qutlass_C
    if hasattr(extension, "matmul_mxf4_bf16_tn"):
        return None
    return "needs matmul_mxf4_bf16_tn, which this build of vllm lacks (torch.ops._qutlass_C)"


VLLM_PROVIDERS = {
    "vllm-marlin": Provider(prepare_marlin, unsupported_marlin),
    "vllm-qutlass": Provider(prepare_qutlass, unsupported_qutlass),
}
