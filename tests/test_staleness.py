"""Sets of tuned configurations that are out of date are found in the night's own measurements."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from records import GPU, make_case, make_measurement, make_trial

from kernels.moe.vllm_config_files import ConfigFile, ConfigKey
from kernels.spec import Case, Layer
from tasks.records import Measurement, Status
from tasks.tuning.sets import SetState
from tasks.tuning.staleness import (
    DEFAULT,
    NOISE,
    OUR_KERNELS,
    OURS,
    RIVALS,
    SHIPPED,
    TUNED,
    Provenance,
    SetKey,
    TunedSet,
    judge_set,
    key_of,
    known_from_files,
    list_tuned_sets,
)

NOW = Provenance("new source", "3.6.0", "new space")
KEY = key_of(make_case().layer, SHIPPED, GPU.name)


def measure(provider: str, num_tokens: int, *samples_us: float) -> Measurement:
    return make_measurement(case=make_case(num_tokens), provider=provider, samples_us=samples_us)


def measure_both(num_tokens: int, shipped_us: float, default_us: float) -> list[Measurement]:
    return [measure(SHIPPED, num_tokens, shipped_us), measure(DEFAULT, num_tokens, default_us)]


def list_sets(
    night: list[Measurement],
    known: Callable[[SetKey], Provenance | None] = lambda _: NOW,
) -> list[TunedSet]:
    return list_tuned_sets(night, known, lambda _: NOW)


def test_a_shipped_set_that_loses_to_the_default_is_stale_and_says_what_that_costs() -> None:
    [found] = list_sets(measure_both(16, 120.0, 100.0) + measure_both(64, 90.0, 100.0) + measure_both(1, 60.0, 50.0))
    assert (found.key, found.state) == (KEY, SetState.STALE)
    assert found.reasons == ("the default beats it by 20.0% at M=16", "the default beats it by 20.0% at M=1")
    assert [(loss.case.num_tokens, loss.lost_us, loss.rival) for loss in found.losses] == [
        (1, 10.0, "the default"),
        (16, 20.0, "the default"),
    ]
    assert found.losses[0].relative_loss == pytest.approx(0.2)
    assert found.lost_us == 30.0


@pytest.mark.parametrize("shipped_us", [50.0, 100.0, 100.0 * (1 + NOISE)])
def test_a_set_within_the_noise_is_fresh(shipped_us: float) -> None:
    [found] = list_sets(measure_both(16, shipped_us, 100.0))
    assert (found.state, found.reasons, found.lost_us) == (SetState.FRESH, (), 0.0)
    assert all(not loss.is_beyond_noise for loss in found.losses)


def test_a_loss_that_could_be_chance_does_not_count() -> None:
    trials = tuple(make_trial(number, 1) for number in range(8))
    for own, state in (((130.0,) * 4 + (90.0,) * 4, SetState.FRESH), ((110.0,) * 8, SetState.STALE)):
        night = [
            replace(measure(SHIPPED, 16, *own), trials=trials),
            replace(measure(DEFAULT, 16, *[100.0] * 8), trials=trials),
        ]
        [found] = list_sets(night)
        assert found.state is state
        assert found.losses[0].set_us == 110.0


def test_a_case_loses_only_if_every_timer_says_so() -> None:
    warm, cold = measure_both(16, 120.0, 100.0), [replace(m, timer="cold") for m in measure_both(16, 110.0, 100.0)]
    [found] = list_sets(warm + cold)
    assert [(loss.set_us, loss.rival_us) for loss in found.losses] == [(110.0, 100.0)]
    even = [replace(m, timer="cold") for m in measure_both(16, 100.0, 100.0)]
    assert list_sets(warm + even)[0].state is SetState.FRESH
    assert list_sets(warm + even)[0].losses == ()


def test_configs_of_different_cases_or_timers_are_not_compared() -> None:
    slow, _ = measure_both(16, 200.0, 100.0)
    _, fast = measure_both(64, 200.0, 100.0)
    _, other_timer = measure_both(16, 200.0, 100.0)
    for rival in (fast, replace(other_timer, timer="cold")):
        [found] = list_sets([slow, rival])
        assert found.losses == ()


def test_what_failed_or_another_provider_says_nothing() -> None:
    shipped, _ = measure_both(16, 200.0, 100.0)
    failed = make_measurement(case=make_case(16), provider=DEFAULT, status=Status.CRASHED, reason="crash")
    [found] = list_sets([shipped, failed, measure("vllm-cutlass", 16, 1.0)])
    assert (found.state, found.losses) == (SetState.FRESH, ())
    assert list_sets([failed]) == []
    assert list_sets([]) == []


def test_the_users_set_is_compared_with_the_shipped_one_too() -> None:
    night = [*measure_both(16, 100.0, 120.0), measure(TUNED, 16, 110.0)]
    by_provider = {found.key.provider: found for found in list_sets(night)}
    assert by_provider[TUNED].reasons == ("the shipped set beats it by 10.0% at M=16",)
    assert by_provider[SHIPPED].state is SetState.FRESH


@pytest.mark.parametrize(
    ("provenance", "state", "reasons"),
    [
        (NOW, SetState.FRESH, ()),
        (Provenance(triton_version="3.6.0"), SetState.FRESH, ()),
        (Provenance(triton_version="3.6.0+git1234"), SetState.FRESH, ()),
        (Provenance(), SetState.UNKNOWN, ("it does not say which Triton it was tuned with",)),
        (Provenance(triton_version="3.4.0"), SetState.STALE, ("Triton was 3.4.0 and is 3.6.0",)),
        (replace(NOW, source_sha256="old"), SetState.STALE, ("the kernel changed",)),
        (
            Provenance("old", "3.4.0", "old"),
            SetState.STALE,
            ("the kernel changed", "the search space changed", "Triton was 3.4.0 and is 3.6.0"),
        ),
        (None, SetState.MISSING, ("the shape has none",)),
    ],
)
def test_a_set_is_as_fresh_as_what_it_was_tuned_with(
    provenance: Provenance | None, state: SetState, reasons: tuple[str, ...]
) -> None:
    assert judge_set(provenance, NOW, []) == (state, reasons)


def test_a_shape_without_a_set_is_missing_where_the_kernel_runs() -> None:
    [missing] = list_sets([measure(DEFAULT, 16, 100.0)], known=lambda _: None)
    assert (missing.key.provider, missing.state) == (SHIPPED, SetState.MISSING)
    ours = list_sets([measure(OURS, 16, 100.0)], known=lambda _: None)
    assert [(found.key.provider, found.state) for found in ours] == [(OURS, SetState.MISSING)]
    [measured] = list_sets(measure_both(16, 100.0, 100.0), known=lambda _: None)
    assert measured.state is SetState.UNKNOWN


def test_what_costs_most_comes_first() -> None:
    other = make_case(16, "DeepSeek-V3")
    wide = replace(other, layer=replace(other.layer, sizes={**other.layer.sizes, "num_experts": 256}))
    dear = [
        make_measurement(case=wide, provider=SHIPPED, samples_us=(900.0,)),
        make_measurement(case=wide, provider=DEFAULT, samples_us=(100.0,)),
    ]
    found = list_sets(measure_both(16, 120.0, 100.0) + dear)
    assert [(tuned.key.num_experts, tuned.lost_us) for tuned in found] == [(256, 800.0), (8, 20.0)]


def test_a_key_names_shape_scheme_and_gpu() -> None:
    layer = Layer("fused_moe", "Qwen3-30B-A3B", 1, 1, "fp8_w8a8_block128", "bfloat16", make_case().layer.sizes)
    key = key_of(layer, SHIPPED, "NVIDIA H200")
    assert key.label == ("vllm-triton-shipped of fused_moe E=8,N=128,K=256,top_k=2 fp8_w8a8_block128 on NVIDIA H200")
    dense = replace(key, kernel="mxfp4_gemm", provider="triton", num_experts=0, top_k=0, scheme="mxfp4_w4a16")
    assert dense.label == "triton of mxfp4_gemm N=128,K=256 mxfp4_w4a16 on NVIDIA H200"
    assert key.block_shape == (128, 128)
    assert key.config_key.file_name == "E=8,N=128,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json"
    linear = Layer("mxfp4_gemm", "Llama-3.1-70B", 1, 1, "mxfp4_w4a16", "bfloat16", {"n": 8192, "k": 4096})
    assert key_of(linear, OURS, "NVIDIA H200").hidden_size == 4096


def test_files_tell_the_version_of_triton_and_nothing_else() -> None:
    file = ConfigFile(ConfigKey(8, 128, "NVIDIA_H200", "fp8_w8a8"), "3.4.0", {1: {}})
    known = known_from_files({SHIPPED: [file, ConfigFile(ConfigKey(1, 1, "A"), None, {1: {}})], TUNED: []})
    assert known(KEY) == Provenance(triton_version="3.4.0")
    assert known(replace(KEY, provider=TUNED)) is None
    assert known(replace(KEY, provider=OURS)) is None
    assert known(replace(KEY, num_experts=16)) is None
    [found] = list_sets(measure_both(16, 100.0, 100.0), known)
    assert found.reasons == ("Triton was 3.4.0 and is 3.6.0",)


def test_the_providers_compared_exist() -> None:
    from kernels.registry import find_kernel

    assert {*RIVALS, DEFAULT} <= set(find_kernel("fused_moe").providers)
    for name in OUR_KERNELS:
        assert find_kernel(name).providers[OURS].prepare_with


def test_a_kernel_without_sets_is_left_out() -> None:
    layer = Layer("silu_mul_fp8", "grid", 1, 1, "fp8_group128", "bfloat16", {"num_experts": 8})
    assert list_sets([make_measurement(case=Case(layer, 16), provider=OURS, samples_us=(1.0,))]) == []
