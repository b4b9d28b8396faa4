"""Suites and command-line selections to units of work, on two small kernels of the registry's own type."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from kernels.errors import ShapeError
from kernels.spec import Case, Device, Kernel, Launch, Layer, Provider, Tensors, Tolerance
from tasks.errors import UnknownNameError, UsageError
from tasks.planning.cases import Plan, Selection, plan_units, resolve_shapes
from tasks.planning.entries import GridEntry, KernelEntry, ModelEntry, Suite
from tasks.records import ModelShape

GROUP = 128


def check_group(layer: Layer) -> None:
    for name in ("intermediate_size", "k"):
        if layer.scheme.endswith(str(GROUP)) and layer.sizes.get(name, 0) % GROUP:
            raise ShapeError(f"{name} {layer.sizes[name]} is not divisible by {GROUP}")


def double(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    return Launch(run=lambda: (inputs["x"] * 2,))


def make_no_weights(layer: Layer, seed: int, device: torch.device) -> Tensors:
    return {}


def make_ones(case: Case, weights: Tensors, seed: int, device: torch.device) -> Tensors:
    return {"x": torch.ones(case.num_tokens)}


def double_reference(case: Case, weights: Tensors, inputs: Tensors) -> torch.Tensor:
    return inputs["x"] * 2


def count_tokens(case: Case, inputs: Tensors) -> int:
    return case.num_tokens


def accept(case: Case, device: Device) -> str | None:
    return None


def make_kernel(
    name: str,
    schemes: tuple[str, ...],
    size_names: tuple[str, ...],
    providers: tuple[str, ...],
    options: Mapping[str, tuple[str, ...]] | None = None,
) -> Kernel:
    return Kernel(
        name=name,
        title=name,
        schemes=schemes,
        size_names=size_names,
        make_weights=make_no_weights,
        make_inputs=make_ones,
        reference=double_reference,
        providers={provider: Provider(double, accept) for provider in providers},
        baseline=providers[0],
        tolerance=dict.fromkeys(schemes, Tolerance(0.0, 0.0, 1.0, "doubling is exact")),
        flops=count_tokens,
        bytes_moved=count_tokens,
        check_layer=check_group,
        options=options or {},
    )


MOE_SIZES = ("num_experts", "top_k", "hidden_size", "intermediate_size")
REGISTRY = {
    "moe": make_kernel("moe", ("fp8", "fp8_block128"), MOE_SIZES, ("torch", "triton", "vllm")),
    "act": make_kernel(
        "act",
        ("fp8_group128",),
        ("num_experts", "intermediate_size"),
        ("torch", "triton"),
        {"fill": ("uniform", "full"), "order": ("up", "down")},
    ),
    "gemm": make_kernel("gemm", ("mxfp4", "fp8", "mxfp4_hadamard128"), ("n", "k"), ("torch",)),
}
SUITE = Suite(
    name="small",
    description="two models and a grid",
    entries=(
        ModelEntry("Qwen3-30B-A3B", 8, (KernelEntry("moe", ("fp8",), (1, 4)),)),
        ModelEntry(
            "Mixtral-8x7B",
            8,
            (KernelEntry("moe", ("fp8", "fp8_block128"), (4, 16)), KernelEntry("act", (), (16,), {"fill": ("full",)})),
        ),
        GridEntry("act", {"num_experts": 9, "intermediate_size": 256}, (64,), {"fill": ("uniform", "full")}),
    ),
    min_device="cpu",
)


def plan(selection: Selection, suite: Suite = SUITE, device_type: str = "cpu") -> Plan:
    return plan_units(suite, resolve_shapes(suite, selection), selection, device_type, REGISTRY)


def names(selected: Plan) -> list[tuple[str, str, str]]:
    return [(unit.layer.kernel, unit.layer.label, unit.layer.scheme) for unit in selected.units]


def test_a_suite_becomes_one_unit_per_kernel_layer_and_scheme() -> None:
    selected = plan(Selection())
    assert names(selected) == [
        ("moe", "Qwen3-30B-A3B TP8", "fp8"),
        ("moe", "Mixtral-8x7B TP8", "fp8"),
        ("moe", "Mixtral-8x7B TP8", "fp8_block128"),
        ("act", "Mixtral-8x7B TP8", "fp8_group128"),
        ("act", "grid", "fp8_group128"),
    ]
    assert selected.left_out == ()
    assert [unit.providers for unit in selected.units][-2:] == [("torch", "triton")] * 2


def test_a_layer_has_exactly_the_sizes_its_kernel_takes_in_its_order() -> None:
    units = plan(Selection()).units
    assert tuple(units[0].layer.sizes.items()) == (
        ("num_experts", 128),
        ("top_k", 8),
        ("hidden_size", 2048),
        ("intermediate_size", 96),
    )
    assert tuple(units[3].layer.sizes) == ("num_experts", "intermediate_size")


def test_a_unit_has_every_batch_size_with_every_option_and_names_only_those_not_at_their_default() -> None:
    grid = plan(Selection()).units[-1]
    assert [(case.num_tokens, dict(case.options)) for case in grid.cases] == [(64, {}), (64, {"fill": "full"})]


def test_a_default_that_is_named_is_the_case_that_is_run_without_it() -> None:
    sizes = {"num_experts": 9, "intermediate_size": 256}
    named = GridEntry("act", sizes, (1,), {"fill": ("uniform",), "order": ("up",)})
    (unit,) = plan(Selection(), Suite("twice", "", (named, GridEntry("act", sizes, (1,))), "cpu")).units
    assert [case.key for case in unit.cases] == [f"{unit.layer.key}/num_tokens=1"]


def test_given_options_replace_the_suites_where_a_kernel_has_them() -> None:
    selected = plan(Selection(options=("fill=uniform", "order=down", "order=up")))
    assert [[dict(case.options) for case in unit.cases] for unit in selected.units][-2:] == [
        [{"order": "down"}, {}],
        [{"order": "down"}, {}],
    ]
    assert [len(unit.cases) for unit in selected.units][:3] == [2, 2, 2]
    assert selected.left_out == ()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("fill", r"^--option fill has no value; give NAME=VALUE \(all: kernel-nightly list options\)$"),
        ("fil=full", "^unknown option 'fil'; nearest: fill "),
        ("fill=half", "^--option fill=half: fill has no value 'half'; give one of uniform, full$"),
    ],
)
def test_an_option_that_no_kernel_takes_is_one_clear_line(option: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(Selection(options=(option,)))


def test_units_are_timed_with_the_devices_first_timer_unless_others_are_asked_for() -> None:
    both = Suite("both", "", SUITE.entries, "cuda", timers=("graph", "eager"))
    assert {unit.timers for unit in plan(Selection()).units} == {("wall",)}
    assert {unit.timers for unit in plan(Selection(), device_type="cuda").units} == {("graph",)}
    assert {unit.timers for unit in plan(Selection(), both, "cuda").units} == {("graph", "eager")}
    assert {unit.timers for unit in plan(Selection(timers=("eager",)), both, "cuda").units} == {("eager",)}


@pytest.mark.parametrize(
    ("timer", "device_type", "message"),
    [
        ("grap", "cuda", "^unknown timer 'grap'; nearest: graph "),
        ("eager", "cpu", "^--timer eager works on cuda, this run is on cpu; give wall$"),
        ("wall", "cuda", "^--timer wall works on cpu, this run is on cuda; give graph or cold or eager$"),
    ],
)
def test_a_timer_that_does_not_exist_or_fit_is_one_clear_line(timer: str, device_type: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(Selection(timers=(timer,)), device_type=device_type)


def test_a_grid_runs_in_the_schemes_it_names() -> None:
    grid = GridEntry("gemm", {"n": 8, "k": 8}, (1,), schemes=("fp8", "mxfp4"))
    assert [scheme for _, _, scheme in names(plan(Selection(), Suite("grids", "", (grid,), "cpu")))] == ["fp8", "mxfp4"]


DENSE = Suite(
    "dense",
    "",
    (
        ModelEntry("Llama-3.1-8B", 8, (KernelEntry("gemm", ("mxfp4",), (1,)),)),
        ModelEntry("Mixtral-8x7B", 2, (KernelEntry("moe", ("fp8",), (1,)),)),
    ),
    "cpu",
)


def test_a_dense_model_has_a_unit_per_linear_layer() -> None:
    units = plan(Selection(kernels=("gemm",)), DENSE).units
    assert [(unit.layer.module, dict(unit.layer.sizes)) for unit in units] == [
        ("qkv_proj", {"n": 768, "k": 4096}),
        ("o_proj", {"n": 4096, "k": 512}),
        ("gate_up_proj", {"n": 3584, "k": 4096}),
        ("down_proj", {"n": 4096, "k": 1792}),
    ]
    assert units[0].layer.label == "Llama-3.1-8B qkv_proj TP8"


def test_limits_filter_the_features_of_linear_layers_too() -> None:
    assert [label for _, label, _ in names(plan(Selection(limit_n=(768, 7168)), DENSE))] == [
        "Llama-3.1-8B qkv_proj TP8",
        "Mixtral-8x7B TP2",
    ]
    assert [label for _, label, _ in names(plan(Selection(limit_k=(512,)), DENSE))] == ["Llama-3.1-8B o_proj TP8"]


def test_a_kernel_of_experts_is_left_out_on_a_dense_model_even_if_its_scheme_was_asked_for() -> None:
    selected = plan(Selection(models=("Llama-3.1-8B",), schemes=("fp8", "mxfp4")), DENSE)
    assert {kernel for kernel, _, _ in names(selected)} == {"gemm"}
    assert selected.left_out == (
        "moe takes num_experts, top_k, hidden_size, intermediate_size; Llama-3.1-8B TP8 has n, k",
    )


def test_a_kernel_of_experts_alone_on_a_dense_model_is_an_error() -> None:
    with pytest.raises(ShapeError, match=r"moe takes num_experts, .*; Llama-3.1-8B TP8 has n, k"):
        plan(Selection(models=("Llama-3.1-8B",), kernels=("moe",)), DENSE)


def test_a_linear_layer_that_does_not_fit_is_left_out_beside_those_that_do(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 64, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 4, "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    suite = Suite("one", "", (GridEntry("gemm", {"n": 8, "k": 128}, (1,), schemes=("mxfp4_hadamard128",)),), "cpu")
    selected = plan(Selection(models=(str(tmp_path),)), suite)
    assert [unit.layer.module for unit in selected.units] == ["qkv_proj", "o_proj", "gate_up_proj"]
    assert selected.left_out[0].endswith("down_proj TP1: k 64 is not divisible by 128")


def test_an_entry_under_expert_parallelism_stands_beside_one_under_tensor_parallelism() -> None:
    kernels = (KernelEntry("moe", ("fp8",), (1,)),)
    suite = Suite(
        "both",
        "",
        (
            ModelEntry("Mixtral-8x7B", 8, kernels),
            ModelEntry("Mixtral-8x7B", 8, (KernelEntry("moe", ("fp8",), (2,)),), enable_expert_parallel=True),
        ),
        "cpu",
    )
    units = plan(Selection(), suite).units
    assert [(unit.layer.label, [case.num_tokens for case in unit.cases]) for unit in units] == [
        ("Mixtral-8x7B TP8", [1]),
        ("Mixtral-8x7B TP8 EP8", [2]),
    ]
    assert units[1].layer.sizes["num_experts"] == 1  # fewer than its top_k
    assert [label for _, label, _ in names(plan(Selection(enable_expert_parallel=True), suite))] == [
        "Mixtral-8x7B TP8 EP8"
    ]


def test_a_grid_belongs_to_no_model_and_no_parallelism() -> None:
    layer = plan(Selection()).units[-1].layer
    assert (layer.model, layer.tp_size, layer.ep_size, layer.dtype) == ("grid", 1, 1, "bfloat16")
    assert plan(Selection(dtype="float16")).units[-1].layer.dtype == "float16"


def test_entries_that_share_a_layer_share_its_unit() -> None:
    sizes = {"num_experts": 9, "intermediate_size": 256}
    suite = Suite("twice", "", (GridEntry("act", sizes, (1, 2)), GridEntry("act", sizes, (2, 3))), "cpu")
    (unit,) = plan(Selection(), suite).units
    assert [case.num_tokens for case in unit.cases] == [1, 2, 3]


def test_given_batch_sizes_replace_the_suites_everywhere() -> None:
    units = plan(Selection(batch_sizes=(7, 3, 7))).units
    assert all([*dict.fromkeys(case.num_tokens for case in unit.cases)] == [7, 3] for unit in units)


def test_a_given_tp_size_replaces_the_suites_and_leaves_grids_alone() -> None:
    labels = [label for _, label, _ in names(plan(Selection(tp_sizes=(1, 2), kernels=("moe",), schemes=("fp8",))))]
    assert labels == ["Qwen3-30B-A3B TP1", "Qwen3-30B-A3B TP2", "Mixtral-8x7B TP1", "Mixtral-8x7B TP2"]
    assert "grid" in [label for _, label, _ in names(plan(Selection(tp_sizes=(1,))))]


def test_given_models_replace_the_suites_and_every_kernel_of_the_suite_runs_on_them() -> None:
    selected = plan(Selection(models=("deepseek-v3",), tp_sizes=(8,)))
    assert names(selected) == [
        ("moe", "DeepSeek-V3 TP8", "fp8"),
        ("moe", "DeepSeek-V3 TP8", "fp8_block128"),
        ("act", "DeepSeek-V3 TP8", "fp8_group128"),
    ]
    assert [case.num_tokens for case in selected.units[0].cases] == [1, 4, 16]
    assert [case.num_tokens for case in selected.units[1].cases] == [4, 16]
    assert [(case.num_tokens, dict(case.options)) for case in selected.units[2].cases] == [
        (16, {"fill": "full"}),
        (64, {}),
        (64, {"fill": "full"}),
    ]


def test_a_given_model_keeps_the_suites_tp_size_and_one_the_suite_lacks_gets_1() -> None:
    shapes = resolve_shapes(SUITE, Selection(models=("Mixtral-8x7B", "DeepSeek-V3", "mistralai/Mixtral-8x7B")))
    assert [(shape.model, shape.tp_size) for shape in shapes] == [("Mixtral-8x7B", 8), ("DeepSeek-V3", 1)]


def test_expert_parallelism_and_dtype_reach_the_layers() -> None:
    units = plan(Selection(enable_expert_parallel=True, tp_sizes=(4,), dtype="float16", kernels=("moe",))).units
    assert {(unit.layer.ep_size, unit.layer.dtype) for unit in units} == {(4, "float16")}
    assert units[0].layer.sizes["num_experts"] == 32


def test_what_does_not_fit_a_given_model_is_left_out_with_its_reason() -> None:
    selected = plan(Selection(models=("Qwen3-30B-A3B",)))
    assert names(selected) == [("moe", "Qwen3-30B-A3B TP8", "fp8")]
    assert selected.left_out == (
        "moe fp8_block128 on Qwen3-30B-A3B TP8: intermediate_size 96 is not divisible by 128",
        "act fp8_group128 on Qwen3-30B-A3B TP8: intermediate_size 96 is not divisible by 128",
    )


def test_what_was_asked_for_by_scheme_and_does_not_fit_is_an_error() -> None:
    with pytest.raises(ShapeError, match="intermediate_size 96"):
        plan(Selection(models=("Qwen3-30B-A3B",), schemes=("fp8", "fp8_block128")))


def test_a_shape_of_which_nothing_fits_is_an_error_even_beside_one_that_fits() -> None:
    with pytest.raises(ShapeError, match="intermediate_size 96"):
        plan(Selection(models=("Mixtral-8x7B", "Qwen3-30B-A3B"), kernels=("act",)))


def test_a_kernel_of_other_sizes_is_left_out_on_a_model() -> None:
    entries = (GridEntry("gemm", {"n": 8, "k": 8}, (1,)), GridEntry("act", {}, (1,)))
    selected = plan(Selection(models=("Mixtral-8x7B",)), Suite("mixed", "", entries, "cpu"))
    assert names(selected) == [("act", "Mixtral-8x7B TP1", "fp8_group128")]
    assert selected.left_out == (
        "gemm takes n, k; Mixtral-8x7B TP1 has num_experts, top_k, hidden_size, intermediate_size",
    )


def test_limit_k_keeps_layers_by_the_models_hidden_size_whatever_the_kernel_takes() -> None:
    assert names(plan(Selection(limit_k=(4096,)))) == [
        ("moe", "Mixtral-8x7B TP8", "fp8"),
        ("moe", "Mixtral-8x7B TP8", "fp8_block128"),
        ("act", "Mixtral-8x7B TP8", "fp8_group128"),
    ]


def test_limit_n_keeps_layers_by_their_intermediate_size_per_rank() -> None:
    assert [label for _, label, _ in names(plan(Selection(limit_n=(96, 256))))] == ["Qwen3-30B-A3B TP8", "grid"]


def test_providers_are_narrowed_in_the_kernels_order() -> None:
    units = plan(Selection(providers=("vllm", "torch"))).units
    assert [unit.providers for unit in units][2:4] == [("torch", "vllm"), ("torch",)]


def test_a_kernel_without_any_of_the_given_providers_is_not_run() -> None:
    assert {kernel for kernel, _, _ in names(plan(Selection(providers=("vllm",))))} == {"moe"}


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(kernels=("gemm",)), "--kernel gemm leaves nothing of suite small; there is moe, act"),
        (
            Selection(schemes=("mxfp4",)),
            "--scheme mxfp4 leaves nothing of suite small; there is fp8, fp8_block128, fp8_group128",
        ),
        (Selection(limit_k=(1, 2)), "--limit-k 1 2 leaves nothing of suite small; there is 2048, 4096"),
        (Selection(limit_n=(5,)), "--limit-n 5 leaves nothing of suite small; there is 96, 1792, 256"),
        (
            Selection(kernels=("act",), providers=("vllm",)),
            "--provider vllm leaves nothing of suite small; there is torch, triton",
        ),
    ],
)
def test_a_filter_that_leaves_nothing_is_named_with_what_there_is(selection: Selection, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(selection)
    assert str(caught.value) == message


def test_a_wanted_value_that_is_nowhere_is_reported_beside_those_found() -> None:
    selected = plan(Selection(kernels=("act", "gemm")))
    assert selected.left_out == ("--kernel gemm: not in suite small; there is moe, act",)


def test_a_suite_without_layers_is_an_error() -> None:
    with pytest.raises(UsageError, match="suite none has no layer"):
        plan(Selection(), Suite("none", "", (), "cpu"))


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(kernels=("mo",)), "unknown kernel 'mo'; nearest: moe"),
        (Selection(schemes=("fp8_block",)), "unknown scheme 'fp8_block'; nearest: fp8.*fp8_block128"),
        (Selection(providers=("tritton",)), "unknown provider 'tritton'; nearest: triton"),
    ],
)
def test_an_unknown_name_lists_the_nearest(selection: Selection, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        plan(selection)


def test_an_option_that_no_chosen_kernel_has_is_refused() -> None:
    having = next(name for name, kernel in REGISTRY.items() if "fill" in kernel.options)
    lacking = next(name for name, kernel in REGISTRY.items() if "fill" not in kernel.options)
    assert plan(Selection(options=("fill=uniform",), kernels=(having,))).units
    with pytest.raises(UsageError, match=f"--option fill: {lacking} does not have it; there is"):
        plan(Selection(options=("fill=uniform",), kernels=(lacking,)))


def test_a_suite_that_names_an_unknown_kernel_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="unknown kernel 'mooe'"):
        plan(Selection(), Suite("typo", "", (GridEntry("mooe", {}, (1,)),), "cpu"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_sizes": (1, 0)}, "--batch-size 0 is below 1; give whole numbers from 1 up"),
        ({"tp_sizes": (-1,)}, "--tp-size -1 is below 1; give whole numbers from 1 up"),
        ({"limit_k": (0,)}, "--limit-k 0 is below 1; give whole numbers from 1 up"),
        ({"limit_n": (0,)}, "--limit-n 0 is below 1; give whole numbers from 1 up"),
        ({"dtype": "fp8"}, "--dtype 'fp8' is not supported; give one of auto, bfloat16, float16"),
    ],
)
def test_a_selection_out_of_range_is_refused_at_once(arguments: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Selection(**arguments)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_shapes_of_other_models_than_the_suites_are_not_run() -> None:
    stranger = ModelShape("Stranger", 8, 1, "bfloat16", {"num_experts": 2})
    selected = plan_units(SUITE, (stranger,), Selection(), "cpu", REGISTRY)
    assert names(selected) == [("act", "grid", "fp8_group128")]
