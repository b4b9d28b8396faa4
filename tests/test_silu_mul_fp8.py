"""SiLU-mul-FP8 in Triton's interpreter against plain torch, down to no rows at all."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import silu_mul_fp8
from kernels.errors import ShapeError
from kernels.silu_mul_fp8 import (
    GROUP_SIZE,
    KERNEL,
    check_layer,
    empty_outputs,
    find_vllm_module,
    launch_config,
    silu_mul_fp8_reference,
    silu_mul_fp8_triton,
)
from kernels.spec import Case, Device, Layer

CPU = torch.device("cpu")


def case_of(num_experts: int = 3, max_tokens: int = 4, intermediate_size: int = 256, strategy: str = "uniform") -> Case:
    sizes = {"num_experts": num_experts, "intermediate_size": intermediate_size}
    layer = Layer("silu_mul_fp8", "grid", 1, 1, "fp8_group128", "bfloat16", sizes)
    return Case(layer, max_tokens, {"token_strategy": strategy})


def random_y(num_experts: int, max_tokens: int, intermediate_size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_experts, max_tokens, 2 * intermediate_size, generator=generator).bfloat16()


def poisoned_outputs(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    codes, scales = empty_outputs(y)
    codes.view(torch.uint8).fill_(0xFF)
    return codes, scales.fill_(float("nan"))


def check(y: torch.Tensor, counts: list[int], monkeypatch: pytest.MonkeyPatch, num_programs: int | None = None) -> None:
    """The valid rows match the slow, obvious formula and the padding is still poisoned."""
    tokens_per_expert = torch.tensor(counts, dtype=torch.int32)
    config = launch_config(y)
    with monkeypatch.context() as patch:
        patch.setattr(silu_mul_fp8, "empty_outputs", poisoned_outputs)
        patch.setattr(silu_mul_fp8, "launch_config", lambda _: config | {"num_programs": num_programs or 5})
        codes, scales = silu_mul_fp8_triton(y, tokens_per_expert)
    half = y.shape[2] // 2
    for e, n in enumerate(counts):
        gate, up = y[e, :n, :half].double(), y[e, :n, half:].double()
        groups = (gate / (1 + torch.exp(-gate)) * up).unflatten(-1, (half // GROUP_SIZE, GROUP_SIZE))
        expected_scales = groups.abs().amax(-1).clamp(min=1e-10) / 448
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


def test_one_expert_with_one_row_of_one_group_works(monkeypatch: pytest.MonkeyPatch):
    check(random_y(1, 1, 128), [1], monkeypatch)


@settings(max_examples=12, deadline=None)
@given(
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=6),
    num_groups=st.integers(1, 3),
    num_programs=st.integers(1, 9),
)
def test_any_token_counts_match_the_formula(counts: list[int], num_groups: int, num_programs: int):
    with pytest.MonkeyPatch.context() as monkeypatch:
        check(random_y(len(counts), 6, 128 * num_groups), counts, monkeypatch, num_programs)


def test_an_all_zero_group_has_the_floor_as_its_scale():
    codes, scales = silu_mul_fp8_triton(
        torch.zeros(1, 2, 256, dtype=torch.bfloat16), torch.tensor([2], dtype=torch.int32)
    )
    assert (codes.float() == 0).all()
    torch.testing.assert_close(scales, torch.full((1, 2, 1), 1e-10 / 448))


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


def test_the_scales_are_column_major_per_expert():
    _, scales = empty_outputs(random_y(2, 5, 384))
    assert scales.shape == (2, 5, 3)
    assert scales.stride() == (15, 1, 5)


def test_the_reference_holds_valid_rows_only():
    y = random_y(3, 4, 128)
    y[1, 2:] = float("nan")
    reference = silu_mul_fp8_reference(y, torch.tensor([0, 2, 1], dtype=torch.int32))
    assert reference.shape == (3, 128)
    assert reference.dtype == torch.float32
    assert reference.isfinite().all()


def test_decoding_ignores_the_padding_and_the_strides_of_the_scales():
    case = case_of()
    inputs = KERNEL.make_inputs(case, {}, 0, CPU)
    codes, scales = KERNEL.providers["torch"].prepare(case, {}, inputs).run()
    column_major = empty_outputs(inputs["y"])[1].copy_(scales)
    for e, n in enumerate(inputs["tokens_per_expert"].tolist()):
        codes.view(torch.uint8)[e, n:] = 0xFF
        column_major[e, n:] = float("nan")
    expected = KERNEL.reference(case, {}, inputs)
    torch.testing.assert_close(KERNEL.decode(case, inputs, (codes, column_major)), expected)


def test_the_strategies_count_tokens_as_they_say():
    def counts(strategy: str, max_tokens: int) -> list[int]:
        case = case_of(num_experts=20, max_tokens=max_tokens, strategy=strategy)
        return KERNEL.make_inputs(case, {}, 1, CPU)["tokens_per_expert"].tolist()

    assert all(7 <= n < 10 for n in counts("uniform", 10))
    assert len(set(counts("uniform", 10))) > 1
    assert counts("uniform", 1) == [1] * 20
    assert counts("max_t", 10) == [10] * 20
    assert counts("first_t", 10) == [10] + [0] * 19


def test_an_unknown_strategy_is_an_error_that_lists_those_there_are():
    with pytest.raises(ShapeError, match=r"'last_t'.*uniform, max_t, first_t"):
        KERNEL.make_inputs(case_of(strategy="last_t"), {}, 0, CPU)


def test_costs_count_the_actual_tokens():
    case = case_of(num_experts=4, max_tokens=8, intermediate_size=256, strategy="first_t")
    inputs = KERNEL.make_inputs(case, {}, 0, CPU)
    assert KERNEL.flops(case, inputs) == 8 * 8 * 256
    assert KERNEL.bytes_moved(case, inputs) == 8 * (2 * 256 * 2 + 256 + 2 * 4) + 4 * 4


@pytest.mark.parametrize("intermediate_size", [0, 100, 192])
def test_an_intermediate_size_of_no_whole_groups_is_a_shape_error(intermediate_size: int):
    with pytest.raises(ShapeError, match=f"intermediate_size {intermediate_size} .*multiple of 128"):
        KERNEL.check_layer(case_of(intermediate_size=intermediate_size).layer)


def test_inputs_the_kernel_does_not_take_are_shape_errors():
    y, counts = random_y(2, 3, 128), torch.ones(2, dtype=torch.int32)
    with pytest.raises(ShapeError, match="multiple of 128"):
        silu_mul_fp8_triton(y[..., :200].contiguous(), counts)
    with pytest.raises(ShapeError, match="contiguous bfloat16"):
        silu_mul_fp8_triton(y.float(), counts)
    with pytest.raises(ShapeError, match="contiguous bfloat16"):
        silu_mul_fp8_triton(y.transpose(0, 1), counts)
    with pytest.raises(ShapeError, match=r"int32 \[2\]"):
        silu_mul_fp8_triton(y, counts.long())


def test_a_wrong_row_does_not_pass_the_tolerance():
    case = case_of()
    inputs = KERNEL.make_inputs(case, {}, 0, CPU)
    reference = KERNEL.reference(case, {}, inputs)
    wrong = reference.clone()
    wrong[0, 0] += 2 * reference.square().mean().sqrt()
    close = (wrong - reference).abs() <= KERNEL.tolerance["fp8_group128"].element_error * (
        reference.abs() + reference.square().mean().sqrt()
    )
    assert close.float().mean() < KERNEL.tolerance["fp8_group128"].share_close


@pytest.mark.parametrize(
    ("provider", "device", "reason"),
    [
        ("torch", Device("cpu", "cpu: x"), None),
        ("triton", Device("cpu", "cpu: x"), "needs a CUDA GPU (this is cpu)"),
        ("triton", Device("cuda", "NVIDIA A100", (8, 0)), "needs sm_89 (this is sm_80)"),
        ("triton", Device("cuda", "NVIDIA H200", (9, 0)), None),
        ("vllm-cuda", Device("cpu", "cpu: x"), "needs a CUDA GPU (this is cpu)"),
        ("vllm-cuda", Device("cuda", "NVIDIA V100", (7, 0)), "needs sm_80 (this is sm_70)"),
    ],
)
def test_a_provider_says_why_it_cannot_run(provider: str, device: Device, reason: str | None):
    assert KERNEL.providers[provider].unsupported(case_of(), device) == reason


def test_vllm_is_found_by_its_file_without_importing_it(tmp_path, monkeypatch: pytest.MonkeyPatch):
    h200 = Device("cuda", "NVIDIA H200", (9, 0))
    unsupported = KERNEL.providers["vllm-cuda"].unsupported
    package = tmp_path / "vllm"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('vllm was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert unsupported(case_of(), h200).startswith("needs a vllm package that has ")
    for module in reversed(silu_mul_fp8.VLLM_MODULES):
        path = tmp_path / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert find_vllm_module() == module
    assert unsupported(case_of(), h200) is None


def test_without_vllm_the_reason_is_that_it_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(silu_mul_fp8.importlib.util, "find_spec", lambda _: None)
    reason = KERNEL.providers["vllm-cuda"].unsupported(case_of(), Device("cuda", "NVIDIA H200", (9, 0)))
    assert reason == "needs the vllm package, which is not installed"


def test_activations_of_another_dtype_are_refused_instead_of_renamed() -> None:
    layer = Layer("silu_mul_fp8", "grid", 1, 1, "fp8_group128", "float16", {"num_experts": 2, "intermediate_size": 128})
    with pytest.raises(ShapeError, match=r"dtype float16 of .*: silu_mul_fp8 takes bfloat16; leave --dtype out"):
        check_layer(layer)
