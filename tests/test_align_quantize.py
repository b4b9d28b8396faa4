"""One launch does what two did: blocks and codes are those of the kernels on their own, bit by bit."""

import pytest
import torch

from kernels.errors import ShapeError
from kernels.moe.activations import quantize_triton
from kernels.moe.align import align_blocks_triton
from kernels.moe.align_quantize import align_and_quantize
from kernels.moe.routing import Routing
from kernels.moe.schemes import MOE_SCHEMES

E, K = 16, 384
SCHEME = MOE_SCHEMES["fp8_w8a8_block128"]


def routing_of(num_tokens: int, top_k: int, ep_size: int) -> Routing:
    topk_ids = torch.rand(num_tokens, E * ep_size).topk(top_k).indices.int()
    expert_map = None
    if ep_size > 1:
        expert_map = torch.full((E * ep_size,), -1, dtype=torch.int32)
        expert_map[E:] = torch.arange(E, dtype=torch.int32)
    return Routing(topk_ids.numel(), top_k, topk_ids, torch.rand(num_tokens, top_k), expert_map)


@pytest.mark.parametrize("weight_rows", [False, True], ids=["tokens", "weighted pairs"])
@pytest.mark.parametrize(
    ("num_tokens", "top_k", "ep_size"), [(1, 1, 1), (5, 2, 1), (700, 4, 1), (300, 8, 2)], ids=lambda size: str(size)
)
def test_blocks_and_codes_are_those_of_two_launches(num_tokens: int, top_k: int, ep_size: int, weight_rows: bool):
    routing, x = routing_of(num_tokens, top_k, ep_size), torch.randn(num_tokens, K).bfloat16()
    blocks, codes, scales = align_and_quantize(routing, E, 128, x, weight_rows=weight_rows)
    assert routing.topk_ids is not None and blocks.num_blocks is not None
    alone = align_blocks_triton(routing.topk_ids, E, 128, routing.expert_map)
    assert alone.num_blocks is not None and torch.equal(blocks.num_blocks, alone.num_blocks)
    assert torch.equal(blocks.rows, alone.rows)
    for block in range(int(blocks.num_blocks)):
        assert blocks.experts[block] == alone.experts[block]
        mine, other = (b.pairs[block * 128 :][: b.rows[block]].sort().values for b in (blocks, alone))
        assert torch.equal(mine, other)
    codes_alone, scales_alone = quantize_triton(SCHEME, x, None, routing, weight_rows)
    here = torch.ones(len(codes), dtype=torch.bool)
    if weight_rows and routing.expert_map is not None:
        here = (routing.expert_map[routing.topk_ids.long()] >= 0).flatten()
    assert torch.equal(codes[here].view(torch.uint8), codes_alone[here].view(torch.uint8))
    assert torch.equal(scales[here], scales_alone[here])


def test_batched_rows_are_refused():
    batched = Routing(E * 128, 1, expert_num_tokens=torch.ones(E, dtype=torch.int32), rows_per_expert=128)
    with pytest.raises(ShapeError, match="batched rows are aligned already"):
        align_and_quantize(batched, E, 128, torch.zeros(E * 128, K).bfloat16())
