"""What vLLM calls the schemes of fused_moe: names in files, block shapes, quantization configs and keys.

Source: vLLM, fused_moe/config.py (the functions that build a FusedMoEQuantConfig, _get_config_dtype_str) and
quantization/utils/quant_utils.py (QuantKey).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kernels.spec import Tensors


@dataclass(frozen=True, slots=True)
class VllmScheme:
    """One scheme in vLLM's words."""

    least_capability: tuple[int, int]
    """Of its Triton kernel: FP8 tensor cores came with sm_89, bfloat16 with sm_80."""
    config_dtype: str | None
    """The dtype in the names of tuned configurations; None for none, as 16-bit and INT8 x INT8 have."""
    block_shape: tuple[int, int] | None
    """Weights per scale, [rows, columns]; vLLM writes a group along the columns of one row as [0, group]."""
    quant_config: str | None
    """The function that builds its FusedMoEQuantConfig; None for FUSED_MOE_UNQUANTIZED_CONFIG."""
    keys: tuple[str | None, str | None]
    """Names of its QuantKeys, weights and activations."""
    flags: Mapping[str, bool] = field(default_factory=dict)
    """Arguments of quant_config besides the scales and block_shape."""


PER_TOKEN = {"per_act_token_quant": True}

VLLM_SCHEMES = {
    "unquantized": VllmScheme((8, 0), None, None, None, (None, None)),
    "fp8_w8a8": VllmScheme(
        (8, 9), "fp8_w8a8", None, "fp8_w8a8_moe_quant_config", ("kFp8StaticTensorSym", "kFp8StaticTensorSym")
    ),
    "fp8_w8a8_block128": VllmScheme(
        (8, 9), "fp8_w8a8", (128, 128), "fp8_w8a8_moe_quant_config", ("kFp8Static128BlockSym", "kFp8Dynamic128Sym")
    ),
    "fp8_w8a8_channel": VllmScheme(
        (8, 9),
        "fp8_w8a8",
        None,
        "fp8_w8a8_moe_quant_config",
        ("kFp8StaticChannelSym", "kFp8DynamicTokenSym"),
        {**PER_TOKEN, "per_out_ch_quant": True},
    ),
    "int8_w8a16": VllmScheme((8, 0), "int8_w8a16", None, "int8_w8a16_moe_quant_config", ("kInt8Static", None)),
    "int8_w8a16_group128": VllmScheme(
        (8, 0), "int8_w8a16", (0, 128), "int8_w8a16_moe_quant_config", ("kInt8Static", None)
    ),
    "int8_w8a8": VllmScheme(
        (8, 0),
        None,
        None,
        "int8_w8a8_moe_quant_config",
        ("kInt8StaticChannelSym", "kInt8DynamicTokenSym"),
        PER_TOKEN,
    ),
}
"""By our name of the scheme."""


def block_shape_of(scheme: str) -> list[int] | None:
    """The scheme's block shape as vLLM passes it around: a list, or None."""
    shape = VLLM_SCHEMES[scheme].block_shape
    return list(shape) if shape else None


def quant_config_arguments(scheme: str, weights: Tensors) -> dict[str, Any]:
    """What the scheme's quant_config is called with: scales of weights, static ones of activations, flags, blocks."""
    vllm = VLLM_SCHEMES[scheme]
    arguments: dict[str, Any] = {name: weights[name] for name in ("w1_scale", "w2_scale")}
    if vllm.quant_config != "int8_w8a16_moe_quant_config":  # its activations are not quantized
        arguments |= {name: weights.get(name) for name in ("a1_scale", "a2_scale")}
    if vllm.block_shape:
        arguments["block_shape"] = block_shape_of(scheme)
    return arguments | dict(vllm.flags)


def make_quant_config(scheme: str, weights: Tensors) -> Any:
    """vLLM's FusedMoEQuantConfig of the scheme's weights."""
    from vllm.model_executor.layers.fused_moe import config

    name = VLLM_SCHEMES[scheme].quant_config
    if name is None:
        return config.FUSED_MOE_UNQUANTIZED_CONFIG
    return getattr(config, name)(**quant_config_arguments(scheme, weights))


def quant_keys(scheme: str) -> tuple[Any, Any]:
    """vLLM's QuantKeys of the scheme's weights and activations."""
    from vllm.model_executor.layers.quantization.utils import quant_utils

    weight, activation = (getattr(quant_utils, name) if name else None for name in VLLM_SCHEMES[scheme].keys)
    return weight, activation
