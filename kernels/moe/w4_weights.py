"""What the 4-bit MoE kernels share in plain torch: drawing and quantizing weights, the reference, the torch provider.

A format says what an expert's codes stand for as values and a factor. Values are codes times the scales of their group:
they fit into TF32's 10 bits of mantissa, so their products are exact whether or not TF32 is switched on. The factor
multiplies whole sums: one per output channel, one for all, or 1.
"""

from collections.abc import Callable

import torch

from kernels.errors import ShapeError
from kernels.moe.inputs import moe_sizes
from kernels.moe.reference import launch_torch_moe, moe_reference
from kernels.spec import Case, Launch, Layer, Tensors

Factor = torch.Tensor | float
QuantizeExpert = Callable[[torch.Tensor], Tensors]
"""Values [n, k] float32 of one expert's matrix -> its tensors, by what is added to the matrix's name ("" for codes)."""

ExpertValues = Callable[[str, int], tuple[torch.Tensor, Factor]]
"""("w1" or "w2", expert) -> values [n, k] float32 and their factor, [n] or one."""

RoundActivations = Callable[[str, torch.Tensor], tuple[torch.Tensor, Factor]]
"""("w1" or "w2", rows [..., k] that meet that weight) -> values [..., k] float32 and their factor, [..., 1] or one."""


def check_groups(layer: Layer, group_size: int) -> None:
    """Refuse a layer whose matrices do not divide into the format's groups."""
    for name in ("hidden_size", "intermediate_size"):
        if layer.sizes[name] % group_size:
            raise ShapeError(
                f"{name} {layer.sizes[name]} per rank is not a multiple of {group_size}, which {layer.scheme} needs: "
                "use a smaller tp_size"
            )


def draw_weights(layer: Layer, seed: int, device: torch.device, quantize: QuantizeExpert) -> Tensors:
    """Draw w1 [E, 2 N, K] (gate rows, then up) and w2 [E, K, N] ~ N(0, 1 / fan_in) expert by expert; quantize them."""
    num_experts, _, k, n = moe_sizes(layer)
    generator = torch.Generator(device).manual_seed(seed)
    weights: Tensors = {}
    for expert in range(num_experts):
        for name, rows, columns in (("w1", 2 * n, k), ("w2", k, n)):
            values = torch.randn(rows, columns, generator=generator, device=device) * columns**-0.5
            for suffix, tensor in quantize(values).items():
                if expert == 0:
                    weights[name + suffix] = torch.empty(num_experts, *tensor.shape, dtype=tensor.dtype, device=device)
                weights[name + suffix][expert] = tensor
    return weights


def w4_reference(
    case: Case, inputs: Tensors, expert_values: ExpertValues, round_activations: RoundActivations
) -> torch.Tensor:
    """The formula of moe_reference with the format's values, factors after the sums."""

    def linear(name: str, expert: int, x: torch.Tensor) -> torch.Tensor:
        a, a_factor = round_activations(name, x)
        w, w_factor = expert_values(name, expert)
        return (a @ w.T) * a_factor * w_factor

    return moe_reference(case, inputs, linear)


def launch_torch_w4(
    case: Case, weights: Tensors, inputs: Tensors, expert_values: ExpertValues, round_activations: RoundActivations
) -> Launch:
    """Dequantize the weights once: it costs four times their bytes, and the GEMMs read bfloat16."""

    def dequantize(name: str) -> torch.Tensor:
        num_experts, n, packed = weights[name].shape
        dense = torch.empty(num_experts, n, 2 * packed, dtype=torch.bfloat16, device=weights[name].device)
        for expert in range(num_experts):
            values, factor = expert_values(name, expert)
            dense[expert] = values * (factor[:, None] if isinstance(factor, torch.Tensor) and factor.dim() else factor)
        return dense

    def round_rows(name: str, x: torch.Tensor) -> torch.Tensor:
        values, factor = round_activations(name, x)
        return values * factor

    return launch_torch_moe(case, inputs, dequantize("w1"), dequantize("w2"), round_rows)
