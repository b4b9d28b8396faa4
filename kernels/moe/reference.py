"""The formula of every MoE kernel, once: expert by expert in float32 plain torch, and with two grouped 16-bit GEMMs.

    h[t, e] = silu(x[t] @ w1[e, :N].T) * (x[t] @ w1[e, N:].T)
    out[t]  = sum over the top_k experts e of t that this rank has: topk_weight[t, e] * (h[t, e] @ w2[e].T)

A scheme differs in how it rounds x and h and in what its weights' codes stand for: it hands that in.
Source: vLLM, fused_moe.py.
"""

from collections.abc import Callable

import torch
from torch.nn.functional import grouped_mm, silu

from kernels.moe.inputs import is_batched, local_expert_ids, weights_input
from kernels.requirements import missing_family
from kernels.spec import Case, Device, Launch, Tensors

ExpertLinear = Callable[[str, int, torch.Tensor], torch.Tensor]
"""("w1" or "w2", expert, rows [m, in] float32) -> rows @ weight.T [m, out] float32; rounds rows as the scheme does."""

RoundRows = Callable[[str, torch.Tensor], torch.Tensor]
"""("w1" or "w2", rows [..., in]) -> the values that the scheme's activations keep of the rows that meet that weight."""


def moe_reference(case: Case, inputs: Tensors, linear: ExpertLinear) -> torch.Tensor:
    """The formula of this file in float32; the intermediate stays float32 until the scheme rounds it.

    Returns:
        standard: [M, K] float32; batched: [sum(expert_num_tokens), K] float32, the experts' rows one after another.
    """
    if is_batched(case):
        counts = inputs["expert_num_tokens"].tolist()
        experts = enumerate(zip(inputs["hidden_states"], counts, strict=True))
        return torch.cat([expert_mlp(linear, expert, x[:count].float()) for expert, (x, count) in experts])
    hidden_states, topk_weights = inputs["hidden_states"].float(), inputs["topk_weights"]
    ids = local_expert_ids(inputs)
    output = torch.zeros_like(hidden_states)
    for expert in ids[ids >= 0].unique().tolist():
        token, choice = (ids == expert).nonzero(as_tuple=True)
        weight = topk_weights[token, choice, None]
        if weights_input(case):
            output.index_add_(0, token, expert_mlp(linear, expert, hidden_states[token] * weight))
        else:
            output.index_add_(0, token, expert_mlp(linear, expert, hidden_states[token]) * weight)
    return output


def expert_mlp(linear: ExpertLinear, expert: int, x: torch.Tensor) -> torch.Tensor:
    """One expert on its rows [m, K] float32: [m, K] float32."""
    gate, up = linear("w1", expert, x).chunk(2, dim=-1)
    return linear("w2", expert, silu(gate) * up)


def launch_torch_moe(case: Case, inputs: Tensors, w1: torch.Tensor, w2: torch.Tensor, round_rows: RoundRows) -> Launch:
    """The formula of this file with dequantized weights, on the device alone: the baseline of every MoE kernel.

    Args:
        w1, w2: [E, 2 N, K] and [E, K, N], bfloat16 or float16: what the codes stand for.
        round_rows: rounds activations as the scheme does.
    """
    if is_batched(case):
        return Launch(lambda: (batched_torch_moe(inputs, w1, w2, round_rows),), {"gemm": f"torch bmm {w1.dtype}"})
    on_input = weights_input(case)
    return Launch(
        lambda: (standard_torch_moe(inputs, w1, w2, round_rows, on_input),), {"gemm": f"torch grouped_mm {w1.dtype}"}
    )


def batched_torch_moe(inputs: Tensors, w1: torch.Tensor, w2: torch.Tensor, round_rows: RoundRows) -> torch.Tensor:
    """All T rows of every expert, since the number of valid ones is on the device; [E, T, K]."""
    hidden_states = inputs["hidden_states"]
    gate_up = round_rows("w1", hidden_states).to(w1.dtype) @ w1.transpose(-2, -1)
    gate, up = gate_up.float().chunk(2, dim=-1)
    h = round_rows("w2", silu(gate) * up).to(w2.dtype)
    return (h @ w2.transpose(-2, -1)).to(hidden_states.dtype)


def standard_torch_moe(
    inputs: Tensors, w1: torch.Tensor, w2: torch.Tensor, round_rows: RoundRows, on_input: bool
) -> torch.Tensor:
    """Sorted by expert, two grouped GEMMs; pairs of other ranks' experts are sorted last and count nothing. [M, K]."""
    hidden_states, topk_ids = inputs["hidden_states"], inputs["topk_ids"]
    (num_tokens, top_k), num_experts = topk_ids.shape, w1.shape[0]
    ids = local_expert_ids(inputs).flatten()
    sorted_ids, order = torch.where(ids < 0, num_experts, ids).sort()
    experts = torch.arange(num_experts, dtype=torch.int32, device=w1.device)
    ends = torch.searchsorted(sorted_ids, experts, right=True, out_int32=True)
    weight = inputs["topk_weights"].flatten()[order, None]
    rows = hidden_states[order // top_k]
    rows = round_rows("w1", rows.float() * weight if on_input else rows).to(w1.dtype)
    gate, up = grouped_mm(rows, w1.transpose(-2, -1), offs=ends).float().chunk(2, dim=-1)
    h = round_rows("w2", silu(gate) * up).to(w2.dtype)
    down = grouped_mm(h, w2.transpose(-2, -1), offs=ends).float()
    down = torch.where((sorted_ids < num_experts)[:, None], down if on_input else down * weight, 0.0)
    by_pair = torch.empty_like(down)
    by_pair[order] = down
    return by_pair.view(num_tokens, top_k, -1).sum(dim=1).to(hidden_states.dtype)


def unsupported_torch_moe(case: Case, device: Device) -> str | None:
    """grouped_mm wants rows of a multiple of 16 bytes; before sm_90 it copies the experts' sizes to the host."""
    for name in ("hidden_size", "intermediate_size"):
        if case.layer.sizes[name] % 8:
            return f"needs {name} divisible by 8 (this is {case.layer.sizes[name]})"
    if device.type == "cuda" and not is_batched(case):
        return missing_family(device, 9, 10, because="where torch's grouped_mm does not ask the host")
    return None
