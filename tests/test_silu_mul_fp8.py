"""SiLU-mul-FP8 in Triton's interpreter against plain torch, in every scheme, down to no rows at all."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from compilations import compile_everywhere
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import silu

from kernels import requirements
from kernels.errors import ShapeError
from kernels.quantize.fp8 import ceil_to_ue8m0, dequantize_fp8_group
from kernels.silu import triton as silu_triton
from kernels.silu.groups import SCHEMES, GroupScheme, empty_outputs
from kernels.silu.triton import MAX_REGISTERS, default_config, inverse_ue8m0_scale, silu_mul_fp8_triton, ue8m0_scale
from kernels.silu_mul_fp8 import KERNEL, check_layer, draw_token_counts, quantize_silu_mul, silu_mul_fp8_reference
from kernels.spec import Case, Device, Layer

CPU = torch.device("cpu")
H200 = Device("cuda", "NVIDIA H200", (9, 0))
GROUP_128 = SCHEMES["fp8_group128"]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
like_a_gpu = pytest.mark.filterwarnings("ignore::RuntimeWarning")
"""numpy, which is the interpreter, warns of infinities and NaN that a GPU computes with as silently as torch."""


def case_of(
    num_experts: int = 3,
    max_tokens: int = 4,
    intermediate_size: int = 256,
    strategy: str = "uniform",
    scheme: str = "fp8_group128",
) -> Case:
    sizes = {"num_experts": num_experts, "intermediate_size": intermediate_size}
    layer = Layer("silu_mul_fp8", "grid", 1, 1, scheme, "bfloat16", sizes)
    return Case(layer, max_tokens, {"token_strategy": strategy})


def random_y(num_experts: int, max_tokens: int, intermediate_size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_experts, max_tokens, 2 * intermediate_size, generator=generator).bfloat16()


def poisoned_outputs(y: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    codes, scales = empty_outputs(y, group_size)
    codes.view(torch.uint8).fill_(0xFF)
    return codes, scales.fill_(float("nan"))


def check(
    y: torch.Tensor,
    counts: list[int],
    monkeypatch: pytest.MonkeyPatch,
    num_programs: int = 5,
    scheme: GroupScheme = GROUP_128,
) -> None:
    """The valid rows match the slow, obvious formula and the padding is still poisoned."""
    tokens_per_expert = torch.tensor(counts, dtype=torch.int32)
    config = replace(default_config(y, scheme.group_size), num_programs=num_programs)
    with monkeypatch.context() as patch:
        patch.setattr(silu_triton, "empty_outputs", poisoned_outputs)
        codes, scales = silu_mul_fp8_triton(y, tokens_per_expert, scheme.group_size, scheme.ue8m0, config)
    half = y.shape[2] // 2
    for e, n in enumerate(counts):
        gate, up = y[e, :n, :half].double(), y[e, :n, half:].double()
        groups = (gate / (1 + torch.exp(-gate)) * up).unflatten(-1, (half // scheme.group_size, scheme.group_size))
        expected_scales = groups.abs().amax(-1).clamp(min=1e-10) / 448
        if scheme.ue8m0:
            expected_scales = torch.exp2(expected_scales.log2().ceil())
        torch.testing.assert_close(scales[e, :n].double(), expected_scales, rtol=1e-5, atol=0)
        difference = codes[e, :n].double().reshape(groups.shape) - groups / expected_scales[..., None]
        # Half an e4m3 code, of a 3-bit mantissa or of the subnormals' step.
        assert (difference.abs() <= ((groups / expected_scales[..., None]).abs() / 16).clamp(min=2**-10) * 1.001).all()
        assert codes[e, n:].float().isnan().all()
        assert scales[e, n:].isnan().all()


@pytest.mark.parametrize(
    "counts",
    [[0, 0, 0], [4, 4, 4], [4, 0, 0], [0, 0, 4], [0, 1, 0], [1, 0, 3]],
    ids=["no rows", "all rows", "first expert", "last expert", "one row", "an empty expert between"],
)
@pytest.mark.parametrize("intermediate_size", [128, 384])
def test_every_valid_row_is_written_and_nothing_else(
    counts: list[int], intermediate_size: int, monkeypatch: pytest.MonkeyPatch
):
    check(random_y(3, 4, intermediate_size), counts, monkeypatch)


@pytest.mark.parametrize("num_programs", [1, 2, 7, 40])
def test_any_number_of_programs_shares_the_work(num_programs: int, monkeypatch: pytest.MonkeyPatch):
    check(random_y(5, 3, 256), [3, 0, 2, 1, 3], monkeypatch, num_programs)


def test_a_range_longer_than_a_tile_is_walked(monkeypatch: pytest.MonkeyPatch):
    check(random_y(2, 20, 384), [17, 20], monkeypatch, num_programs=2)


@every_scheme
def test_one_expert_with_one_row_of_one_group_works(scheme: str, monkeypatch: pytest.MonkeyPatch):
    check(random_y(1, 1, SCHEMES[scheme].group_size), [1], monkeypatch, scheme=SCHEMES[scheme])


@settings(max_examples=30, deadline=None)
@given(
    scheme=st.sampled_from(list(SCHEMES.values())),
    counts=st.lists(st.integers(0, 7), min_size=1, max_size=6),
    num_groups=st.integers(1, 5),
    num_programs=st.integers(1, 9),
)
def test_any_token_counts_match_the_formula(scheme: GroupScheme, counts: list[int], num_groups: int, num_programs: int):
    with pytest.MonkeyPatch.context() as monkeypatch:
        y = random_y(len(counts), 7, scheme.group_size * num_groups)
        check(y, counts, monkeypatch, num_programs, scheme)


@settings(max_examples=10, deadline=None)
@given(
    scheme=st.sampled_from(list(SCHEMES.values())),
    num_experts=st.integers(1, 40),
    max_tokens=st.sampled_from([1, 3, 5, 9]),
    expert=st.integers(0, 39),
)
def test_one_expert_may_have_everything(scheme: GroupScheme, num_experts: int, max_tokens: int, expert: int):
    counts = [max_tokens if e == expert % num_experts else 0 for e in range(num_experts)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        check(random_y(num_experts, max_tokens, 256), counts, monkeypatch, scheme=scheme)


@every_scheme
def test_an_all_zero_row_has_the_floor_as_its_scale_and_leaves_the_others_alone(scheme: str):
    y, counts = random_y(1, 3, 256), torch.tensor([3], dtype=torch.int32)
    y[0, 1] = 0
    codes, scales = silu_mul_fp8_triton(y, counts, SCHEMES[scheme].group_size, SCHEMES[scheme].ue8m0)
    assert (codes[0, 1].float() == 0).all()
    floor = 2.0**-42 if SCHEMES[scheme].ue8m0 else 1e-10 / 448
    torch.testing.assert_close(scales[0, 1], torch.full_like(scales[0, 1], floor))
    assert (codes[0, ::2].float() != 0).any(dim=-1).all()


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy's, in the interpreter; exp is meant to be inf
def test_very_negative_gates_give_zero_not_nan():
    y = torch.full((1, 1, 256), -1e4, dtype=torch.bfloat16)
    codes, scales = silu_mul_fp8_triton(y, torch.tensor([1], dtype=torch.int32))
    assert (codes.float() == 0).all()
    assert scales.isfinite().all()


def test_no_experts_or_no_tokens_launch_nothing():
    for shape in [(0, 4, 256), (2, 0, 256)]:
        codes, scales = silu_mul_fp8_triton(
            torch.empty(shape, dtype=torch.bfloat16), torch.zeros(shape[0], dtype=torch.int32)
        )
        assert codes.shape == (*shape[:2], 128)
        assert scales.shape == (*shape[:2], 1)


def decoded(case: Case, provider: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return KERNEL.decode(case, inputs, KERNEL.providers[provider].prepare(case, {}, inputs).run())


@like_a_gpu
@every_scheme
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("half", ["gate", "up"])
def test_an_infinity_or_nan_makes_its_group_nan_and_no_other(scheme: str, value: float, half: str):
    case = case_of(num_experts=2, max_tokens=3, intermediate_size=512, strategy="max_t", scheme=scheme)
    inputs = KERNEL.make_inputs(case, {}, 0, CPU)
    finite = KERNEL.reference(case, {}, inputs)
    inputs["y"][1, 1, 300 + (512 if half == "up" else 0)] = value
    groups = torch.arange(512) // SCHEMES[scheme].group_size
    expected = finite.clone()
    expected[3 * 1 + 1, groups == groups[300]] = float("nan")
    assert torch.equal(KERNEL.reference(case, {}, inputs).isnan(), expected.isnan())
    for provider in ("torch", "triton"):
        output = decoded(case, provider, inputs)
        assert torch.equal(output.isnan(), expected.isnan())
        torch.testing.assert_close(output.nan_to_num(), expected.nan_to_num(), rtol=0.13, atol=1e-3)


SPECIAL = (
    0.0,
    -0.0,
    1e-30,
    1e-38,
    1.0,
    -40.0,
    448.0,
    1e4,
    -1e4,
    1e19,
    -1e19,
    1e30,
    3.3e38,
    -3.3e38,
    *map(float, ("inf", "-inf", "nan")),
)


@like_a_gpu
@settings(max_examples=40, deadline=None)
@given(
    scheme=st.sampled_from(sorted(SCHEMES)),
    values=st.lists(st.tuples(st.integers(0, 2 * 3 * 1024 - 1), st.sampled_from(SPECIAL)), max_size=12),
)
def test_reference_torch_and_ours_agree_on_any_bfloat16(scheme: str, values: list[tuple[int, float]]):
    case = case_of(num_experts=2, max_tokens=3, intermediate_size=512, strategy="max_t", scheme=scheme)
    inputs = KERNEL.make_inputs(case, {}, 0, CPU)
    for position, value in values:
        inputs["y"].view(-1)[position] = value
    reference = KERNEL.reference(case, {}, inputs)
    torch.testing.assert_close(decoded(case, "torch", inputs), reference, rtol=0, atol=0, equal_nan=True)
    output = decoded(case, "triton", inputs)
    assert torch.equal(output.isnan(), reference.isnan())
    scales = quantize_silu_mul(inputs["y"], SCHEMES[scheme])[1].reshape(6, -1)
    # The next e4m3 code, of the mantissa or of the subnormals.
    limit = (reference.abs() / 8).maximum(scales.repeat_interleave(SCHEMES[scheme].group_size, dim=1) / 512) * 1.001
    close = (output == reference) | ((output - reference).abs() <= limit)
    assert (close | reference.isnan()).all()


@triton.jit
def ue8m0_kernel(amax_ptr, scales_ptr, inverses_ptr, N: tl.constexpr):
    offs = tl.arange(0, N)
    amax = tl.load(amax_ptr + offs)
    tl.store(scales_ptr + offs, ue8m0_scale(amax))
    tl.store(inverses_ptr + offs, inverse_ue8m0_scale(amax))


def test_the_kernels_powers_of_two_are_those_of_the_reference_to_the_last_bit():
    boundaries = 448 * 2.0 ** np.arange(-42, 119, dtype=np.float32)  # where the scale doubles: the next float up
    floats = np.concatenate(
        [np.nextafter(boundaries, np.float32(0)), boundaries, np.nextafter(boundaries, np.float32(np.inf))]
    )
    more = np.geomspace(1e-10, 3.4e38, 1022 - len(floats), dtype=np.float32)
    amax = torch.from_numpy(np.concatenate([floats, more, np.float32([np.finfo(np.float32).max, np.inf])]))
    scales, inverses = torch.empty_like(amax), torch.empty_like(amax)
    ue8m0_kernel[(1,)](amax, scales, inverses, N=1024)
    torch.testing.assert_close(scales, ceil_to_ue8m0(amax / 448), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(inverses, 1 / scales, rtol=0, atol=0, equal_nan=True)
    assert scales[:-1].isfinite().all()


# 256 experts is where registers are few.
COMPILE = """
import json, sys, torch
from dataclasses import asdict
from kernels.compile import compile_launches
from kernels.silu.groups import SCHEMES
from kernels.silu.triton import silu_mul_fp8_triton

y, counts = torch.empty(256, 1, 2 * 7168, dtype=torch.bfloat16), torch.ones(256, dtype=torch.int32)
compiled = []
for scheme in SCHEMES.values():
    compiled += compile_launches(sys.argv[1], lambda: silu_mul_fp8_triton(y, counts, scheme.group_size, scheme.ue8m0))
print(json.dumps([asdict(record) for record in compiled]))
"""


def test_the_largest_layer_compiles_without_a_spill_in_every_scheme():
    compiled = compile_everywhere(COMPILE)
    assert len(compiled) == 2 * len(SCHEMES)
    assert [record for record in compiled if record["spill_bytes"] or record["registers"] > MAX_REGISTERS] == []


@every_scheme
def test_the_scales_are_column_major_per_expert(scheme: str):
    group_size = SCHEMES[scheme].group_size
    _, scales = empty_outputs(random_y(2, 5, 3 * group_size), group_size)
    assert scales.shape == (2, 5, 3)
    assert scales.stride() == (15, 1, 5)


def test_the_reference_holds_valid_rows_only():
    y = random_y(3, 4, 128)
    y[1, 2:] = float("nan")
    reference = silu_mul_fp8_reference(y, torch.tensor([0, 2, 1], dtype=torch.int32), GROUP_128)
    assert reference.shape == (3, 128)
    assert reference.dtype == torch.float32
    assert reference.isfinite().all()


def test_decoding_ignores_the_padding_and_the_strides_of_the_scales():
    case = case_of()
    inputs = KERNEL.make_inputs(case, {}, 0, CPU)
    codes, scales = KERNEL.providers["torch"].prepare(case, {}, inputs).run()
    column_major = empty_outputs(inputs["y"], 128)[1].copy_(scales)
    for e, n in enumerate(inputs["tokens_per_expert"].tolist()):
        codes.view(torch.uint8)[e, n:] = 0xFF
        column_major[e, n:] = float("nan")
    expected = KERNEL.reference(case, {}, inputs)
    torch.testing.assert_close(KERNEL.decode(case, inputs, (codes, column_major)), expected)


def counts_of(strategy: str, max_tokens: int, num_experts: int = 20, seed: int = 1) -> list[int]:
    case = case_of(num_experts, max_tokens, strategy=strategy)
    return draw_token_counts(case, torch.Generator().manual_seed(seed)).tolist()


def test_the_strategies_count_tokens_as_they_say():
    assert all(7 <= n < 10 for n in counts_of("uniform", 10))
    assert len(set(counts_of("uniform", 10))) > 1
    assert counts_of("uniform", 1) == [1] * 20
    assert counts_of("max_t", 10) == [10] * 20
    assert counts_of("first_t", 10) == [10] + [0] * 19


def test_imbalanced_counts_are_random_but_for_the_first_and_half_full_on_average():
    counts = counts_of("random_imbalanced", 1024, num_experts=256)
    assert counts[0] == int(512 / 0.7)
    assert min(counts) < 50
    assert max(counts) > 950
    assert abs(sum(counts) - 256 * 512) < 0.05 * 256 * 512
    assert counts == counts_of("random_imbalanced", 1024, num_experts=256)
    assert counts != counts_of("random_imbalanced", 1024, num_experts=256, seed=2)


@settings(max_examples=30, deadline=None)
@given(num_experts=st.integers(1, 9), max_tokens=st.integers(1, 65), seed=st.integers(0, 99))
def test_no_imbalanced_count_is_more_than_an_expert_holds(num_experts: int, max_tokens: int, seed: int):
    counts = counts_of("random_imbalanced", max_tokens, num_experts, seed)
    assert all(0 <= n <= max_tokens for n in counts)
    assert sum(counts) > 0


def test_an_unknown_strategy_is_an_error_that_lists_those_there_are():
    with pytest.raises(ShapeError, match=r"'last_t'.*uniform, max_t, first_t, random_imbalanced"):
        KERNEL.make_inputs(case_of(strategy="last_t"), {}, 0, CPU)


@every_scheme
def test_costs_count_the_actual_tokens(scheme: str):
    case = case_of(num_experts=4, max_tokens=8, intermediate_size=512, strategy="first_t", scheme=scheme)
    inputs = KERNEL.make_inputs(case, {}, 0, CPU)
    groups = 512 // SCHEMES[scheme].group_size
    assert KERNEL.flops(case, inputs) == 8 * 8 * 512
    assert KERNEL.bytes_moved(case, inputs) == 8 * (2 * 512 * 2 + 512 + groups * 4) + 4 * 4


@every_scheme
@pytest.mark.parametrize("intermediate_size", [0, 100, 32, 480])
def test_an_intermediate_size_of_no_whole_groups_is_a_shape_error(scheme: str, intermediate_size: int):
    layer = case_of(intermediate_size=intermediate_size, scheme=scheme).layer
    with pytest.raises(ShapeError, match=f"intermediate_size {intermediate_size} .*{SCHEMES[scheme].group_size}: "):
        check_layer(layer)


def test_smaller_groups_divide_what_larger_ones_do_not():
    check_layer(case_of(intermediate_size=192, scheme="fp8_group64").layer)
    with pytest.raises(ShapeError, match=r"not a multiple of 128: choose a tp_size .* or a scheme of smaller ones"):
        check_layer(case_of(intermediate_size=192).layer)


def test_inputs_the_kernel_does_not_take_are_shape_errors():
    y, counts = random_y(2, 3, 128), torch.ones(2, dtype=torch.int32)
    with pytest.raises(ShapeError, match="multiple of 128"):
        silu_mul_fp8_triton(y[..., :200].contiguous(), counts)
    with pytest.raises(ShapeError, match="multiple of 256"):
        silu_mul_fp8_triton(y, counts, group_size=256)
    with pytest.raises(ShapeError, match="contiguous bfloat16"):
        silu_mul_fp8_triton(y.float(), counts)
    with pytest.raises(ShapeError, match="contiguous bfloat16"):
        silu_mul_fp8_triton(y.transpose(0, 1), counts)
    with pytest.raises(ShapeError, match=r"int32 \[2\]"):
        silu_mul_fp8_triton(y, counts.long())


def error_of(output: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    """Relative error in norm, and the largest of an element, as Tolerance defines them."""
    difference = output - reference
    elements = difference.abs() / (reference.abs() + reference.square().mean().sqrt())
    return float(difference.norm() / reference.norm()), float(elements.max())


def quantize_in_bfloat16(y: torch.Tensor, scheme: GroupScheme) -> torch.Tensor:
    """The formula with every step rounded to bfloat16, as vLLM's CUDA kernel computes it; dequantized."""
    gate, up = y.chunk(2, dim=-1)
    groups = (silu(gate.float()).bfloat16() * up).unflatten(-1, (-1, scheme.group_size))
    scales = groups.abs().amax(-1) * (1 / torch.tensor(448.0)).bfloat16()
    if scheme.ue8m0:
        scales = torch.exp2(torch.ceil(torch.log2(scales)))
    codes = (groups * (1 / scales)[..., None]).clamp(-448, 448).to(torch.float8_e4m3fn)
    return dequantize_fp8_group(codes.flatten(-2), scales.float())


@every_scheme
def test_the_reason_of_a_tolerance_says_how_far_bfloat16_arithmetic_is(scheme: str):
    y = random_y(1, 512, 7168)[0]
    reference = dequantize_fp8_group(*quantize_silu_mul(y, SCHEMES[scheme]))
    relative_error, element_error = error_of(quantize_in_bfloat16(y, SCHEMES[scheme]), reference)
    tolerance = KERNEL.tolerance[scheme]
    assert relative_error <= tolerance.relative_error
    assert element_error <= tolerance.element_error
    assert 0.013 < relative_error < 0.024
    assert "0.013 to 0.024 in norm" in tolerance.reason


@every_scheme
def test_a_wrong_row_does_not_pass_the_tolerance(scheme: str):
    case = case_of(scheme=scheme)
    reference = KERNEL.reference(case, {}, KERNEL.make_inputs(case, {}, 0, CPU))
    wrong = reference.clone()
    wrong[0, 0] += 2 * reference.square().mean().sqrt()
    assert KERNEL.tolerance[scheme].share_close == 1
    assert error_of(wrong, reference)[1] > KERNEL.tolerance[scheme].element_error


def test_codes_of_the_other_kind_of_scale_do_not_pass_the_tolerance():
    y = random_y(1, 64, 1024)
    plain, ue8m0 = (
        dequantize_fp8_group(*quantize_silu_mul(y, SCHEMES[f"fp8_group128{end}"])) for end in ("", "_ue8m0")
    )
    assert error_of(plain, ue8m0)[0] > KERNEL.tolerance["fp8_group128_ue8m0"].relative_error
    assert error_of(ue8m0, plain)[0] > KERNEL.tolerance["fp8_group128"].relative_error


@pytest.mark.parametrize(
    ("provider", "device", "reason"),
    [
        ("torch", Device("cpu", "cpu: x"), None),
        ("triton", Device("cpu", "cpu: x"), "needs a CUDA GPU (this is cpu)"),
        ("triton", Device("cuda", "NVIDIA A100", (8, 0)), "needs sm_89 (this is sm_80)"),
        ("triton", H200, None),
        ("vllm-cuda", Device("cpu", "cpu: x"), "needs a CUDA GPU (this is cpu)"),
        ("vllm-cuda", Device("cuda", "NVIDIA V100", (7, 0)), "needs sm_80 (this is sm_70)"),
        ("vllm-triton", Device("cuda", "NVIDIA A100", (8, 0)), "needs sm_89 (this is sm_80)"),
    ],
)
def test_a_provider_says_why_it_cannot_run(provider: str, device: Device, reason: str | None):
    assert KERNEL.providers[provider].unsupported(case_of(), device) == reason


def test_a_group_size_that_no_device_changes_is_named_before_the_device_and_the_package(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda _: None)
    for device in (Device("cpu", "cpu: x"), H200):
        reason = KERNEL.providers["vllm-cuda"].unsupported(case_of(scheme="fp8_group64"), device)
        assert reason == "vLLM's kernel takes groups of 128 (this is 64)"


@pytest.mark.parametrize("provider", ["vllm-cuda", "vllm-triton"])
def test_without_vllm_the_reason_is_that_it_is_not_installed(provider: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda _: None)
    reason = KERNEL.providers[provider].unsupported(case_of(), H200)
    assert reason == "needs the vllm package, which is not installed"


@every_scheme
def test_vllms_cuda_kernel_takes_groups_of_128_and_its_triton_kernel_any(scheme: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda _: object())
    size, case = SCHEMES[scheme].group_size, case_of(scheme=scheme)
    expected = None if size == 128 else f"vLLM's kernel takes groups of 128 (this is {size})"
    assert KERNEL.providers["vllm-cuda"].unsupported(case, H200) == expected
    assert KERNEL.providers["vllm-triton"].unsupported(case, H200) is None


def test_activations_of_another_dtype_are_refused_instead_of_renamed() -> None:
    layer = Layer("silu_mul_fp8", "grid", 1, 1, "fp8_group128", "float16", {"num_experts": 2, "intermediate_size": 128})
    with pytest.raises(ShapeError, match=r"dtype float16 of .*: silu_mul_fp8 takes bfloat16; leave --dtype out"):
        check_layer(layer)
