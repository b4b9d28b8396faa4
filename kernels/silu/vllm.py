"""vLLM's two implementations of silu_mul_fp8: its CUDA kernel, and the Triton kernel it keeps for other platforms.

vllm is imported inside the functions that run it.
"""

from kernels.quantize.fp8 import AMAX_FLOOR, FP8_MAX
from kernels.requirements import missing_capability, missing_vllm
from kernels.silu.groups import empty_outputs, scheme_of
from kernels.spec import Case, Device, Launch, Outputs, Provider, Tensors

CUDA_GROUP_SIZE = 128
"""The only group size of persistent_masked_m_silu_mul_quant: it asserts it, and the CUDA kernel is compiled for it."""

TRITON_CONFIG = {"num_warps": 1, "num_stages": 4}
"""What vLLM launches its Triton kernel with, where it does."""


def prepare_vllm_cuda(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """vLLM's CUDA kernel persistent_masked_m_silu_mul_quant; its scales are float32, or float32 powers of two."""
    from vllm.model_executor.layers.fused_moe.experts.batched_deep_gemm_moe import persistent_masked_m_silu_mul_quant
    from vllm.utils.deep_gemm import DeepGemmQuantScaleFMT

    y, tokens_per_expert = inputs["y"], inputs["tokens_per_expert"]
    scale_format = DeepGemmQuantScaleFMT.FLOAT32_CEIL_UE8M0 if scheme_of(case).ue8m0 else DeepGemmQuantScaleFMT.FLOAT32

    def run() -> Outputs:
        return tuple(persistent_masked_m_silu_mul_quant(y, tokens_per_expert, quant_scale_fmt=scale_format))

    return Launch(run, {"quant_scale_fmt": scale_format.name})


def prepare_vllm_triton(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """vLLM's Triton kernel, launched as vLLM does where its CUDA kernel is not built: one program per expert and group.

    On NVIDIA GPUs from sm_80 on vLLM itself never launches it; it is the baseline of upstream's benchmark.
    """
    from vllm.model_executor.layers.fused_moe.experts.batched_deep_gemm_moe import _silu_mul_fp8_quant_deep_gemm

    y, tokens_per_expert, scheme = inputs["y"], inputs["tokens_per_expert"], scheme_of(case)
    half = y.shape[2] // 2

    def run() -> Outputs:
        codes, scales = empty_outputs(y, scheme.group_size)
        _silu_mul_fp8_quant_deep_gemm[(y.shape[0] * (half // scheme.group_size),)](
            y,
            codes,
            scales,
            tokens_per_expert,
            half,
            scheme.group_size,
            *y.stride(),
            *codes.stride(),
            *scales.stride(),
            tokens_per_expert.stride(0),
            eps=AMAX_FLOOR,
            fp8_min=-FP8_MAX,
            fp8_max=FP8_MAX,
            ceil_ue8m0=scheme.ue8m0,
            BLOCK=scheme.group_size,
            NUM_STAGES=TRITON_CONFIG["num_stages"],
            num_warps=TRITON_CONFIG["num_warps"],
        )
        return codes, scales

    return Launch(run, {"BLOCK": scheme.group_size, **TRITON_CONFIG})


def unsupported_by_vllm_cuda(case: Case, device: Device) -> str | None:
    """vLLM's own limits: below sm_80 it silently runs its Triton kernel instead, and one size of groups."""
    group_size = scheme_of(case).group_size
    if group_size != CUDA_GROUP_SIZE:
        return f"vLLM's kernel takes groups of {CUDA_GROUP_SIZE} (this is {group_size})"
    return missing_capability(device, (8, 0)) or missing_vllm()


def unsupported_by_vllm_triton(case: Case, device: Device) -> str | None:
    """Triton converts to float8_e4m3fn from sm_89 on; the kernel takes any power of two as its group."""
    return missing_capability(device, (8, 9)) or missing_vllm()


VLLM_PROVIDERS = {
    "vllm-cuda": Provider(prepare_vllm_cuda, unsupported_by_vllm_cuda),
    "vllm-triton": Provider(prepare_vllm_triton, unsupported_by_vllm_triton),
}
