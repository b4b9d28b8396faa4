"""What every MoE kernel is run on: hidden states, a routing, and where the experts are.

Standard activation format: hidden_states [M, K]; topk_ids and topk_weights [M, top_k] over all experts of the layer.
Under expert parallelism (ep_size > 1) this rank is the first: expert_map [E * ep_size] int32 gives the local number of
its experts and -1 for experts of other ranks, whose pairs contribute nothing here.

Batched activation format: what a rank holds after the tokens were dispatched. Expert e has expert_num_tokens[e] valid
rows of hidden_states [E, T, K] from the same routing, T = M rounded up to whole tiles; the result is per row, neither
weighted nor summed, which is the finalizing step's work. The padding is never compared.
Source: vLLM, fused_moe/modular_kernel.py (FusedMoEActivationFormat) and determine_expert_map.
"""

import torch

from kernels.spec import Case, Layer, Outputs, Tensors

MOE_SIZES = ("num_experts", "top_k", "hidden_size", "intermediate_size")
"""Sizes of a MoE layer as one rank has them: E is the rank's own experts."""

MOE_OPTIONS = {
    "activation_format": ("standard", "batched"),
    "apply_router_weight_on_input": ("false", "true"),
}
"""vLLM's names. With apply_router_weight_on_input a token is weighted before its experts, not after."""

BATCHED_TILE_ROWS = 128
"""T is a multiple of it, as DeepGEMM's masked GEMM needs: with T below 64 its results were wrong on an H200."""


def is_batched(case: Case) -> bool:
    """Whether the activations come grouped by expert."""
    return case.options.get("activation_format") == "batched"


def weights_input(case: Case) -> bool:
    """Whether the router's weight multiplies the experts' input instead of their output."""
    return case.options.get("apply_router_weight_on_input") == "true"


def moe_sizes(layer: Layer) -> tuple[int, int, int, int]:
    """E (of this rank), top_k, K, N."""
    sizes = layer.sizes
    return sizes["num_experts"], sizes["top_k"], sizes["hidden_size"], sizes["intermediate_size"]


def count_moe_weights(layer: Layer) -> int:
    """Weights of w1 [E, 2 N, K] and w2 [E, K, N]."""
    num_experts, _, k, n = moe_sizes(layer)
    return 3 * num_experts * n * k


def make_moe_inputs(case: Case, seed: int, device: torch.device) -> Tensors:
    """Draw hidden states and gating logits ~ N(0, 1); route by a softmax renormalized over the top_k.

    Weights that multiply the input are the sigmoid of their logits instead.

    Returns:
        standard: hidden_states [M, K], topk_weights [M, top_k] float32, topk_ids [M, top_k] int32, and under expert
        parallelism expert_map [E * ep_size] int32; batched: hidden_states [E, T, K], expert_num_tokens [E] int32.
    """
    num_experts, top_k, k, _ = moe_sizes(case.layer)
    global_num_experts = num_experts * case.layer.ep_size
    generator = torch.Generator(device).manual_seed(seed)
    hidden_states = torch.randn(case.num_tokens, k, generator=generator, device=device)
    logits = torch.randn(case.num_tokens, global_num_experts, generator=generator, device=device)
    topk_weights, topk_ids = logits.softmax(dim=-1).topk(top_k, dim=-1)
    hidden_states = hidden_states.to(getattr(torch, case.layer.dtype))
    if is_batched(case):
        return dispatch_tokens(hidden_states, topk_ids, num_experts)
    if weights_input(case):  # as Llama 4 does: renormalized, the weight of a single expert would always be 1
        topk_weights = logits.gather(-1, topk_ids).sigmoid()
    else:
        topk_weights = topk_weights / topk_weights.sum(dim=-1, keepdim=True)
    inputs = {
        "hidden_states": hidden_states,
        "topk_weights": topk_weights,
        "topk_ids": topk_ids.to(torch.int32),
    }
    if case.layer.ep_size > 1:
        expert_map = torch.full((global_num_experts,), -1, dtype=torch.int32, device=device)
        expert_map[:num_experts] = torch.arange(num_experts, dtype=torch.int32, device=device)
        inputs["expert_map"] = expert_map
    return inputs


def dispatch_tokens(hidden_states: torch.Tensor, topk_ids: torch.Tensor, num_experts: int) -> Tensors:
    """The batched format of hidden_states [M, K] for the first num_experts experts; the padding is zero."""
    num_tokens, k = hidden_states.shape
    num_rows = -(-num_tokens // BATCHED_TILE_ROWS) * BATCHED_TILE_ROWS
    batched = torch.zeros(num_experts, num_rows, k, dtype=hidden_states.dtype, device=hidden_states.device)
    expert_num_tokens = torch.zeros(num_experts, dtype=torch.int32, device=hidden_states.device)
    for expert in range(num_experts):
        tokens = (topk_ids == expert).any(dim=-1).nonzero().flatten()
        batched[expert, : len(tokens)] = hidden_states[tokens]
        expert_num_tokens[expert] = len(tokens)
    return {"hidden_states": batched, "expert_num_tokens": expert_num_tokens}


def local_expert_ids(inputs: Tensors) -> torch.Tensor:
    """Number of each pair's expert on this rank, -1 where another rank has it; [M, top_k] int32."""
    topk_ids = inputs["topk_ids"]
    return inputs["expert_map"][topk_ids.long()] if "expert_map" in inputs else topk_ids


def rows_per_expert(case: Case, inputs: Tensors) -> torch.Tensor:
    """Rows that each expert of this rank computes, [E] int64; asks the device, so never while timing."""
    if is_batched(case):
        return inputs["expert_num_tokens"].long()
    ids = local_expert_ids(inputs).flatten().long()
    return torch.bincount(ids[ids >= 0], minlength=case.layer.sizes["num_experts"])


def decode_moe(case: Case, inputs: Tensors, outputs: Outputs) -> torch.Tensor:
    """What is compared: the output [M, K] as it is; of a batched one only the valid rows, expert after expert."""
    output = outputs[0].float()
    if not is_batched(case):
        return output
    counts = inputs["expert_num_tokens"].tolist()
    return torch.cat([rows[:count] for rows, count in zip(output, counts, strict=True)])


def moe_flops(case: Case, inputs: Tensors) -> int:
    """Of the two GEMMs, for the rows that are routed to this rank."""
    _, _, k, n = moe_sizes(case.layer)
    return 2 * int(rows_per_expert(case, inputs).sum()) * (2 * n * k + n * k)


def moe_bytes(case: Case, inputs: Tensors, bytes_per_expert: int) -> int:
    """Weights of the experts that are routed to, activations in and out, the routing.

    Args:
        bytes_per_expert: codes and scales of one expert's w1 and w2.
    """
    counts = rows_per_expert(case, inputs)
    experts = int((counts > 0).sum()) * bytes_per_expert
    if is_batched(case):
        row_bytes = inputs["hidden_states"].shape[-1] * inputs["hidden_states"].element_size()
        return experts + 2 * int(counts.sum()) * row_bytes + inputs["expert_num_tokens"].nbytes
    routing = sum(tensor.nbytes for name, tensor in inputs.items() if name != "hidden_states")
    return experts + 2 * inputs["hidden_states"].nbytes + routing
