"""Series by words: one is found, none or several are told."""

import pytest

from kernels.spec import Case, Layer
from tasks.errors import UsageError
from tasks.naming import find_series, tell_series
from tasks.records import Series


def make_known() -> dict[Series, tuple[Case, int]]:
    layer = Layer("fused_moe", "Mixtral-8x7B", 2, 1, "fp8_w8a8", "bfloat16", {"num_experts": 8})
    cases = [Case(layer, num_tokens) for num_tokens in (1, 16)]
    return {Series(case.key, name, "graph", "NVIDIA H200"): (case, 7) for case in cases for name in ("torch", "triton")}


def test_words_find_the_one_series_that_has_them_all() -> None:
    series, case, seed = find_series("Mixtral-8x7B num_tokens=1 triton", make_known())
    assert (case.num_tokens, series.provider, seed) == (1, "triton", 7)
    assert find_series(tell_series(series), make_known())[0] == series


def test_what_none_or_several_have_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"^no series that was ever timed has all of 'Mixtral'; words are"):
        find_series("Mixtral", make_known())
    with pytest.raises(UsageError, match=r"^4 series have all of 'fused_moe', say more words of one: .*; and 1 more$"):
        find_series("fused_moe", make_known())
