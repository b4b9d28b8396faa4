"""Which rows the experts of this rank compute, and in what blocks, of both activation formats.

Rows are tokens, pairs (token * top_k + choice), or in the batched format e * T + i. Those that this rank does not
compute are neither read nor written: pairs of other ranks' experts, the padding of the batched format.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.moe.align import Blocks, align_blocks_triton
from kernels.spec import Tensors


@dataclass(frozen=True, slots=True)
class Routing:
    """Which rows the experts of this rank compute."""

    num_rows: int
    """Pairs, or E * T in the batched format."""
    top_k: int
    """Rows per row of hidden_states; 1 in the batched format, where each row has an expert of its own."""
    topk_ids: torch.Tensor | None = None
    """[M, top_k] int32; None in the batched format."""
    topk_weights: torch.Tensor | None = None
    """[M, top_k] float32; None in the batched format, which is neither weighted nor summed."""
    expert_map: torch.Tensor | None = None
    """This rank's number of each expert, -1 for other ranks'; None if it has them all."""
    expert_num_tokens: torch.Tensor | None = None
    """[E] int32 in the batched format, else None."""
    rows_per_expert: int | None = None
    """T in the batched format, else None."""

    @property
    def computed(self) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, int | None]:
        """The arguments of is_computed, all None if every row is."""
        ids = None if self.expert_map is None else self.topk_ids
        return ids, self.expert_map, self.expert_num_tokens, self.rows_per_expert


def routing_of(inputs: Tensors) -> Routing:
    """The rows of both activation formats, as the kernels count them."""
    if "expert_num_tokens" in inputs:
        num_experts, rows_per_expert, _ = inputs["hidden_states"].shape
        return Routing(
            num_rows=num_experts * rows_per_expert,
            top_k=1,
            expert_num_tokens=inputs["expert_num_tokens"],
            rows_per_expert=rows_per_expert,
        )
    topk_ids = inputs["topk_ids"]
    return Routing(topk_ids.numel(), topk_ids.shape[1], topk_ids, inputs["topk_weights"], inputs.get("expert_map"))


def find_blocks(
    inputs: Tensors, num_experts: int, block_size_m: int, *, may_be_single: bool = True, ordered: bool = False
) -> Blocks:
    """Blocks of rows of one expert each; num_experts is this rank's. Few pairs are aligned too unless may_be_single."""
    if "expert_num_tokens" in inputs:
        max_blocks = num_experts * triton.cdiv(inputs["hidden_states"].shape[1], block_size_m)
        return Blocks(*(inputs["expert_num_tokens"],) * 3, max_blocks, "batched")
    topk_ids, expert_map = inputs["topk_ids"], inputs.get("expert_map")
    # Few pairs rarely share an expert: each is a block of its own.
    are_few = topk_ids.numel() * 4 <= (num_experts if expert_map is None else expert_map.numel())
    if block_size_m == 1 or (may_be_single and are_few):
        return Blocks(*(topk_ids,) * 3, topk_ids.numel(), "single")
    return align_blocks_triton(topk_ids, num_experts, block_size_m, expert_map, ordered=ordered)


def gemm_arguments(routing: Routing, blocks: Blocks) -> tuple[torch.Tensor | int | None, ...]:
    """Where the rows of a block are; an expert map is looked up by whoever reads topk_ids."""
    expert_map = routing.expert_map if blocks.layout == "single" else None
    return blocks.pairs, blocks.experts, blocks.rows, expert_map, blocks.max_blocks


@triton.jit
def is_computed(row, mask, ids_ptr, expert_map_ptr, expert_num_tokens_ptr, rows_per_expert):
    """Which of the masked rows this rank computes."""
    if expert_num_tokens_ptr is not None:
        count = tl.load(expert_num_tokens_ptr + row // rows_per_expert, mask=mask, other=0)
        mask = mask & (row % rows_per_expert < count)
    elif expert_map_ptr is not None:
        expert = tl.load(ids_ptr + row, mask=mask, other=0)
        mask = mask & (tl.load(expert_map_ptr + expert, mask=mask, other=-1) >= 0)
    return mask
