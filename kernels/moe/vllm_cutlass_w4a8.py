"""vLLM's CUTLASS grouped GEMM of INT4 weights and FP8 activations on Hopper's FP8 tensor cores.

vllm is imported inside the functions that run it. A group's scale becomes a table of its products with -8 to -1 in
e4m3: what is multiplied is round_to_e4m3(code * group scale). It does not saturate, since quantize_int4_fp8's group
scales are at most 56.
"""

import inspect
from functools import partial, update_wrapper

import torch

from kernels.moe.inputs import weights_input
from kernels.moe.vllm_layer import launch_experts, unsupported_experts, unsupported_weighting, wrong_format
from kernels.requirements import missing_family, missing_vllm
from kernels.spec import Case, Device, Launch, Tensors

GROUP_SIZE = 128
SIZE_MULTIPLE = 256


def prepare_w4a8_cutlass(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """CutlassExpertsW4A8Fp8: codes encoded and reordered for the tensor cores, scales as tables of products."""
    from vllm import _custom_ops as ops
    from vllm.model_executor.layers.fused_moe.config import int4_w4afp8_moe_quant_config
    from vllm.model_executor.layers.fused_moe.experts.cutlass_moe import CutlassExpertsW4A8Fp8

    torch.cuda.synchronize(inputs["hidden_states"].device)  # vLLM does so before it reorders
    codes, strides, group_scales = [], [], []
    for name in ("w1", "w2"):
        reordered, layout = ops.cutlass_encode_and_reorder_int4b_grouped(weights[name].view(torch.int32))
        codes.append(reordered)
        strides.append(layout)
        group_scales.append(ops.cutlass_pack_scale_fp8(weights[f"{name}_group_scale"].transpose(1, 2).contiguous()))
    quant_config = int4_w4afp8_moe_quant_config(
        w1_scale=group_scales[0],
        w2_scale=group_scales[1],
        g1_alphas=weights["w1_channel_scale"][..., None].contiguous(),
        g2_alphas=weights["w2_channel_scale"][..., None].contiguous(),
        per_act_token_quant=True,
        per_out_ch_quant=True,
    )
    experts = partial(CutlassExpertsW4A8Fp8, b_strides1=strides[0], b_strides2=strides[1], group_size=GROUP_SIZE)
    update_wrapper(experts, CutlassExpertsW4A8Fp8, updated=())
    return launch_experts(case, inputs, experts, quant_config, codes[0], codes[1])


def unsupported_before_vllm(case: Case, device: Device) -> str | None:
    """What needs no vLLM import to be said; CUTLASS's reordering asks for multiples of 256."""
    reason = missing_family(device, 9, because="which the kernel is built for")
    reason = reason or wrong_format(case, batched=False) or unsupported_weighting(case)
    for name in ("hidden_size", "intermediate_size"):
        if reason is None and case.layer.sizes[name] % SIZE_MULTIPLE:
            reason = f"needs {name} divisible by {SIZE_MULTIPLE} (this is {case.layer.sizes[name]})"
    return reason or missing_vllm()


def unsupported_w4a8_cutlass(case: Case, device: Device) -> str | None:
    """As above, then in vLLM's own words, from CutlassExpertsW4A8Fp8.is_supported_config; it must not weight twice."""
    reason = unsupported_before_vllm(case, device)
    if reason is not None:
        return reason
    from vllm.model_executor.layers.fused_moe.experts import cutlass_moe
    from vllm.model_executor.layers.quantization.utils.quant_utils import kFp8DynamicTokenSym, kInt4Static

    flag = "apply_router_weight_on_input"
    if weights_input(case) and flag not in inspect.signature(cutlass_moe.run_cutlass_moe_w4a8_fp8).parameters:
        return f"vLLM's CutlassExpertsW4A8Fp8 ignores {flag}: it would weight the output too"
    return unsupported_experts(case, device, cutlass_moe.CutlassExpertsW4A8Fp8, kInt4Static, kFp8DynamicTokenSym)
