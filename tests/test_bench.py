"""What a worker does: compare outputs, keep one layer's weights, check and time a provider on the CPU."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import torch
from retrials import repeat_torch

from kernels.errors import ConfigError, OutOfMemoryError
from kernels.registry import PACKAGE_DIR, find_kernel, kernels
from kernels.source import hash_sources
from kernels.spec import Case, Launch, Layer, Outputs, Tensors, Tolerance
from kernels.timing.timers import TIMERS, Run, Sampling, Timer, WallStopwatch
from tasks.bench import (
    MOST_INPUT_SETS,
    Bench,
    Contender,
    compare,
    compete_as_is,
    copy_tensors,
    count_distinct,
    estimate_busy_seconds,
    judge_output,
    seed_of_inputs,
)
from tasks.intervals import find_paired_ratio
from tasks.records import Check, Measurement, Status
from tasks.sampling import Reading, Readings
from tasks.tuning.trials import Question

TOLERANCE = Tolerance(relative_error=0.1, element_error=0.05, share_close=0.9, reason="for these tests")
SILU = Layer("silu_mul_fp8", "grid", 1, 1, "fp8_group128", "bfloat16", {"num_experts": 4, "intermediate_size": 256})
MOE_SIZES = {"num_experts": 4, "top_k": 2, "hidden_size": 256, "intermediate_size": 128}
MOE = Layer("fused_moe", "grid", 1, 1, "fp8_w8a8", "bfloat16", MOE_SIZES)


def contenders(*providers: str) -> list[Contender]:
    return [compete_as_is(provider) for provider in providers]


# compare and judge_output


def test_equal_outputs_have_no_error() -> None:
    x = torch.linspace(-3, 3, 40)
    assert compare(x, x.clone(), TOLERANCE) == (0.0, 1.0)


def test_the_error_is_the_norm_of_the_difference_over_that_of_the_reference() -> None:
    reference = torch.tensor([3.0, 4.0])
    error, share_close = compare(torch.tensor([3.0, 4.5]), reference, TOLERANCE)
    assert error == pytest.approx(0.5 / 5.0)
    assert share_close == 0.5  # 0.5 is over 0.05 * (4 + rms 3.54)


def test_a_wrong_shape_never_passes_even_when_it_would_broadcast() -> None:
    assert compare(torch.ones(4, 1), torch.ones(4), TOLERANCE) == (math.inf, 0.0)
    assert compare(torch.ones(1), torch.ones(4), TOLERANCE) == (math.inf, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_element_that_is_no_number_makes_the_error_infinite(bad: float) -> None:
    output = torch.ones(10)
    output[3] = bad
    error, share_close = compare(output, torch.ones(10), TOLERANCE)
    assert error == math.inf
    assert share_close == pytest.approx(0.9)
    assert judge_output(error, share_close, TOLERANCE)[0] is Status.WRONG


def test_a_reference_of_zeros_is_met_only_by_zeros() -> None:
    zeros = torch.zeros(8)
    assert compare(zeros, zeros, TOLERANCE) == (0.0, 1.0)
    error, share_close = compare(zeros + 1e-30, zeros, TOLERANCE)
    assert (error, share_close) == (math.inf, 0.0)


def test_an_output_of_zeros_is_wholly_wrong() -> None:
    error, share_close = compare(torch.zeros(8), torch.ones(8), TOLERANCE)
    assert (error, share_close) == (1.0, 0.0)


def test_outputs_without_elements_are_equal() -> None:
    assert compare(torch.zeros(0, 4), torch.zeros(0, 4), TOLERANCE) == (0.0, 1.0)


def test_scaling_both_sides_changes_nothing() -> None:
    torch.manual_seed(0)
    reference = torch.randn(64)
    output = reference + 0.05 * torch.randn(64)
    small, large = (compare(output * f, reference * f, TOLERANCE) for f in (2.0**-20, 2.0**20))
    assert small == pytest.approx(large)


def test_large_values_do_not_overflow_the_norm() -> None:
    big = torch.full((4,), 3e38)
    assert compare(big, big, TOLERANCE) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("error", "share_close", "status", "reason"),
    [
        (0.1, 0.9, Status.OK, ""),
        (0.11, 1.0, Status.WRONG, "relative error 0.11 is over 0.1"),
        (0.0, 0.89, Status.WRONG, "89.00% of the elements are close, 90.00% are needed"),
        (math.inf, 0.0, Status.WRONG, "relative error inf is over 0.1"),
    ],
)
def test_an_output_is_judged_by_both_limits(error: float, share_close: float, status: Status, reason: str) -> None:
    assert judge_output(error, share_close, TOLERANCE) == (status, reason)


def test_an_error_that_is_no_number_is_wrong() -> None:
    assert judge_output(math.nan, 1.0, TOLERANCE)[0] is Status.WRONG


# Bench


@pytest.fixture(scope="module")
def bench() -> Bench:
    threads = torch.get_num_threads()
    made = Bench("cpu")
    torch.set_num_threads(threads)
    return made


def test_a_provider_is_checked_and_timed_on_the_cpu(bench: Bench) -> None:
    case = Case(SILU, 16, {"token_strategy": "uniform"})
    receipt = bench.load_layer(SILU, 7)
    assert (receipt.layer_key, receipt.host_id) == (SILU.key, bench.host().host_id)
    check = bench.check(case, compete_as_is("torch"))
    assert (check.status, check.reason) == (Status.OK, "")
    assert check.relative_error is not None
    assert check.relative_error <= find_kernel("silu_mul_fp8").tolerance["fp8_group128"].relative_error
    assert check.flops > 0
    assert check.bytes_moved > 16 * 256
    assert check.source_sha256 == hash_sources("silu_mul_fp8")
    assert check.compiled == ()  # torch alone launches no Triton kernel
    readings = bench.time(case, contenders("torch"), "wall", 0.005)
    reading = readings.providers["torch"]
    assert (list(readings.providers), readings.unsupported) == (["torch"], "")
    assert len(reading.samples_us) == sum(trial.num_samples for trial in reading.trials) >= 5
    assert all(us > 0 for us in reading.samples_us)
    assert set(readings.references) == {"copy", "float32 gemm"}


def test_the_ceilings_are_measured_beside_the_layer_that_is_loaded(bench: Bench) -> None:
    bench.load_layer(SILU, 7)
    assert {rate.name for rate in bench.ceilings()} == {"copy", "bfloat16 gemm", "float32 gemm"}
    assert bench.check(Case(SILU, 16), compete_as_is("torch")).status is Status.OK


def test_a_provider_that_cannot_run_here_says_why_and_makes_no_inputs(bench: Bench) -> None:
    bench.load_layer(SILU, 7)
    check = bench.check(Case(SILU, 16, {"token_strategy": "uniform"}), compete_as_is("vllm-cuda"))
    assert check.status is Status.UNSUPPORTED
    assert check.reason
    assert (check.relative_error, check.flops) == (None, 0)


def test_loading_a_layer_replaces_the_one_before(bench: Bench) -> None:
    first = bench.load_layer(MOE, 7)
    case = Case(MOE, 4)
    checked = bench.check(case, compete_as_is("torch"))
    assert checked.status is Status.OK
    assert bench.load_layer(MOE, 8).sha256 != first.sha256
    assert bench.check(case, compete_as_is("torch")).status is Status.OK
    bench.load_layer(MOE, 7)
    assert bench.check(case, compete_as_is("torch")) == checked


def test_cases_of_one_layer_do_not_see_each_others_inputs(bench: Bench) -> None:
    bench.load_layer(MOE, 7)
    alone = [bench.check(Case(MOE, tokens), compete_as_is("torch")) for tokens in (1, 4)]
    mixed = [bench.check(Case(MOE, tokens), compete_as_is("torch")) for tokens in (1, 4, 1, 4)]
    assert mixed == alone + alone


def largest_correlation(rows: torch.Tensor, others: torch.Tensor) -> float:
    """Of any row with any other, each [n, k]."""
    rows, others = (x.float() - x.float().mean(dim=1, keepdim=True) for x in (rows, others))
    return (torch.nn.functional.normalize(rows) @ torch.nn.functional.normalize(others).T).abs().max().item()


def test_tokens_do_not_repeat_the_random_numbers_of_the_weights(bench: Bench) -> None:
    kernel, layer, seen = find_kernel("fused_moe"), replace(MOE, scheme="unquantized"), {}

    def prepare_and_look(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
        seen.update(w1=weights["w1"], x=inputs["hidden_states"])
        return kernel.providers["torch"].prepare(case, weights, inputs)

    curious = replace(kernel.providers["torch"], prepare=prepare_and_look)
    bench.load_layer(layer, 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.bench.find_kernel", lambda _: replace(kernel, providers={"torch": curious}))
        assert bench.check(Case(layer, 16), compete_as_is("torch")).status is Status.OK
    w1 = seen["w1"].flatten(0, 1)
    assert largest_correlation(seen["x"], w1) < 0.5  # of 256 numbers each: 1/16 is usual
    repeated = kernel.make_inputs(Case(layer, 16), {}, 7, torch.device("cpu"))["hidden_states"]
    assert largest_correlation(repeated, w1) > 0.99


def test_every_seed_has_one_of_its_own_for_inputs() -> None:
    seeds = [seed_of_inputs(seed) for seed in range(100)]
    assert len({*seeds, *range(100)}) == 200
    assert seeds == [seed_of_inputs(seed) for seed in range(100)]
    assert all(torch.Generator().manual_seed(seed).initial_seed() == seed for seed in seeds)


def test_what_a_provider_raises_passes_through(bench: Bench) -> None:
    bench.load_layer(SILU, 7)
    with pytest.raises(KeyError, match="no-such-provider"):
        bench.check(Case(SILU, 16, {"token_strategy": "uniform"}), compete_as_is("no-such-provider"))


def test_a_provider_that_writes_nothing_is_not_served_the_answer_of_the_one_before(bench: Bench) -> None:
    kernel = find_kernel("silu_mul_fp8")
    layer = Layer(
        "silu_mul_fp8", "grid", 1, 1, "fp8_group128", "bfloat16", {"num_experts": 4, "intermediate_size": 256}
    )
    case = Case(layer, 64, {"token_strategy": "first_t"})
    bench.load_layer(layer, 0)
    kept: list[torch.Tensor] = []

    def prepare_and_keep(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
        launch = kernel.providers["torch"].prepare(case, weights, inputs)

        def run() -> Outputs:
            kept[:] = launch.run()
            return tuple(kept)

        return Launch(run)

    with pytest.MonkeyPatch.context() as patch:
        good = replace(kernel.providers["torch"], prepare=prepare_and_keep)
        idle = replace(kernel.providers["torch"], prepare=lambda *_: Launch(lambda: tuple(kept)))
        patched = replace(kernel, providers={"good": good, "idle": idle}, baseline="good")
        patch.setattr("tasks.bench.find_kernel", lambda name: patched)
        assert bench.check(case, compete_as_is("good")).status is Status.OK
        assert bench.check(case, compete_as_is("idle")).status is Status.WRONG


# Timing several providers


Prepare = Callable[[Case, Tensors, Tensors], Launch]
UseProviders = Callable[[str, dict[str, Prepare]], None]


@pytest.fixture
def use_providers() -> Iterator[UseProviders]:
    """Gives a kernel other providers, which all run everywhere, until the test ends."""
    with pytest.MonkeyPatch.context() as patch:

        def use(kernel_name: str, prepares: dict[str, Prepare]) -> None:
            kernel = find_kernel(kernel_name)
            made = {name: replace(kernel.providers["torch"], prepare=prepare) for name, prepare in prepares.items()}
            patched = replace(kernel, providers=made, baseline=next(iter(made)))
            patch.setattr("tasks.bench.find_kernel", lambda _: patched)

        yield use


def as_measurement(bench: Bench, case: Case, provider: str, reading: Reading) -> Measurement:
    check = Check(case, provider, Status.OK, bench.host().host_id)
    now = datetime.now(UTC)
    return Measurement("run-1", check, "wall", bench.host().device, now, reading.samples_us, reading.trials)


def test_providers_of_a_case_share_their_rounds_and_stop_when_known_or_at_a_limit(
    bench: Bench, use_providers: UseProviders
) -> None:
    prepare, case = find_kernel("silu_mul_fp8").providers["torch"].prepare, Case(SILU, 64)
    use_providers("silu_mul_fp8", {"one": prepare, "other": prepare})
    bench.load_layer(SILU, 7)
    readings = bench.time(case, contenders("one", "other"), "wall", 0.02, first_round=3)
    one, other = (readings.providers[name] for name in ("one", "other"))
    assert one.trials[0].round == other.trials[0].round == 3
    assert {trial.round for trial in one.trials} & {trial.round for trial in other.trials}
    for reading in (one, other):
        sampling = TIMERS["wall"].sampling
        assert sampling.least_trials <= len(reading.trials) <= sampling.most_trials
    ratio = find_paired_ratio(
        *(as_measurement(bench, case, name, readings.providers[name]) for name in ("one", "other"))
    )
    assert ratio is not None
    assert 0.5 < ratio.median < 2  # alike, on a machine that may be busy


def test_a_slower_provider_shows_in_the_ratio_of_rounds(bench: Bench, use_providers: UseProviders) -> None:
    prepare, case = find_kernel("silu_mul_fp8").providers["torch"].prepare, Case(SILU, 64)

    def prepare_five_times(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
        launch = prepare(case, weights, inputs)
        return Launch(lambda: [launch.run() for _ in range(5)][-1])

    use_providers("silu_mul_fp8", {"once": prepare, "five times": prepare_five_times})
    bench.load_layer(SILU, 7)
    readings = bench.time(case, contenders("once", "five times"), "wall", 0.005).providers
    ratio = find_paired_ratio(*(as_measurement(bench, case, name, readings[name]) for name in ("five times", "once")))
    assert ratio is not None
    assert 3 < ratio.median < 30  # five at best; on a busy machine what takes longer is interrupted more


def test_the_seconds_of_a_worker_are_told_by_activity_and_once(bench: Bench) -> None:
    case = Case(SILU, 32)
    bench.load_layer(SILU, 7)
    bench.take_seconds()
    bench.check(case, compete_as_is("torch"))
    bench.time(case, contenders("torch"), "wall", 0.005)
    seconds = bench.take_seconds()
    assert set(seconds) == {
        *("inputs", "reference", "prepare", "first run", "compare"),
        *("capture", "sampling", "kernels"),
    }
    assert seconds["kernels"] > 0
    assert bench.take_seconds() == {}


def test_a_device_was_busy_with_every_call_that_was_made_for_a_case() -> None:
    provider, reference = (WallStopwatch([lambda: None]) for _ in range(2))
    provider.num_calls, reference.num_calls = 60, 1030
    readings = Readings({"a": Reading((9.0, 10.0, 14.0), ())}, {"copy": (100.0,)}, 1)
    busy = estimate_busy_seconds({"a": provider, "copy": reference}, readings, {"copy": 1000})
    assert busy == pytest.approx((60 * 10.0 + 30 * 100.0) / 1e6)


# Rotated input sets: the cold timer's rules, on a device that has no L2 and lets us make one up

QUICK = Sampling(per_trial=1, trial_seconds=1.0, least_trials=1, most_trials=1, budget_seconds=1.0)


class InTurn(WallStopwatch):
    """Times its runs in turn, as a graph does."""

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__([lambda: [run() for run in runs]])


@pytest.fixture
def rotated(monkeypatch: pytest.MonkeyPatch) -> Timer:
    """A timer of the CPU that rotates input sets."""
    timer = Timer("rotated", "cpu", "for these tests", InTurn, QUICK, rotates_inputs=True)
    monkeypatch.setitem(TIMERS, timer.name, timer)
    return timer


def prepare_and_keep(seen: list[Tensors]) -> Prepare:
    """The provider of torch, and what it was given."""

    def prepare(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
        seen.append({**weights, **inputs})
        return find_kernel(case.layer.kernel).providers["torch"].prepare(case, weights, inputs)

    return prepare


@pytest.mark.parametrize(("layer", "num_tokens"), [(SILU, 16), (MOE, 4)], ids=["no weights", "weights"])
def test_every_input_set_lies_elsewhere_and_all_exceed_twice_the_l2(
    bench: Bench,
    use_providers: UseProviders,
    rotated: Timer,
    monkeypatch: pytest.MonkeyPatch,
    layer: Layer,
    num_tokens: int,
) -> None:
    seen: list[Tensors] = []
    case = Case(layer, num_tokens)
    use_providers(layer.kernel, {"curious": prepare_and_keep(seen)})
    bench.load_layer(layer, 7)
    moved = bench.check(case, compete_as_is("curious")).bytes_moved
    seen.clear()
    monkeypatch.setattr("tasks.bench.l2_bytes", lambda _: 2 * moved)
    assert bench.time(case, contenders("curious"), rotated.name, 0.005).unsupported == ""
    assert len(seen) == 5  # the fewest that are over 4 * moved
    for name, own in seen[0].items():
        copies = [tensors[name] for tensors in seen]
        assert len({tensor.untyped_storage().data_ptr() for tensor in copies}) == len(seen)
        assert all(torch.equal(copy.view(torch.uint8), own.view(torch.uint8)) for copy in copies)
        assert {copy.stride() for copy in copies} == {own.stride()}


def test_providers_of_a_case_rotate_the_same_input_sets(
    bench: Bench, use_providers: UseProviders, rotated: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Tensors]] = {"one": [], "other": []}
    use_providers("fused_moe", {name: prepare_and_keep(tensors) for name, tensors in seen.items()})
    bench.load_layer(MOE, 7)
    monkeypatch.setattr("tasks.bench.l2_bytes", lambda _: 1 << 20)
    readings = bench.time(Case(MOE, 4), contenders("one", "other"), rotated.name, 0.005)
    assert list(readings.providers) == ["one", "other"]
    places = {name: [t["hidden_states"].data_ptr() for t in tensors] for name, tensors in seen.items()}
    assert places["one"] == places["other"]
    assert len(places["one"]) > 1


def test_a_case_too_small_to_be_cold_is_unsupported_and_prepares_nothing(
    bench: Bench, use_providers: UseProviders, rotated: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensors] = []
    use_providers("silu_mul_fp8", {"curious": prepare_and_keep(seen)})
    bench.load_layer(SILU, 7)
    monkeypatch.setattr("tasks.bench.l2_bytes", lambda _: 1 << 30)
    readings = bench.time(Case(SILU, 1), contenders("curious"), rotated.name, 0.005)
    assert f"sets, {MOST_INPUT_SETS} is the most" in readings.unsupported
    assert readings.unsupported.startswith("rotated needs ")
    assert (readings.providers, seen) == ({}, [])


@pytest.mark.parametrize(("l2_over_moved", "is_same"), [(0.4, True), (0.5, False), (0.6, False)])
def test_what_moves_more_than_twice_the_l2_in_one_call_is_the_same_to_a_timer_that_rotates_inputs(
    bench: Bench, rotated: Timer, monkeypatch: pytest.MonkeyPatch, l2_over_moved: float, is_same: bool
) -> None:
    plain = replace(rotated, name="plain", rotates_inputs=False)
    monkeypatch.setitem(TIMERS, plain.name, plain)
    case = Case(MOE, 4)
    bench.load_layer(MOE, 7)
    moved = bench.check(case, compete_as_is("torch")).bytes_moved
    monkeypatch.setattr("tasks.bench.l2_bytes", lambda _: int(moved * l2_over_moved))
    for timer, twin in ((plain, rotated), (rotated, plain)):
        readings = bench.time(case, contenders("torch"), timer.name, 0.005)
        assert readings.holds_for == ((twin.name,) if is_same else ())


def test_a_copy_keeps_the_layout_and_the_padding_of_a_view() -> None:
    padded = torch.arange(60).reshape(6, 10)[:, :7]
    tensors = {"padded": padded, "spread": torch.ones(1).expand(4), "none": torch.empty(0, 3)}
    copies = copy_tensors(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(copies[name], tensor)
        assert (copies[name].stride(), copies[name].storage_offset()) == (tensor.stride(), tensor.storage_offset())
    assert copies["padded"].untyped_storage().nbytes() == padded.untyped_storage().nbytes()
    assert count_distinct([(tensors, {}), (copies, {}), ({}, copies)]) == 2


def test_copies_that_do_not_fit_are_refused_before_they_are_made(
    bench: Bench, rotated: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.load_layer(MOE, 7)
    monkeypatch.setattr("tasks.bench.l2_bytes", lambda _: 1 << 20)
    monkeypatch.setattr("tasks.weights.free_memory", lambda _: 1000)
    with pytest.raises(OutOfMemoryError, match=r"copies of weights and inputs are .* are free on cpu: use a larger tp"):
        bench.time(Case(MOE, 4), contenders("torch"), rotated.name, 0.005)


def test_every_stopwatch_is_closed_even_if_the_last_cannot_be_prepared(
    bench: Bench, use_providers: UseProviders, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []

    class Closing(WallStopwatch):
        def close(self) -> None:
            closed.append(self.num_calls)

    def fail(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
        raise ZeroDivisionError

    monkeypatch.setitem(TIMERS, "closing", Timer("closing", "cpu", "for this test", Closing, QUICK))
    use_providers("silu_mul_fp8", {"fine": find_kernel("silu_mul_fp8").providers["torch"].prepare, "fails": fail})
    bench.load_layer(SILU, 7)
    with pytest.raises(ZeroDivisionError):
        bench.time(Case(SILU, 4), contenders("fine", "fails"), "closing", 0.005)
    assert len(closed) == 1


# A given configuration


@pytest.fixture
def use_repeats() -> Iterator[None]:
    """Gives silu_mul_fp8 a provider that runs torch's as often as its configuration says, and twice by itself."""
    kernel = find_kernel("silu_mul_fp8")

    def prepare(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
        return prepare_with(case, weights, inputs, {"repeats": 2})

    def prepare_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
        repeats = config.get("repeats")
        if not isinstance(repeats, int):
            raise ConfigError(f"silu_mul_fp8 needs repeats: this has {', '.join(config)}")
        launch = kernel.providers["torch"].prepare(case, weights, inputs)
        wrong = [torch.zeros_like(tensor) for tensor in launch.run()]
        return Launch(lambda: [launch.run() for _ in range(repeats)][-1] if repeats else tuple(wrong), config)

    with pytest.MonkeyPatch.context() as patch:
        repeating = replace(kernel.providers["torch"], prepare=prepare, prepare_with=prepare_with)
        providers = {"repeating": repeating, "torch": kernel.providers["torch"]}
        patch.setattr("tasks.bench.find_kernel", lambda _: replace(kernel, providers=providers))
        yield


@pytest.mark.usefixtures("use_repeats")
def test_a_provider_takes_turns_with_itself_under_a_given_configuration(bench: Bench) -> None:
    case = Case(SILU, 64)
    bench.load_layer(SILU, 7)
    given = Contender("ten times", "repeating", {"repeats": 10})
    readings = bench.time(case, [*contenders("repeating"), given], "wall", 0.02).providers
    ratio = find_paired_ratio(
        *(as_measurement(bench, case, name, readings[name]) for name in ("ten times", "repeating"))
    )
    assert ratio is not None
    assert ratio.median > 2  # five, on a machine that is not busy
    check = bench.check(case, given)
    assert (check.status, check.provider, check.config) == (Status.OK, "repeating", {"repeats": 10})


@pytest.mark.usefixtures("use_repeats")
def test_the_output_under_a_given_configuration_is_checked_like_any_other(bench: Bench) -> None:
    bench.load_layer(SILU, 7)
    assert bench.check(Case(SILU, 64), Contender("never", "repeating", {"repeats": 0})).status is Status.WRONG


@pytest.mark.usefixtures("use_repeats")
@pytest.mark.parametrize(
    ("provider", "reason"),
    [
        ("repeating", "silu_mul_fp8 needs repeats: this has times"),
        ("torch", "torch of silu_mul_fp8 takes no launch configuration: it has one of its own"),
    ],
)
def test_a_configuration_that_a_provider_does_not_take_is_unsupported(bench: Bench, provider: str, reason: str) -> None:
    bench.load_layer(SILU, 7)
    check = bench.check(Case(SILU, 64), Contender("given", provider, {"times": 2}))
    assert (check.status, check.reason) == (Status.UNSUPPORTED, reason)


# Configurations


def test_configurations_are_timed_in_turn_and_one_that_is_refused_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(kernels(PACKAGE_DIR), "silu_mul_fp8", repeat_torch())
    bench, case = Bench("cpu"), Case(SILU, 4)
    bench.load_layer(SILU, 0)
    assert bench.find_default(case, "torch") == {"repeats": 4}
    assert bench.read_tuned_files(Case(MOE, 4)) == []
    configs = ({"repeats": 1}, {"times": 1}, {"repeats": 8})
    for is_checked, refused in ((False, Status.CRASHED), (True, Status.UNSUPPORTED)):
        trials = bench.time_configs(case, "torch", Question(4, configs, 3, is_checked), "wall")
        assert [trial.status for trial in trials] == [Status.OK, refused, Status.OK]
        assert [len(trial.samples_us) for trial in trials] == [3, 0, 3]
        assert [trial.config for trial in trials] == list(configs)
        assert "silu_mul_fp8 needs repeats in a launch configuration: this has times" in trials[1].reason
        assert trials[2].median_us > trials[0].median_us


def test_what_cannot_run_here_has_no_default_to_tune_from() -> None:
    with pytest.raises(ConfigError, match=r"triton of fused_moe cannot be tuned on .*: needs "):
        Bench("cpu").find_default(Case(MOE, 4), "triton")
