"""What every MoE kernel is run on: both activation formats of one routing, both ways to weight, the experts' map."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.moe.inputs import (
    BATCHED_TILE_ROWS,
    decode_moe,
    local_expert_ids,
    make_moe_inputs,
    moe_bytes,
    moe_flops,
    rows_per_expert,
)
from kernels.spec import Case, Layer, Tensors

CPU = torch.device("cpu")
HIDDEN_SIZE = 32
BATCHED = {"activation_format": "batched"}
ON_INPUT = {"apply_router_weight_on_input": "true"}


def case_of(
    num_tokens: int = 9,
    options: dict[str, str] | None = None,
    *,
    num_experts: int = 4,
    top_k: int = 2,
    ep_size: int = 1,
    dtype: str = "bfloat16",
) -> Case:
    sizes = {"num_experts": num_experts, "top_k": top_k, "hidden_size": HIDDEN_SIZE, "intermediate_size": 16}
    return Case(Layer("fused_moe", "grid", 1, ep_size, "unquantized", dtype, sizes), num_tokens, options or {})


def inputs_of(case: Case, seed: int = 2) -> Tensors:
    return make_moe_inputs(case, seed, CPU)


@pytest.mark.parametrize(("num_tokens", "num_rows"), [(1, 128), (127, 128), (128, 128), (129, 256), (301, 384)])
def test_a_batch_has_room_for_every_token_in_whole_tiles(num_tokens: int, num_rows: int):
    assert BATCHED_TILE_ROWS == 128
    inputs = inputs_of(case_of(num_tokens, BATCHED, dtype="float16"))
    assert set(inputs) == {"hidden_states", "expert_num_tokens"}
    assert inputs["hidden_states"].shape == (4, num_rows, HIDDEN_SIZE)
    assert inputs["hidden_states"].dtype == torch.float16
    assert inputs["expert_num_tokens"].dtype == torch.int32
    assert inputs["expert_num_tokens"].max() <= num_tokens


@settings(max_examples=25, deadline=None)
@given(
    num_tokens=st.integers(1, 140),
    num_experts=st.integers(1, 6),
    top_k=st.integers(1, 4),
    ep_size=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_every_pair_of_this_rank_is_one_row_of_its_expert_and_the_padding_is_zero(
    num_tokens: int, num_experts: int, top_k: int, ep_size: int, seed: int
):
    sizes = {"num_experts": num_experts, "top_k": min(top_k, num_experts * ep_size), "ep_size": ep_size}
    standard, batched = (inputs_of(case_of(num_tokens, options, **sizes), seed) for options in ({}, BATCHED))
    counts = batched["expert_num_tokens"].tolist()
    assert sum(counts) == int((standard["topk_ids"] < num_experts).sum())
    for expert, (rows, count) in enumerate(zip(batched["hidden_states"], counts, strict=True)):
        tokens = [token for token, chosen in enumerate(standard["topk_ids"].tolist()) if expert in chosen]
        assert torch.equal(rows[:count], standard["hidden_states"][tokens])
        assert not rows[count:].any()


def test_a_token_picks_different_experts_and_their_weights_sum_to_one():
    inputs = inputs_of(case_of(50))
    assert inputs["topk_ids"].dtype == torch.int32
    assert (inputs["topk_ids"][:, 0] != inputs["topk_ids"][:, 1]).all()
    assert inputs["topk_weights"].dtype == torch.float32
    torch.testing.assert_close(inputs["topk_weights"].sum(dim=1), torch.ones(50))


def test_weights_of_the_input_are_sigmoids_of_the_logits_that_the_others_are_the_softmax_of():
    output_side, input_side = (inputs_of(case_of(51, options, top_k=3)) for options in ({}, ON_INPUT))
    for name in ("hidden_states", "topk_ids"):
        assert torch.equal(input_side[name], output_side[name])
    logits = input_side["topk_weights"].logit()
    torch.testing.assert_close(logits.softmax(dim=-1), output_side["topk_weights"])
    assert logits.std() > 0.5  # of those of the softmax nothing but differences would be left
    assert not torch.allclose(input_side["topk_weights"].sum(dim=1), torch.ones(51), atol=0.1)


def test_a_single_expert_has_a_weight_only_where_it_multiplies_the_input():
    assert (inputs_of(case_of(33, top_k=1))["topk_weights"] == 1).all()
    weights = inputs_of(case_of(33, ON_INPUT, top_k=1))["topk_weights"]
    assert ((weights > 0) & (weights < 1)).all()
    assert weights.unique().numel() == 33


def test_a_rank_has_the_first_experts_of_those_that_are_routed_over():
    inputs = inputs_of(case_of(50, ep_size=2))
    assert inputs["expert_map"].dtype == torch.int32
    assert inputs["expert_map"].tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    assert inputs["topk_ids"].max() == 7
    ids, routed = local_expert_ids(inputs), inputs["topk_ids"]
    assert torch.equal(ids, torch.where(routed < 4, routed, -1))
    assert "expert_map" not in inputs_of(case_of(50))


@pytest.mark.parametrize("ep_size", [1, 2])
def test_both_formats_cost_the_same_operations_and_count_the_same_rows(ep_size: int):
    cases = [case_of(50, options, ep_size=ep_size) for options in ({}, BATCHED)]
    counts = [rows_per_expert(case, inputs_of(case)).tolist() for case in cases]
    assert counts[0] == counts[1]
    assert sum(counts[0]) == 100 if ep_size == 1 else 0 < sum(counts[0]) < 100
    for case in cases:
        assert moe_flops(case, inputs_of(case)) == sum(counts[0]) * 2 * 3 * HIDDEN_SIZE * 16


def test_the_padding_of_a_batch_is_neither_moved_nor_compared():
    case = case_of(5, BATCHED, num_experts=3, top_k=1)
    inputs = inputs_of(case) | {"expert_num_tokens": torch.tensor([2, 0, 3], dtype=torch.int32)}
    assert moe_bytes(case, inputs, bytes_per_expert=1000) == 2 * 1000 + 2 * 5 * HIDDEN_SIZE * 2 + 3 * 4
    output = torch.full((3, 128, HIDDEN_SIZE), torch.nan, dtype=torch.bfloat16)
    output[0, :2], output[2, :3] = 1, 2
    compared = decode_moe(case, inputs, (output,))
    assert compared.dtype == torch.float32
    assert compared[:, 0].tolist() == [1, 1, 2, 2, 2]
    assert compared.isfinite().all()


def test_an_output_in_the_standard_format_is_compared_whole():
    case = case_of(5)
    output = torch.randn(5, HIDDEN_SIZE).bfloat16()
    assert torch.equal(decode_moe(case, inputs_of(case), (output,)), output.float())


def test_the_seed_decides_and_the_number_of_tokens_does_not_change_the_format():
    case = case_of(20)
    again, other = inputs_of(case), inputs_of(case, seed=3)
    assert all(torch.equal(again[name], tensor) for name, tensor in inputs_of(case).items())
    assert not torch.equal(again["hidden_states"], other["hidden_states"])
    assert inputs_of(replace(case, num_tokens=0))["topk_ids"].shape == (0, 2)
