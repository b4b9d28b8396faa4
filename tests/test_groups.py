"""Which series are told as one: by what they have in common, and by the night."""

from collections.abc import Sequence
from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from records import make_verdict

from tasks.judgement.groups import SAME_NIGHTS, Group, Subject, group_verdicts, is_told
from tasks.records import Series, State, Verdict

H200 = "NVIDIA H200"
KERNELS = ("fused_moe", "mxfp4_gemm", "silu_mul_fp8")
PROVIDERS = ("torch", "triton", "vllm-cutlass", "vllm-triton")
ALL = [Series(f"{k}/case-{n}", p, "graph", H200) for k, p, n in product(KERNELS, PROVIDERS, range(4))]
ORDER = {f"run-{number}": number for number in range(50)}


def judge(
    moved: Sequence[Series], state: State = State.SLOW, others: Sequence[Series] = ALL, **changes: object
) -> list[Verdict]:
    """The verdicts of a night in which some series moved, and the others did not."""
    told = [make_verdict(state, series, **{"run_id": "run-30", **changes}) for series in moved]
    return told + [make_verdict(State.SAME, series, run_id="run-30") for series in others if series not in moved]


def group(verdicts: Sequence[Verdict]) -> list[Group]:
    return group_verdicts(verdicts, ORDER)


def subjects_of(verdicts: Sequence[Verdict]) -> list[tuple[str, int]]:
    return sorted((str(one.subject), len(one.series)) for one in group(verdicts))


def pick(kernel: str = "", provider: str = "", number: str = "") -> list[Series]:
    return [s for s in ALL if s.case_key.startswith(kernel) and provider in s.provider and s.case_key.endswith(number)]


def test_a_quiet_night_has_no_groups() -> None:
    assert group([]) == group(judge([])) == []


def test_series_of_one_kernel_and_provider_are_one_group() -> None:
    assert subjects_of(judge(pick("fused_moe", "triton", "0")[:1])) == [("fused_moe triton on NVIDIA H200", 1)]
    moved = [series for series in pick("fused_moe") if series.provider == "triton"]
    assert subjects_of(judge(moved)) == [("fused_moe triton on NVIDIA H200", 4)]


def test_a_kernel_of_which_most_series_moved_is_one_group_whatever_the_provider() -> None:
    moved = [series for series in pick("fused_moe") if series.provider != "torch"]
    assert subjects_of(judge(moved)) == [("fused_moe on NVIDIA H200", 12)]


def test_a_library_of_which_most_series_moved_is_one_group_whatever_the_kernel() -> None:
    assert subjects_of(judge(pick(provider="vllm"))) == [("vllm on NVIDIA H200", 24)]
    assert subjects_of(judge(pick(provider="torch"))) == [("torch on NVIDIA H200", 12)]


def test_a_device_of_which_most_series_moved_is_one_group() -> None:
    assert subjects_of(judge(ALL)) == [("all kernels on NVIDIA H200", 48)]
    assert subjects_of(judge([*pick("fused_moe"), *pick("mxfp4_gemm")])) == [("all kernels on NVIDIA H200", 32)]


def test_half_of_a_kernel_is_not_most_of_it() -> None:
    moved = [series for series in pick("fused_moe") if series.provider in ("triton", "torch")]
    assert subjects_of(judge(moved)) == [
        ("fused_moe torch on NVIDIA H200", 4),
        ("fused_moe triton on NVIDIA H200", 4),
    ]


def test_what_cannot_run_does_not_count_among_those_that_did_not_move() -> None:
    moved = [series for series in pick("fused_moe") if series.provider in ("triton", "torch")]
    unsupported = pick("fused_moe", "vllm")
    verdicts = judge(moved, others=[series for series in ALL if series not in unsupported])
    verdicts += [make_verdict(State.UNSUPPORTED, series) for series in unsupported]
    assert subjects_of(verdicts) == [("fused_moe on NVIDIA H200", 8)]


def test_each_device_has_its_own_groups() -> None:
    others = [Series(s.case_key, s.provider, s.timer, "NVIDIA B200") for s in ALL]
    moved = [*pick(provider="torch"), *(s for s in others if s.provider == "torch")]
    assert subjects_of(judge(moved, others=[*ALL, *others])) == [
        ("torch on NVIDIA B200", 12),
        ("torch on NVIDIA H200", 12),
    ]


def test_each_state_has_its_own_groups() -> None:
    slow, fast = pick("fused_moe", "torch"), pick("fused_moe", "vllm-cutlass")
    verdicts = [v for v in judge(slow) if v.series not in fast] + judge(fast, State.FAST, ())
    assert sorted((str(g.state), len(g.series)) for g in group(verdicts)) == [("FAST", 4), ("SLOW", 4)]


def test_a_slow_machine_is_one_group_of_the_device_unless_it_was_slow_for_a_moment() -> None:
    moved = ALL[::4]
    verdicts = judge(moved, State.AMBIGUOUS, is_machine=True)
    assert subjects_of(verdicts) == [("all kernels on NVIDIA H200", len(moved))]
    assert subjects_of(judge(moved[:1], State.AMBIGUOUS, is_machine=True)) == []
    assert group_verdicts([make_verdict(State.AMBIGUOUS, is_machine=True)], ORDER) == []


def test_a_machine_that_is_slower_here_and_faster_there_is_two_groups() -> None:
    halves = ALL[::2], ALL[1::2]
    verdicts = [
        verdict
        for half, change in zip(halves, (0.05, -0.05), strict=True)
        for verdict in judge(half, State.AMBIGUOUS, others=(), is_machine=True, relative_change=change)
    ]
    assert subjects_of(verdicts) == [("all kernels on NVIDIA H200", len(ALL) // 2)] * 2


def test_what_is_not_told_from_noise_is_told_to_nobody() -> None:
    assert group(judge(ALL[:5], State.AMBIGUOUS)) == []
    told = {state for state in State if is_told(make_verdict(state))}
    assert told == {State.SLOW, State.FAST, State.WRONG, State.FAILED, State.MISSING}
    assert is_told(make_verdict(State.AMBIGUOUS, is_machine=True))


def test_neighbouring_nights_are_one_group_since_the_night_that_most_name() -> None:
    moved = [series for series in pick("fused_moe") if series.provider == "torch"]
    nights = ["run-20", "run-21", "run-21", "run-22"]
    verdicts = [make_verdict(State.SLOW, s, since_run=n) for s, n in zip(moved, nights, strict=True)]
    [found] = group(verdicts + judge([], others=[s for s in ALL if s not in moved]))
    assert (found.since_run, len(found.series)) == ("run-21", 4)
    [tied] = group(verdicts[:2] + judge([], others=[s for s in ALL if s not in moved]))
    assert tied.since_run == "run-20"


def test_changes_of_nights_apart_are_groups_apart() -> None:
    early, late = pick("fused_moe", "torch")[:2], pick("fused_moe", "torch")[2:]
    others = [s for s in ALL if s not in (*early, *late)]
    verdicts = judge(early, others=(), since_run="run-10") + judge(
        late, others=others, since_run=f"run-{11 + SAME_NIGHTS}"
    )
    assert [one.since_run for one in group(verdicts)] == ["run-10", f"run-{11 + SAME_NIGHTS}"]


def test_a_chain_of_neighbouring_nights_does_not_swallow_weeks() -> None:
    moved = ALL[:10]
    verdicts = [make_verdict(State.SLOW, s, since_run=f"run-{10 + n}") for n, s in enumerate(moved)]
    spans = [[ORDER[v.since_run] for v in one.verdicts] for one in group(verdicts + judge([], others=ALL[10:]))]
    assert max(max(span) - min(span) for span in spans) <= SAME_NIGHTS


def test_what_moved_most_comes_first() -> None:
    moved = pick("fused_moe", "torch")
    changes = (0.03, 0.3, -0.5, 0.1)
    verdicts = [make_verdict(State.SLOW, s, relative_change=c) for s, c in zip(moved, changes, strict=True)]
    [found] = group(verdicts + judge([], others=[s for s in ALL if s not in moved]))
    assert [verdict.relative_change for verdict in found.verdicts] == [-0.5, 0.3, 0.1, 0.03]


def test_a_subject_holds_its_series_and_no_others() -> None:
    assert [s for s in ALL if Subject(H200).holds(s)] == ALL
    assert {s.provider for s in ALL if Subject(H200, provider="vllm").holds(s)} == {"vllm-cutlass", "vllm-triton"}
    assert [s for s in ALL if Subject(H200, "mxfp4_gemm").holds(s)] == pick("mxfp4_gemm")
    assert [s for s in ALL if Subject(H200, "mxfp4_gemm", "torch").holds(s)] == pick("mxfp4_gemm", "torch")
    assert not any(Subject("NVIDIA B200").holds(s) for s in ALL)


@given(st.lists(st.sampled_from(ALL), unique=True), st.data())
def test_every_verdict_that_is_told_is_in_one_group_whatever_the_order(
    moved: list[Series], data: st.DataObject
) -> None:
    nights = data.draw(st.lists(st.integers(1, 30), min_size=len(moved), max_size=len(moved)))
    states = data.draw(st.lists(st.sampled_from([State.SLOW, State.FAILED]), min_size=len(moved), max_size=len(moved)))
    told = [
        make_verdict(state, series, since_run=f"run-{night}")
        for series, night, state in zip(moved, nights, states, strict=True)
    ]
    verdicts = told + judge([], others=[series for series in ALL if series not in moved])
    groups = group(verdicts)
    assert sorted(s for one in groups for s in map(repr, one.series)) == sorted(map(repr, moved))
    mixed = group(data.draw(st.permutations(verdicts)))
    assert {(g.subject, g.since_run, frozenset(g.series)) for g in mixed} == {
        (g.subject, g.since_run, frozenset(g.series)) for g in groups
    }
