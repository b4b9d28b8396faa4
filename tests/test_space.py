"""A space is data: what is left of it is counted, canonical, and never without a reason for what is gone."""

from dataclasses import replace

import pytest

from tasks.errors import EmptySpaceError
from tasks.tuning.space import (
    SHARED_BYTES,
    Problem,
    Space,
    config_key,
    distinct,
    fits_registers,
    fits_shared_memory,
    has_few_empty_rows,
    merge_groups,
    prune,
)

PROBLEM = Problem(64, ((1024, 512), (512, 512)), "sm_90", num_experts=8, top_k=2)
SMALL = Space("small", {"a": (1, 2, 4), "b": (1, 2)}, {"a b stays small": lambda c, _: c["a"] * c["b"] <= 4})


def test_what_no_check_refuses_is_left() -> None:
    found = prune(SMALL, PROBLEM)
    assert SMALL.size == 6
    assert found.configs == ({"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": 2, "b": 2}, {"a": 4, "b": 1})


def test_of_configurations_that_do_the_same_one_stays() -> None:
    def canonical(config: dict[str, int], problem: Problem) -> None:
        config["b"] = 1

    found = prune(replace(SMALL, canonical=canonical), PROBLEM)
    assert found.configs == ({"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 4, "b": 1})


def test_an_empty_space_says_which_check_emptied_it() -> None:
    checks = {
        "a is odd": lambda c, _: c["a"] % 2,
        "b is large": lambda c, _: c["b"] > 2,
        "never asked": lambda c, _: False,
    }
    with pytest.raises(EmptySpaceError) as error:
        prune(replace(SMALL, checks=checks), PROBLEM)
    assert str(error.value) == (
        "no configuration of small is left of 6 for 64 tokens on sm_90: b is large took the last (a is odd took 4, "
        "b is large took 2); give its values more room"
    )


def test_the_digest_is_of_what_may_be_tried() -> None:
    others = [
        replace(SMALL, name="other"),
        replace(SMALL, values={"a": (1, 2), "b": (1, 2)}),
        replace(SMALL, checks={}),
    ]
    assert len({space.sha256 for space in [SMALL, *others]}) == 4
    assert replace(SMALL, values=dict(reversed(SMALL.values.items()))).sha256 == SMALL.sha256
    assert len(SMALL.sha256) == 64


def test_a_configuration_is_the_same_in_any_order() -> None:
    assert config_key({"a": 1, "b": 2}) == config_key({"b": 2, "a": 1})
    assert distinct([{"a": 1}, {"b": 1}, {"a": 1}]) == [{"a": 1}, {"b": 1}]


# What Triton 3.7 took for vLLM's fused_moe_kernel, compiled without a GPU.
@pytest.mark.parametrize(
    ("sizes", "arch", "a_bytes", "w_bytes", "is_async", "shared_bytes"),
    [
        ((16, 64, 128, 4), "sm_90", 1, 1, True, 40_960),  # swapped: the tensor core reads both operands from there
        ((16, 32, 256, 5), "sm_90", 1, 1, False, 49_152),
        ((64, 128, 128, 3), "sm_90", 1, 1, True, 73_728),
        ((16, 64, 128, 4), "sm_90", 2, 2, False, 61_440),
        ((128, 256, 64, 4), "sm_90", 2, 2, True, 196_608),
        ((64, 128, 128, 3), "sm_90", 2, 1, True, 114_688),
        ((128, 256, 64, 4), "sm_80", 2, 2, False, 147_456),
        ((128, 128, 128, 3), "sm_89", 1, 1, False, 65_536),
    ],
)
def test_no_rule_asks_for_more_shared_memory_than_the_compiler(
    sizes: tuple[int, int, int, int], arch: str, a_bytes: int, w_bytes: int, is_async: bool, shared_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    m, n, k, stages = sizes
    problem = replace(PROBLEM, arch=arch, a_bytes=a_bytes, w_bytes=w_bytes)
    monkeypatch.setitem(SHARED_BYTES, arch, shared_bytes)
    assert fits_shared_memory({"BLOCK_SIZE_K": k, "num_stages": stages}, problem, m, n, is_async)
    monkeypatch.setitem(SHARED_BYTES, arch, shared_bytes // 2)
    assert not fits_shared_memory({"BLOCK_SIZE_K": k, "num_stages": stages}, problem, m, n, is_async)


def test_an_architecture_that_is_not_known_refuses_nothing() -> None:
    config = {"BLOCK_SIZE_K": 256, "num_stages": 5}
    assert fits_shared_memory(config, replace(PROBLEM, arch="gfx942"), 256, 256, is_async=True)


def test_sums_need_registers_where_there_is_no_tensor_memory() -> None:
    assert fits_registers({"num_warps": 4}, PROBLEM, 128 * 128)
    assert not fits_registers({"num_warps": 4}, PROBLEM, 128 * 256)
    assert fits_registers({"num_warps": 4}, replace(PROBLEM, arch="sm_100"), 128 * 256)


def test_rows_that_no_expert_can_have_are_padding() -> None:
    for tokens, most in ((1, 64), (32, 64), (64, 64), (256, 128), (4096, 256)):
        problem = replace(PROBLEM, num_tokens=tokens)
        allowed = [rows for rows in (16, 32, 64, 128, 256) if has_few_empty_rows({"BLOCK_SIZE_M": rows}, problem)]
        assert allowed[-1] == most, tokens
    one_expert = Problem(4096, ((1024, 512),), "sm_90")
    assert one_expert.most_rows == 4096


def test_groups_beyond_the_last_block_are_the_same() -> None:
    def group(
        size: int, tokens: int, experts: int = 8, top_k: int = 2, rows: int = 16, is_batched: bool = False
    ) -> int:
        config = {"GROUP_SIZE_M": size, "BLOCK_SIZE_M": rows}
        problem = replace(PROBLEM, num_tokens=tokens, num_experts=experts, top_k=top_k, is_batched=is_batched)
        merge_groups(config, problem, (1, 16, 32, 64))
        return config["GROUP_SIZE_M"]

    assert [group(size, 1, top_k=1) for size in (1, 16, 64)] == [1, 1, 1]  # one block of rows
    assert [group(size, 1, experts=128, top_k=8) for size in (1, 16, 32, 64)] == [1, 16, 16, 16]
    assert [group(size, 64) for size in (1, 16, 32, 64)] == [1, 16, 16, 16]  # at most 16 blocks
    assert [group(size, 4096) for size in (1, 16, 32, 64)] == [1, 16, 32, 64]
    assert [group(size, 1, is_batched=True) for size in (1, 16, 64)] == [1, 16, 64]
