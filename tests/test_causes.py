"""Why a group moved: told from two nights' provenance and from what was measured again beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from records import COMPILED, make_case, make_host, make_measurement, make_receipt, make_run, make_verdict

from kernels.spec import CompiledKernel
from tasks.judgement.causes import MOST_CAUSES, find_causes, tell_retrials
from tasks.nights import Night
from tasks.records import Host, Measurement, Retrial, State, Status, Trial, Version

TOKENS = (1, 16, 64)
SOURCE = "ab" * 32


def measure(provider: str = "triton", tokens: Sequence[int] = TOKENS, **check: object) -> list[Measurement]:
    """One measurement per number of tokens, with everything noted that is."""
    fields = {"source_sha256": SOURCE, "compiled": (COMPILED,), "relative_error": 0.01, "config": {"num_warps": 4}}
    return [make_measurement(case=make_case(n), provider=provider, **{**fields, **check}) for n in tokens]


def make_night(
    measurements: Sequence[Measurement] | None = None,
    hosts: Sequence[Host] = (make_host(),),
    run_id: str = "newer",
    **run: object,
) -> Night:
    """On the hosts, which take the measurements in turn."""
    measurements = measure() if measurements is None else measurements
    placed = [
        replace(m, check=replace(m.check, host_id=hosts[number % len(hosts)].host_id))
        for number, m in enumerate(measurements)
    ]
    receipts = [make_receipt(make_case().layer, host) for host in hosts]
    return Night(make_run(run_id, **run), tuple(hosts), tuple(receipts), tuple(placed))


OLDER = make_night(run_id="older")
SERIES = [measurement.series for measurement in OLDER.measurements]


def on(**changes: object) -> Night:
    """The newer night on a host that is not as before."""
    return make_night(hosts=[replace(make_host(), host_id="other", **changes)])  # type: ignore[arg-type]


def test_if_nothing_differs_that_is_said() -> None:
    bare = make_night(measure(compiled=(), source_sha256=""), run_id="older")
    newer = make_night(measure(compiled=(), source_sha256=""))
    assert find_causes(bare, newer, SERIES) == ["nothing that was noted differs from run older"]


def test_machine_code_that_is_the_same_is_said() -> None:
    assert find_causes(OLDER, make_night(), SERIES) == ["the same machine code as before"]
    commit = find_causes(OLDER, make_night(git_commit="f" * 40), SERIES)
    assert commit == ["commit 252e9d4c0ffe -> ffffffffffff", "the same machine code as before"]


def test_machine_code_that_has_changed_is_said_with_its_figures() -> None:
    code = replace(COMPILED, sha256="12" * 32, registers=200)
    causes = find_causes(OLDER, make_night(measure(compiled=(code,))), SERIES)
    assert causes == [
        "matmul_kernel: machine code cdcdcdcdcdcd -> 121212121212",
        "matmul_kernel: registers 168 -> 200",
    ]


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ({"driver": "590.1"}, "driver 580.159.04 -> 590.1"),
        ({"cuda": "13.1"}, "CUDA 13.0 -> 13.1"),
        ({"torch": "2.13.0"}, "torch 2.11.0 -> 2.13.0"),
        ({"triton": "3.7.1"}, "triton 3.6.0 -> 3.7.1"),
        ({"vllm": ""}, "vLLM 0.26.0 -> none"),
        ({"device_uuid": "GPU-9"}, "another card GPU-4f2c -> GPU-9"),
    ],
)
def test_a_host_that_is_not_as_before_is_told_in_few_words(host: Mapping[str, object], told: str) -> None:
    assert told in find_causes(OLDER, on(**host), SERIES)


def test_several_other_cards_have_no_names() -> None:
    hosts = [replace(make_host(), host_id=uuid, device_uuid=uuid) for uuid in ("GPU-8", "GPU-9")]
    assert "another card" in find_causes(OLDER, make_night(hosts=hosts), SERIES)


def test_a_configuration_is_told_with_its_provider_and_how_many_series_it_concerns() -> None:
    newer = make_night([*measure(tokens=[1], config={"num_warps": 8}), *measure(tokens=[16, 64])])
    causes = find_causes(OLDER, newer, SERIES)
    assert causes[0] == "fused_moe triton: config num_warps 4 -> 8 (1 of 3 series)"
    assert find_causes(OLDER, make_night(measure(config={"num_warps": 8})), SERIES)[0] == (
        "fused_moe triton: config num_warps 4 -> 8"
    )


def test_the_source_of_a_kernel_is_told() -> None:
    causes = find_causes(OLDER, make_night(measure(source_sha256="cd" * 32)), SERIES)
    assert causes == ["fused_moe triton: source abababababab -> cdcdcdcdcdcd", "the same machine code as before"]


def test_uncommitted_edits_are_told() -> None:
    assert "uncommitted edits yes -> no" in find_causes(OLDER, make_night(git_dirty=False), SERIES)


def test_the_likeliest_cause_comes_first() -> None:
    host = replace(make_host(), host_id="other", triton="3.7.1", python="3.12.1")
    code = replace(COMPILED, sha256="12" * 32)
    newer = make_night(measure(compiled=(code,), config={"num_warps": 8}), [host], git_commit="f" * 40)
    assert [cause.partition(" -> ")[0] for cause in find_causes(OLDER, newer, SERIES)] == [
        "triton 3.6.0",
        "fused_moe triton: config num_warps 4",
        "matmul_kernel: machine code cdcdcdcdcdcd",
        "commit 252e9d4c0ffe",
        "python 3.11.2",
    ]


@pytest.mark.parametrize(
    "run", [{"suite": "full"}, {"seed": 8}, {"arguments": {**make_run().arguments, "device": "cuda"}}]
)
def test_what_moves_no_kernel_is_no_cause(run: Mapping[str, object]) -> None:
    assert find_causes(OLDER, make_night(**run), SERIES) == ["the same machine code as before"]


def test_only_what_concerns_the_group_is_told() -> None:
    older = make_night([*measure(), *measure("torch", config={"BLOCK": 1})], run_id="older")
    newer = make_night([*measure(), *measure("torch", config={"BLOCK": 2})])
    assert find_causes(older, newer, SERIES) == ["the same machine code as before"]
    torch = [m.series for m in newer.measurements if m.check.provider == "torch"]
    assert find_causes(older, newer, torch)[0] == "fused_moe torch: config BLOCK 1 -> 2"


def test_the_host_of_another_series_is_no_cause() -> None:
    elsewhere = replace(make_host(), host_id="elsewhere", driver="590.1")
    torch = [replace(m, check=replace(m.check, host_id="elsewhere")) for m in measure("torch")]
    newer = make_night()
    newer = replace(newer, hosts=(*newer.hosts, elsewhere), measurements=(*newer.measurements, *torch))
    assert find_causes(OLDER, newer, SERIES) == ["the same machine code as before"]


def test_series_that_failed_have_the_causes_of_their_run() -> None:
    newer = make_night([replace(m, samples_us=()) for m in measure(status=Status.CRASHED)], git_commit="f" * 40)
    assert find_causes(OLDER, newer, SERIES)[0] == "commit 252e9d4c0ffe -> ffffffffffff"


def test_of_many_causes_the_likeliest_are_told_and_the_others_counted() -> None:
    many = {f"option_{number:02}": 1 for number in range(30)}
    older = make_night(measure(config=many), run_id="older")
    causes = find_causes(older, make_night(measure(config=dict.fromkeys(many, 2)), git_commit="f" * 40), SERIES)
    assert len(causes) == MOST_CAUSES + 1
    assert causes[0] == "fused_moe triton: config option_00 1 -> 2"
    assert causes[-1] == f"and {30 + 2 - MOST_CAUSES} more: kernel-nightly changes"


def test_kernels_that_came_or_went_have_no_digest_on_the_other_side() -> None:
    other = CompiledKernel("sum_kernel", "sm_90", 8, 40, 0, 0, "12" * 32)
    causes = find_causes(OLDER, make_night(measure(compiled=(COMPILED, other))), SERIES)
    assert causes == ["sum_kernel: machine code none -> 121212121212"]


# What was measured again

SLOWER = [make_verdict(State.SLOW, series, relative_change=0.1) for series in SERIES]


def measure_again(version: Version, medians_us: Sequence[float]) -> list[Retrial]:
    """Ten rounds of each series, a hundredth apart, as they are taken in turn."""
    found = []
    for measurement, median_us in zip(measure(), medians_us, strict=True):
        samples = tuple(median_us * (1 + 1e-3 * (n % 3 - 1)) for n in range(30))
        trials = tuple(Trial(number, 3) for number in range(10))
        found.append(Retrial(replace(measurement, samples_us=samples, trials=trials), version, "older"))
    return found


def tell(config_us: float | Sequence[float], tonight_us: float = 110.0) -> list[str]:
    config = [config_us] * 3 if isinstance(config_us, float) else config_us
    retrials = [
        *measure_again(Version.TONIGHT, [tonight_us] * 3),
        *measure_again(Version.LAST_GOOD_CONFIG, config),
    ]
    return tell_retrials(retrials, SLOWER)


def test_a_configuration_that_is_as_fast_as_before_is_to_blame() -> None:
    assert tell(100.0) == [
        "tonight's takes 1.100 times as long as the last good config, measured beside it (3 of 3 series): "
        "the config is to blame"
    ]


def test_a_configuration_that_is_as_slow_tonight_is_not_to_blame() -> None:
    [line] = tell(110.0)
    assert line.endswith("(3 of 3 series): not the config")


def test_one_series_of_three_does_not_decide() -> None:
    [line] = tell([100.0, 110.0, 110.0])
    assert line.endswith("(2 of 3 series): not the config")


def test_what_was_not_measured_again_says_nothing() -> None:
    assert tell_retrials([], SLOWER) == []
    assert tell_retrials(measure_again(Version.TONIGHT, [110.0] * 3), SLOWER) == []
    assert tell_retrials(measure_again(Version.TONIGHT, [110.0] * 3), []) == []
