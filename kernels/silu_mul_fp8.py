"""SiLU-and-multiply fused with FP8 quantization, on batched (masked) expert activations.

Between the two GEMMs of a batched MoE every expert e holds tokens_per_expert[e] valid rows out of T. For each valid row

    a = silu(y[:H]) * y[H:];  scale[g] = max(max|a[g]|, 1e-10) / 448;  codes[g] = round_to_e4m3(a[g] / scale[g])

with groups g of 64, 128 or 256 columns; the schemes *_ue8m0 round each scale up to a power of two. Rows past
tokens_per_expert[e] are padding: never written and never compared. The work is bound by memory: 4 bytes in and 1 byte
out per column.

An infinite activation, or one that is NaN, makes its whole group NaN and touches no other.
Source: DeepSeek-V3 technical report (arXiv:2412.19437), section 3.3; vLLM's batched_deep_gemm_moe.py.
"""

import torch
from torch.nn.functional import silu

from kernels.errors import ShapeError
from kernels.quantize.fp8 import dequantize_fp8_group, quantize_fp8_group
from kernels.silu.groups import SCHEMES, GroupScheme, scheme_of
from kernels.silu.triton import prepare_triton, prepare_triton_with, unsupported_by_triton
from kernels.silu.vllm import VLLM_PROVIDERS
from kernels.spec import Case, Device, Kernel, Launch, Layer, Outputs, Provider, Tensors, Tolerance


def quantize_silu_mul(y: torch.Tensor, scheme: GroupScheme) -> tuple[torch.Tensor, torch.Tensor]:
    """The formula of this file on rows [..., 2 * H], in float32 until the codes.

    Returns:
        codes [..., H] float8_e4m3fn; scales [..., H / group_size] float32.
    """
    half = y.shape[-1] // 2
    return quantize_fp8_group(silu(y[..., :half].float()).mul_(y[..., half:]), scheme.group_size, scheme.ue8m0)


def reference(case: Case, weights: Tensors, inputs: Tensors) -> torch.Tensor:
    """silu_mul_fp8_reference of the case."""
    return silu_mul_fp8_reference(inputs["y"], inputs["tokens_per_expert"], scheme_of(case))


def silu_mul_fp8_reference(y: torch.Tensor, tokens_per_expert: torch.Tensor, scheme: GroupScheme) -> torch.Tensor:
    """What the codes and scales of every valid row stand for, in float32; plain torch, one expert at a time.

    Only valid rows exist in the result, and no other float32 tensor is larger than one expert's rows.

    Args:
        y: [E, T, 2 * H] bfloat16.
        tokens_per_expert: [E] int32.
    Returns:
        [sum(tokens_per_expert), H] float32, the experts' rows one after another.
    """
    num_tokens = tokens_per_expert.tolist()
    out = torch.empty(sum(num_tokens), y.shape[2] // 2, dtype=torch.float32, device=y.device)
    for rows, expert, n in zip(out.split(num_tokens), y, num_tokens, strict=True):
        rows.copy_(dequantize_fp8_group(*quantize_silu_mul(expert[:n], scheme)))
    return out


def check_layer(layer: Layer) -> None:
    """Raise ShapeError unless activations are bfloat16 and the intermediate size is whole groups of the scheme."""
    if layer.dtype != "bfloat16":
        raise ShapeError(f"dtype {layer.dtype} of {layer.key}: silu_mul_fp8 takes bfloat16; leave --dtype out")
    intermediate_size, group_size = layer.sizes["intermediate_size"], SCHEMES[layer.scheme].group_size
    if intermediate_size <= 0 or intermediate_size % group_size:
        raise ShapeError(
            f"intermediate_size {intermediate_size} of {layer.key} is not a multiple of {group_size}: "
            "choose a tp_size that leaves whole groups, or a scheme of smaller ones"
        )


def make_weights(layer: Layer, seed: int, device: torch.device) -> Tensors:
    """None: an activation has no weights."""
    return {}


def make_inputs(case: Case, weights: Tensors, seed: int, device: torch.device) -> Tensors:
    """Gaussian y [E, T, 2 * H] bfloat16 and tokens_per_expert [E] int32 by the case's token_strategy."""
    generator = torch.Generator(device=device).manual_seed(seed)
    num_experts = case.layer.sizes["num_experts"]
    tokens_per_expert = draw_token_counts(case, generator)
    columns = 2 * case.layer.sizes["intermediate_size"]
    y = torch.empty(num_experts, case.num_tokens, columns, dtype=torch.bfloat16, device=device)
    for expert in y:
        expert.normal_(generator=generator)
    return {"y": y, "tokens_per_expert": tokens_per_expert}


def draw_token_counts(case: Case, generator: torch.Generator) -> torch.Tensor:
    """tokens_per_expert [E] int32 on the generator's device, by the case's token_strategy.

    uniform draws each count from [0.7 * T, T), max_t is T everywhere, first_t gives expert 0 T tokens and no other any;
    random_imbalanced is draw_imbalanced_counts.
    """
    strategy = case.options.get("token_strategy", "uniform")
    counts = torch.zeros(case.layer.sizes["num_experts"], dtype=torch.int32, device=generator.device)
    if strategy == "uniform":
        least = max(1, int(case.num_tokens * 0.7))
        return counts.random_(least, max(least + 1, case.num_tokens), generator=generator)
    if strategy == "max_t":
        return counts.fill_(case.num_tokens)
    if strategy == "first_t":
        counts[:1] = case.num_tokens
        return counts
    if strategy == "random_imbalanced":
        return draw_imbalanced_counts(counts, case.num_tokens, generator)
    known = ", ".join(KERNEL.options["token_strategy"])
    raise ShapeError(f"token_strategy {strategy!r} of {case.key} is not known: use one of {known}")


def draw_imbalanced_counts(counts: torch.Tensor, max_tokens: int, generator: torch.Generator) -> torch.Tensor:
    """Expert 0 gets mean / 0.7 tokens; the others share what is left of E * mean in random proportions, at most T each.

    The mean is T / 2, the largest that upstream measures (512 of T = 1024).
    Source: vLLM, benchmark_silu_mul_fp8_quant.py, generate_expert_loads.
    """
    mean = max(1, max_tokens // 2)
    first = int(mean / 0.7)
    shares = torch.rand(max(len(counts) - 1, 0), generator=generator, device=generator.device)
    counts[:1] = first
    counts[1:] = (shares / shares.sum() * (mean * len(counts) - first)).round()
    return counts.clamp_(max=max_tokens)


def decode(case: Case, inputs: Tensors, outputs: Outputs) -> torch.Tensor:
    """Dequantize the valid rows, laid out as the reference; the scales may have any strides.

    A NaN makes its group NaN wherever a provider keeps it: in the scale, as the reference does, or in the code alone,
    as ours does, whose maximum (PTX max.f32) is of the numbers. The GEMM that reads the row sums NaN either way.
    """
    codes, scales = outputs
    num_tokens = inputs["tokens_per_expert"].tolist()
    out = torch.empty(sum(num_tokens), codes.shape[2], dtype=torch.float32, device=codes.device)
    for rows, expert_codes, expert_scales, n in zip(out.split(num_tokens), codes, scales, num_tokens, strict=True):
        rows.copy_(dequantize_fp8_group(expert_codes[:n], expert_scales[:n]))
        groups = rows.unflatten(-1, (scales.shape[2], scheme_of(case).group_size))
        groups.masked_fill_(groups.isnan().any(dim=-1, keepdim=True), float("nan"))
    return out


def count_columns(case: Case, inputs: Tensors) -> int:
    """Activations of all valid rows: rows times H."""
    return int(inputs["tokens_per_expert"].sum()) * case.layer.sizes["intermediate_size"]


def flops(case: Case, inputs: Tensors) -> int:
    """Eight operations per activation: negate, exp, add, divide, multiply, abs, max, and the multiply by 1 / scale."""
    return 8 * count_columns(case, inputs)


def bytes_moved(case: Case, inputs: Tensors) -> int:
    """Two bfloat16 in and one float8 out per activation, a float32 scale per group, and the int32 token counts."""
    columns = count_columns(case, inputs)
    return 5 * columns + 4 * columns // scheme_of(case).group_size + 4 * case.layer.sizes["num_experts"]


def prepare_torch(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """Plain torch over all T rows: the number of valid ones is on the device, and asking for it would synchronize."""
    return Launch(lambda: quantize_silu_mul(inputs["y"], scheme_of(case)))


def unsupported_by_torch(case: Case, device: Device) -> str | None:
    """Never: plain torch runs on every device."""
    return None


def tolerance_reason(scheme: GroupScheme) -> str:
    """Where the tolerance comes from; the figures are those of bfloat16 arithmetic on N(0, 1) inputs, see its test."""
    if scheme.ue8m0:
        return (
            "near a rounding boundary a value may land on the next e4m3 code, up to 1/8 away (3-bit mantissa); with "
            "activations in bfloat16, as in vLLM's CUDA kernel, 3 % of them do, 0.013 to 0.024 in norm"
        )
    return (
        "near a rounding boundary a value may land on the next e4m3 code, up to 1/8 away (3-bit mantissa), 0.14 with a "
        "scale in bfloat16; with both in bfloat16, as in vLLM's CUDA kernel, 5 % of them do, 0.013 to 0.024 in norm"
    )


KERNEL = Kernel(
    name="silu_mul_fp8",
    title="SiLU-and-multiply with FP8 quantization (groups of 64, 128 or 256) on batched experts",
    schemes=tuple(SCHEMES),
    size_names=("num_experts", "intermediate_size"),
    make_weights=make_weights,
    make_inputs=make_inputs,
    reference=reference,
    providers={
        "torch": Provider(prepare_torch, unsupported_by_torch),
        "triton": Provider(prepare_triton, unsupported_by_triton, prepare_with=prepare_triton_with),
        **VLLM_PROVIDERS,
    },
    baseline="torch",
    tolerance={
        name: Tolerance(relative_error=0.03, element_error=0.14, share_close=1.0, reason=tolerance_reason(scheme))
        for name, scheme in SCHEMES.items()
    },
    flops=flops,
    bytes_moved=bytes_moved,
    decode=decode,
    check_layer=check_layer,
    options={"token_strategy": ("uniform", "max_t", "first_t", "random_imbalanced")},
)
