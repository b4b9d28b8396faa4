"""A summary is Markdown that can be pasted as it is."""

from tasks.intervals import Interval
from tasks.tuning.contest import Verdict
from tasks.tuning.plan import Outcome, Task
from tasks.tuning.space import Candidates
from tasks.tuning.summary import Environment, format_row, format_summary, spell_config

OLD = {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 1, "num_warps": 4, "num_stages": 5}
NEW = {**OLD, "num_warps": 8}
WHERE = Environment(
    "E=8,N=7168.json",
    "NVIDIA H200",
    "580.159.04",
    "3.6.0",
    "2.11.0",
    "0.26.0",
    "252e9d4c0ffee0123456789abcdef0123456789a",
)


def outcome(batch_size: int, verdict: Verdict, *, has_incumbent: bool = True) -> Outcome:
    return Outcome(Task(batch_size, Candidates((OLD, NEW)), OLD if has_incumbent else None, OLD), verdict, 97, 5.0)


REPLACED = Verdict(NEW, "replaced: 7.0% less time (-7.5% to -6.5%)", 65.1, 60.5, Interval(0.93, 0.925, 0.935))
KEPT = Verdict(
    OLD, "kept: the best other takes 0.1% less time (-0.3% to +0.1%)", 1414.0, 1414.0, Interval(0.999, 0.997, 1.001)
)


def test_the_whole_summary() -> None:
    assert format_summary(WHERE, [outcome(4096, KEPT), outcome(1, REPLACED)]) == (
        "### E=8,N=7168.json\n\n"
        "1 of 2 batch sizes have a new configuration. The geometric mean of new/old is 0.964 over the 2 that could be "
        "timed. 194 of 4 candidates were measured, in 10 s.\n\n"
        "| batch size | old config | new config | old us | new us | new/old (99 % interval) | decision |\n"
        "|---:|---|---|---:|---:|---|---|\n"
        "| 1 | M 16, N 64, K 128, group 1, warps 4, stages 5 | M 16, N 64, K 128, group 1, warps 8, stages 5 "
        "| 65.1 | 60.5 | 0.930 (0.925 to 0.935) | replaced: 7.0% less time (-7.5% to -6.5%) |\n"
        "| 4096 | M 16, N 64, K 128, group 1, warps 4, stages 5 | (the same) "
        "| 1,414.0 | 1,414.0 | 0.999 (0.997 to 1.001) "
        "| kept: the best other takes 0.1% less time (-0.3% to +0.1%) |\n\n"
        "- GPU: NVIDIA H200, driver 580.159.04\n- Triton: 3.6.0\n- torch: 2.11.0\n- vLLM: 0.26.0\n"
        "- kernel-nightly: 252e9d4c0ffee0123456789abcdef0123456789a\n"
    )


def test_what_cannot_be_timed_has_a_dash_and_a_reason() -> None:
    row = format_row(outcome(1, Verdict(NEW, "replaced: the incumbent is crashed: out | of\nresource <x>", None, 60.5)))
    assert row.endswith("| - | 60.5 | - | replaced: the incumbent is crashed: out \\| of resource &lt;x> |")


def test_a_default_is_named_and_an_unknown_value_too() -> None:
    row = format_row(outcome(1, REPLACED, has_incumbent=False))
    assert "| M 16, N 64, K 128, group 1, warps 4, stages 5 (the default) |" in row
    assert spell_config({"SWAP_AB": True, "waves_per_eu": 2}) == "swap 1, waves_per_eu 2"


def test_a_search_that_found_nothing_says_so() -> None:
    text = format_summary(WHERE, [outcome(1, KEPT)])
    assert "0 of 1 batch sizes have a new configuration. 97 of 2 candidates were measured, in 5 s." in text
