"""The sum over top_k of the rows that the experts computed, in Triton."""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import torch
import triton
import triton.language as tl

from kernels.moe.routing import Routing, is_computed


@triton.jit
def moe_sum_kernel(
    x_ptr,
    weights_ptr,  # [num_pairs], multiply rows; or None
    ids_ptr,
    expert_map_ptr,  # None if every pair was computed
    out_ptr,
    K,
    top_k: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
):
    """out[token] = sum of weight[token, choice] * x[token, choice, split], float32 and always in the same order."""
    token = tl.program_id(0).to(tl.int64)
    offs_k = tl.program_id(1) * BLOCK_SIZE_K + tl.arange(0, BLOCK_SIZE_K)
    x_ptrs = x_ptr + token * top_k * SPLIT * K + offs_k
    total = tl.zeros((BLOCK_SIZE_K,), dtype=tl.float32)
    for choice in tl.static_range(top_k):
        mask = offs_k < K
        pair = token * top_k + choice
        if expert_map_ptr is not None:
            mask = mask & is_computed(pair, pair >= 0, ids_ptr, expert_map_ptr, None, None)
        for split in tl.static_range(SPLIT):
            x = tl.load(x_ptrs + (choice * SPLIT + split) * K, mask=mask, other=0.0).to(tl.float32)
            if weights_ptr is not None:
                x = tl.where(mask, x * tl.load(weights_ptr + pair), 0.0)
            total += x
    tl.store(out_ptr + token * K + offs_k, total.to(out_ptr.dtype.element_ty), mask=offs_k < K)


def sum_over_choices(
    by_row: torch.Tensor,
    routing: Routing,
    dtype: torch.dtype,
    split: int = 1,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """The sum [M, K] in dtype of each token's rows that this rank computed; by_row itself where there is but one.

    Rows of the batched format are neither weighted nor summed.

    Args:
        by_row: [num_rows, split, K], in dtype if split is 1: rows whose sums were split have several.
        weights: [num_rows] float32, multiply rows; None if they are weighted already, or not at all.
    """
    if (
        split == 1
        and weights is None
        and (routing.topk_ids is None or (routing.top_k == 1 and routing.expert_map is None))
    ):
        return by_row
    k = by_row.shape[-1]
    total = torch.empty(routing.num_rows // routing.top_k, k, dtype=dtype, device=by_row.device)
    moe_sum_kernel[(len(total), triton.cdiv(k, 1024))](
        by_row, weights, *routing.computed[:2], total, k, routing.top_k, split, BLOCK_SIZE_K=1024
    )
    return total
