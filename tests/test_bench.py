"""What a worker does: compare outputs, keep one layer's weights, check and time a provider on the CPU."""

import math
from dataclasses import replace

import pytest
import torch

from kernels.registry import find_kernel
from kernels.spec import Case, Launch, Layer, Outputs, Tensors, Tolerance
from tasks.bench import Bench, compare, judge_output, seed_of_inputs
from tasks.records import Status

TOLERANCE = Tolerance(relative_error=0.1, element_error=0.05, share_close=0.9, reason="for these tests")
SILU = Layer("silu_mul_fp8", "grid", 1, 1, "fp8_group128", "bfloat16", {"num_experts": 4, "intermediate_size": 256})
MOE_SIZES = {"num_experts": 4, "top_k": 2, "hidden_size": 256, "intermediate_size": 128}
MOE = Layer("fused_moe", "grid", 1, 1, "fp8_w8a8", "bfloat16", MOE_SIZES)


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
    check = bench.check(case, "torch")
    assert (check.status, check.reason) == (Status.OK, "")
    assert check.relative_error is not None
    assert check.relative_error <= find_kernel("silu_mul_fp8").tolerance["fp8_group128"].relative_error
    assert check.flops > 0
    assert check.bytes_moved > 16 * 256
    samples_us = bench.time(case, "torch", "wall")
    assert len(samples_us) >= 5
    assert all(us > 0 for us in samples_us)


def test_the_ceilings_are_measured_beside_the_layer_that_is_loaded(bench: Bench) -> None:
    bench.load_layer(SILU, 7)
    assert {rate.name for rate in bench.ceilings()} == {"copy", "bfloat16 gemm", "float32 gemm"}
    assert bench.check(Case(SILU, 16), "torch").status is Status.OK


def test_a_provider_that_cannot_run_here_says_why_and_makes_no_inputs(bench: Bench) -> None:
    bench.load_layer(SILU, 7)
    check = bench.check(Case(SILU, 16, {"token_strategy": "uniform"}), "vllm-cuda")
    assert check.status is Status.UNSUPPORTED
    assert check.reason
    assert (check.relative_error, check.flops) == (None, 0)


def test_loading_a_layer_replaces_the_one_before(bench: Bench) -> None:
    first = bench.load_layer(MOE, 7)
    case = Case(MOE, 4)
    checked = bench.check(case, "torch")
    assert checked.status is Status.OK
    assert bench.load_layer(MOE, 8).sha256 != first.sha256
    assert bench.check(case, "torch").status is Status.OK
    bench.load_layer(MOE, 7)
    assert bench.check(case, "torch") == checked


def test_cases_of_one_layer_do_not_see_each_others_inputs(bench: Bench) -> None:
    bench.load_layer(MOE, 7)
    alone = [bench.check(Case(MOE, tokens), "torch") for tokens in (1, 4)]
    mixed = [bench.check(Case(MOE, tokens), "torch") for tokens in (1, 4, 1, 4)]
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
        assert bench.check(Case(layer, 16), "torch").status is Status.OK
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
        bench.check(Case(SILU, 16, {"token_strategy": "uniform"}), "no-such-provider")


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
        assert bench.check(case, "good").status is Status.OK
        assert bench.check(case, "idle").status is Status.WRONG
