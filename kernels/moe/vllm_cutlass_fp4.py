"""vLLM's CUTLASS grouped GEMMs on FP4 tensor cores: FP4 weights times activations that it quantizes to FP4 itself.

vllm is imported inside the functions that run it. The order of rows is ours, gate then up. Block scales lie in tiles
of 128 rows x 4 scales, one expert's right after the other's: sizes must fill their tiles.
"""

import torch

from kernels.moe.inputs import weights_input
from kernels.moe.vllm_layer import launch_experts, unsupported_experts, unsupported_weighting, wrong_format
from kernels.requirements import missing_family, missing_vllm
from kernels.spec import Case, Device, Launch, Tensors

FP4_FAMILIES = (10, 11, 12)
"""What vLLM's CutlassExpertsFp4 asks for."""

NVFP4_MULTIPLES = {"hidden_size": 128, "intermediate_size": 64}
MXFP4_MULTIPLES = {"hidden_size": 128, "intermediate_size": 128}
"""w1's 2 N rows and w2's K rows fill tiles of 128; K and N columns fill 4 scales of 16 or 32 columns each."""


def prepare_nvfp4_cutlass(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """CutlassExpertsFp4: static global scales of the activations, one factor per expert after each GEMM."""
    from vllm.model_executor.layers.fused_moe.config import nvfp4_moe_quant_config
    from vllm.model_executor.layers.fused_moe.experts.cutlass_moe import CutlassExpertsFp4
    from vllm.model_executor.layers.quantization.utils.nvfp4_utils import swizzle_blockscale

    # Of activations vLLM takes one global scale per expert.
    a1_gscale, a2_gscale = (
        weights[name].expand(case.layer.sizes["num_experts"]).contiguous()
        for name in ("a1_global_scale", "a2_global_scale")
    )
    quant_config = nvfp4_moe_quant_config(
        g1_alphas=1 / (a1_gscale * weights["w1_global_scale"]),
        g2_alphas=1 / (a2_gscale * weights["w2_global_scale"]),
        a1_gscale=a1_gscale,
        a2_gscale=a2_gscale,
        w1_scale=swizzle_blockscale(weights["w1_scale"]),
        w2_scale=swizzle_blockscale(weights["w2_scale"]),
    )
    return launch_experts(case, inputs, CutlassExpertsFp4, quant_config, weights["w1"], weights["w2"])


def prepare_mxfp4_cutlass(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """CutlassExpertsMxfp4: block scales only."""
    from vllm.model_executor.layers.fused_moe.config import mxfp4_moe_quant_config
    from vllm.model_executor.layers.fused_moe.experts.cutlass_moe import CutlassExpertsMxfp4, swizzle_mxfp4_scales

    def swizzle(scales: torch.Tensor) -> torch.Tensor:
        _, rows, columns = scales.shape
        return torch.stack([swizzle_mxfp4_scales(expert, rows, columns * 32) for expert in scales]).view(scales.shape)

    quant_config = mxfp4_moe_quant_config(swizzle(weights["w1_scale"]), swizzle(weights["w2_scale"]))
    return launch_experts(case, inputs, CutlassExpertsMxfp4, quant_config, weights["w1"], weights["w2"])


def unsupported_cutlass_fp4(case: Case, device: Device, multiples: dict[str, int]) -> str | None:
    """What needs no vLLM import to be said, of both formats."""
    if not case.layer.scheme.endswith("_w4a4"):
        return f"quantizes activations to 4 bits, {case.layer.scheme} keeps 16"
    reason = missing_family(device, *FP4_FAMILIES) or wrong_format(case, batched=False) or unsupported_weighting(case)
    if reason is None and weights_input(case):
        # In 0.26 to 0.32: https://github.com/vllm-project/vllm/pull/43694
        reason = "vLLM weights the input twice, in its prepare step and in these experts"
    for name, multiple in multiples.items():
        if reason is None and case.layer.sizes[name] % multiple:
            reason = f"needs {name} divisible by {multiple} (this is {case.layer.sizes[name]})"
    return reason or missing_vllm()


def unsupported_nvfp4_cutlass(case: Case, device: Device) -> str | None:
    """As above, then in vLLM's own words, from CutlassExpertsFp4.is_supported_config."""
    reason = unsupported_cutlass_fp4(case, device, NVFP4_MULTIPLES)
    if reason is not None:
        return reason
    from vllm.model_executor.layers.fused_moe.experts.cutlass_moe import CutlassExpertsFp4
    from vllm.model_executor.layers.quantization.utils.quant_utils import kNvfp4Dynamic, kNvfp4Static

    return unsupported_experts(case, device, CutlassExpertsFp4, kNvfp4Static, kNvfp4Dynamic)


def unsupported_mxfp4_cutlass(case: Case, device: Device) -> str | None:
    """As above, then in vLLM's own words, from CutlassExpertsMxfp4.is_supported_config."""
    reason = unsupported_cutlass_fp4(case, device, MXFP4_MULTIPLES)
    if reason is not None:
        return reason
    from vllm.model_executor.layers.fused_moe.experts.cutlass_moe import CutlassExpertsMxfp4
    from vllm.model_executor.layers.quantization.utils.quant_utils import kMxfp4Dynamic, kMxfp4Static

    return unsupported_experts(case, device, CutlassExpertsMxfp4, kMxfp4Static, kMxfp4Dynamic)
