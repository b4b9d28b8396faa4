"""Model configs to sizes per rank: real folders, read by the real transformers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ModelConfigError, ParallelismError, UnknownNameError, UsageError
from tasks.planning import shapes
from tasks.planning.shapes import find_vendored, list_models, resolve_model_shapes
from tasks.records import ModelShape

MOE_MODELS = {
    "DBRX": (16, 4, 6144, 10752),
    "DeepSeek-R1": (256, 8, 7168, 2048),
    "DeepSeek-R1-FP4": (256, 8, 7168, 2048),
    "DeepSeek-V2": (160, 6, 5120, 1536),
    "DeepSeek-V2-Lite": (64, 6, 2048, 1408),
    "DeepSeek-V3": (256, 8, 7168, 2048),
    "GLM-4.5": (160, 8, 5120, 1536),
    "GLM-4.5-Air": (128, 8, 4096, 1408),
    "HunYuan-A13B": (64, 8, 4096, 3072),
    "Jamba-v0.1": (16, 2, 4096, 14336),
    "Kimi-K2": (384, 8, 7168, 2048),
    "Llama-4-Maverick": (128, 1, 5120, 8192),
    "Llama-4-Scout": (16, 1, 5120, 8192),
    "Mixtral-8x22B": (8, 2, 6144, 16384),
    "Mixtral-8x7B": (8, 2, 4096, 14336),
    "Nemotron-3-Nano-30B-A3B": (128, 6, 2688, 1856),
    "Qwen1.5-MoE-A2.7B": (60, 4, 2048, 1408),
    "Qwen2-57B-A14B": (64, 8, 3584, 2560),
    "Qwen3-235B-A22B": (128, 8, 4096, 1536),
    "Qwen3-30B-A3B": (128, 8, 2048, 768),
    "Qwen3-Next-80B-A3B": (512, 10, 2048, 512),
    "gpt-oss-120b": (128, 4, 2880, 2880),
    "gpt-oss-20b": (32, 4, 2880, 2880),
}
"""Experts, top_k, hidden size and intermediate size of an expert: the rows of model_configs/README.md."""
DENSE_MODELS = {
    "Llama-3.1-8B": (32, 8, 128, 4096, 14336),
    "Llama-3.3-70B": (64, 8, 128, 8192, 28672),
    "Qwen3-32B": (64, 8, 128, 5120, 25600),
}
"""Query heads, KV heads, head dimension, hidden size, intermediate size."""
TP_SIZES = (1, 2, 4, 8)
TUNED = {
    8: (1792, 2048, 3584, 4096, 7168, 8192, 14336, 16384),
    16: (800, 1024, 1344, 1792, 2048, 2688, 3072, 3200, 3584, 4096, 6400, 7168, 14336),
    60: (176, 352, 704, 1408),
    64: (320, 384, 512, 640, 768, 896, 1280, 1408, 1536, 2560, 3072, 8960),
    128: (96, 192, 352, 384, 512, 704, 768, 928, 1024, 1856, 2880, 8960),
    160: (192, 320, 384, 640, 768),
    256: (64, 128, 256, 384, 512, 1024),
    384: (128, 256, 512),
    512: (64, 128, 256, 512, 672, 1344),
}
"""N per rank by E in the file names of vLLM 0.26.0, model_executor/layers/fused_moe/configs."""
TUNED_MODELS = {
    "DBRX": (4, 8),
    "DeepSeek-R1": (2, 4, 8),
    "DeepSeek-R1-FP4": (2, 4, 8),
    "DeepSeek-V2": (2, 4, 8),
    "DeepSeek-V2-Lite": (1,),
    "DeepSeek-V3": (2, 4, 8),
    "GLM-4.5": (2, 4, 8),
    "GLM-4.5-Air": (2, 4),
    "HunYuan-A13B": (1, 2, 4, 8),
    "Jamba-v0.1": (1, 2, 4, 8),
    "Kimi-K2": (4, 8),
    "Llama-4-Maverick": (8,),
    "Llama-4-Scout": (2, 4, 8),
    "Mixtral-8x22B": (1, 2, 4, 8),
    "Mixtral-8x7B": (1, 2, 4, 8),
    "Nemotron-3-Nano-30B-A3B": (1, 2),
    "Qwen1.5-MoE-A2.7B": (1, 2, 4, 8),
    "Qwen2-57B-A14B": (1, 2, 4, 8),
    "Qwen3-235B-A22B": (2, 4, 8),
    "Qwen3-30B-A3B": (1, 2, 4, 8),
    "Qwen3-Next-80B-A3B": (1, 2, 4, 8),
    "gpt-oss-120b": (1,),
}
"""TP sizes at which vLLM has a tuned config for the model's (E, N)."""

QWEN = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "torch_dtype": "bfloat16",
}
LLAMA4_TEXT = {
    "model_type": "llama4_text",
    "hidden_size": 640,
    "intermediate_size": 512,
    "intermediate_size_mlp": 1024,
    "num_local_experts": 4,
    "num_experts_per_tok": 1,
    "dtype": "float16",
}


def write_config(folder: Path, config: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return str(folder)


def without(config: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != field}


def resolve_one(model: str, tp_size: int, **options: Any) -> ModelShape:
    """The shape of a model that has one: experts."""
    (shape,) = resolve_model_shapes(model, tp_size, **options)
    return shape


@pytest.mark.parametrize("tp_size", TP_SIZES)
@pytest.mark.parametrize("model", MOE_MODELS)
def test_every_vendored_model_with_experts_is_split_as_arithmetic_says(model: str, tp_size: int) -> None:
    num_experts, top_k, hidden_size, intermediate_size = MOE_MODELS[model]
    shape = resolve_one(model, tp_size)
    assert shape.sizes == {
        "num_experts": num_experts,
        "top_k": top_k,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size // tp_size,
    }
    assert (shape.model, shape.module, shape.tp_size, shape.ep_size) == (model, "", tp_size, 1)
    assert shape.dtype == "bfloat16"


@pytest.mark.parametrize("tp_size", TP_SIZES)
@pytest.mark.parametrize("model", DENSE_MODELS)
def test_every_vendored_dense_model_is_split_as_vllm_splits_its_linear_layers(model: str, tp_size: int) -> None:
    heads, kv_heads, head_dim, hidden_size, intermediate_size = DENSE_MODELS[model]
    shapes = resolve_model_shapes(model, tp_size)
    assert {shape.module: (shape.sizes["n"], shape.sizes["k"]) for shape in shapes} == {
        "qkv_proj": ((heads + 2 * kv_heads) * head_dim // tp_size, hidden_size),
        "o_proj": (hidden_size, heads * head_dim // tp_size),
        "gate_up_proj": (2 * intermediate_size // tp_size, hidden_size),
        "down_proj": (hidden_size, intermediate_size // tp_size),
    }
    assert {(shape.model, shape.tp_size, shape.ep_size, shape.dtype) for shape in shapes} == {
        (model, tp_size, 1, "bfloat16")
    }


@pytest.mark.parametrize("model", TUNED_MODELS)
def test_the_sizes_of_vendored_models_are_those_vllm_has_tuned_configs_for(model: str) -> None:
    resolved = {tp_size: resolve_one(model, tp_size).sizes for tp_size in TP_SIZES}
    tuned = [
        tp_size for tp_size, sizes in resolved.items() if sizes["intermediate_size"] in TUNED[sizes["num_experts"]]
    ]
    assert tuple(tuned) == TUNED_MODELS[model]


def test_only_one_vendored_model_has_no_tuned_config_to_be_checked_against() -> None:
    assert set(MOE_MODELS) - set(TUNED_MODELS) == {"gpt-oss-20b"}


def test_the_fp4_model_has_the_hidden_size_that_upstream_swaps_with_the_intermediate_size() -> None:
    sizes = resolve_one("nvidia/DeepSeek-R1-FP4", 1).sizes
    assert (sizes["hidden_size"], sizes["intermediate_size"]) == (7168, 2048)
    assert sizes == resolve_one("DeepSeek-R1", 1).sizes


READ_CONFIGS = """
import sys
from importlib.util import find_spec
from tasks.errors import ModelConfigError
from tasks.planning.shapes import resolve_model_shapes
try:
    sys.exit(f"broken, and read: {resolve_model_shapes(sys.argv[1], 1)}")
except ModelConfigError:
    pass
for model in ("Llama-4-Scout", "Llama-3.3-70B", "DBRX", "Kimi-K2", "Nemotron-3-Nano-30B-A3B"):
    resolve_model_shapes(model, 1)
modeling_code = {"transformers.models.auto.modeling_auto", "transformers.activations"}
if find_spec("torchvision") is None:  # which transformers' checks import, and which imports it
    modeling_code.add("torch._dynamo")
if found := modeling_code & set(sys.modules):
    sys.exit(f"imported, or in its place and left there: {found}")
from transformers.activations import ACT2FN
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
resolve_model_shapes("Mixtral-8x7B", 1)
if not ACT2FN or sys.modules["transformers.activations"].ACT2FN is not ACT2FN or not MODEL_MAPPING_NAMES:
    sys.exit("what was imported is not what it is")
"""


def test_reading_a_config_prints_nothing_and_leaves_modeling_code_to_who_imports_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": "wide"}')
    command = [sys.executable, "-c", READ_CONFIGS, str(tmp_path)]
    read = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (read.stdout, read.stderr, read.returncode) == ("", "", 0)


def test_every_vendored_folder_has_a_row_in_the_readme() -> None:
    folder = Path(shapes.__file__).parent / "model_configs"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert list_models() == tuple(sorted([*MOE_MODELS, *DENSE_MODELS]))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in readme.splitlines() if line.startswith("| `")]
    numbers = {cells[0].strip("`").removesuffix("/config.json"): tuple(cells[2:6]) for cells in rows}
    assert numbers == {model: tuple(map(str, sizes)) for model, sizes in MOE_MODELS.items()} | {
        model: (f"{heads} x {head_dim}", str(kv_heads), str(hidden_size), str(intermediate_size))
        for model, (heads, kv_heads, head_dim, hidden_size, intermediate_size) in DENSE_MODELS.items()
    }


def test_a_vendored_name_is_found_in_any_case_and_after_an_organisation() -> None:
    assert find_vendored("mixtral-8x7b") == "Mixtral-8x7B"
    assert find_vendored("Qwen/Qwen3-30B-A3B") == "Qwen3-30B-A3B"
    assert resolve_one("deepseek-ai/DeepSeek-V3", 8).model == "DeepSeek-V3"


@pytest.mark.parametrize("model", ["mistralai/Mixtral-8x7B-v0.1", "a/b/DeepSeek-V3", "./DeepSeek-V3", "DeepSeek", ""])
def test_a_name_that_only_resembles_a_vendored_one_is_not_it(model: str) -> None:
    assert find_vendored(model) is None


def test_tensor_parallelism_splits_the_intermediate_size() -> None:
    sizes = resolve_one("Mixtral-8x7B", 2).sizes
    assert (sizes["num_experts"], sizes["intermediate_size"]) == (8, 7168)


def test_expert_parallelism_splits_the_experts_instead() -> None:
    shape = resolve_one("DeepSeek-V3", 8, enable_expert_parallel=True)
    assert (shape.tp_size, shape.ep_size) == (8, 8)
    assert (shape.sizes["num_experts"], shape.sizes["intermediate_size"]) == (32, 2048)


def test_a_tp_size_that_does_not_divide_names_those_that_do() -> None:
    with pytest.raises(ParallelismError) as caught:
        resolve_one("Qwen3-30B-A3B", 5)
    assert str(caught.value) == (
        "intermediate_size 768 of Qwen3-30B-A3B is not divisible by --tp-size 5; "
        "TP sizes up to 64 that divide it: 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64"
    )


def test_experts_that_do_not_divide_are_named_under_expert_parallelism() -> None:
    with pytest.raises(ParallelismError, match=r"num_experts 8 of Mixtral-8x7B .* --tp-size 7; .*: 1, 2, 4, 8$"):
        resolve_one("Mixtral-8x7B", 7, enable_expert_parallel=True)


@pytest.mark.parametrize("tp_size", [0, -2])
def test_a_tp_size_below_one_is_refused(tp_size: int) -> None:
    with pytest.raises(UsageError, match=f"--tp-size {tp_size} is below 1"):
        resolve_one("Mixtral-8x7B", tp_size)


def test_a_given_dtype_overrides_the_configs_and_an_unknown_one_is_refused() -> None:
    assert resolve_one("Mixtral-8x7B", 1, dtype="float16").dtype == "float16"
    with pytest.raises(UsageError, match="one of auto, bfloat16, float16"):
        resolve_one("Mixtral-8x7B", 1, dtype="float32")


def test_a_dtype_that_is_missing_or_unsupported_asks_for_one(tmp_path: Path) -> None:
    silent = write_config(tmp_path / "silent", without(QWEN, "torch_dtype"))
    wide = write_config(tmp_path / "wide", {**QWEN, "torch_dtype": "float32"})
    with pytest.raises(ModelConfigError, match="names no dtype; give --dtype"):
        resolve_one(silent, 1)
    with pytest.raises(ModelConfigError, match="wide is in float32; give --dtype"):
        resolve_one(wide, 1)
    assert resolve_one(wide, 1, dtype="bfloat16").dtype == "bfloat16"


def test_a_local_folder_is_named_after_itself_and_comes_before_a_vendored_name(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "DeepSeek-V3", QWEN)
    shape = resolve_one(folder, 8)
    assert (shape.model, shape.sizes["num_experts"], shape.sizes["intermediate_size"]) == ("DeepSeek-V3", 128, 96)


def test_a_nested_text_config_is_found_by_itself_and_by_name(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "Scout", {"model_type": "llama4", "text_config": LLAMA4_TEXT})
    shape = resolve_one(folder, 2)
    assert shape.sizes == {"num_experts": 4, "top_k": 1, "hidden_size": 640, "intermediate_size": 256}
    assert shape.dtype == "float16"
    assert resolve_one(folder, 2, model_prefix="text_config") == shape


def test_the_dtype_of_the_whole_model_serves_a_text_config_without_one(tmp_path: Path) -> None:
    text = without(LLAMA4_TEXT, "dtype")
    folder = write_config(tmp_path / "m", {"model_type": "llama4", "text_config": text, "torch_dtype": "bfloat16"})
    assert resolve_one(folder, 1).dtype == "bfloat16"


def test_an_unknown_model_prefix_names_those_that_exist(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "Scout", {"model_type": "llama4", "text_config": LLAMA4_TEXT})
    with pytest.raises(ModelConfigError, match=r"no nested config 'language'; those it has: text_config$"):
        resolve_one(folder, 1, model_prefix="language")
    with pytest.raises(ModelConfigError, match="leave --model-prefix out"):
        resolve_one("Mixtral-8x7B", 1, model_prefix="text_config")


def test_a_text_config_two_levels_down_is_found_below_the_model_prefix(tmp_path: Path) -> None:
    text = {**without(QWEN, "model_type"), "model_type": "qwen3_omni_moe_text"}
    folder = write_config(tmp_path / "Omni", {"model_type": "qwen3_omni_moe", "thinker_config": {"text_config": text}})
    assert resolve_one(folder, 1, model_prefix="thinker_config").sizes["intermediate_size"] == 768
    with pytest.raises(ModelConfigError, match="with --model-prefix"):
        resolve_one(folder, 1)


def test_a_text_config_made_of_class_defaults_is_an_error(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "Scout", {"model_type": "llama4", "dtype": "bfloat16"})
    with pytest.raises(ModelConfigError, match="no section for the text config of Llama4Config; add it"):
        resolve_one(folder, 1)


def test_list_valued_fields_as_in_hunyuan_give_their_first_value(tmp_path: Path) -> None:
    config = {
        "model_type": "hunyuan_v1_moe",
        "hidden_size": 4096,
        "intermediate_size": 9999,
        "moe_intermediate_size": [3072, 3072],
        "moe_topk": [8, 8],
        "num_experts": 64,
        "torch_dtype": "bfloat16",
    }
    shape = resolve_one(write_config(tmp_path / "HunYuan", config), 1)
    assert shape.sizes == {"num_experts": 64, "top_k": 8, "hidden_size": 4096, "intermediate_size": 3072}


def test_the_experts_of_dbrx_are_found_in_its_ffn_config(tmp_path: Path) -> None:
    experts = {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}
    config = {"model_type": "dbrx", "d_model": 6144, "ffn_config": experts, "torch_dtype": "bfloat16"}
    shape = resolve_one(write_config(tmp_path / "dbrx", config), 4)
    assert shape.sizes == {"num_experts": 16, "top_k": 4, "hidden_size": 6144, "intermediate_size": 2688}


LLAMA = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 1536,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "dtype": "bfloat16",
}


def dense_sizes(model: str, tp_size: int, **options: Any) -> dict[str, tuple[int, int]]:
    return {
        shape.module: (shape.sizes["n"], shape.sizes["k"]) for shape in resolve_model_shapes(model, tp_size, **options)
    }


def test_more_ranks_than_kv_heads_keep_a_copy_of_one_each(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "dense", LLAMA)
    heads_of_q_k_v = {tp_size: dense_sizes(folder, tp_size)["qkv_proj"][0] // 64 for tp_size in (1, 4, 8, 16)}
    assert heads_of_q_k_v == {1: 16 + 2 * 4, 4: 4 + 2, 8: 2 + 2, 16: 1 + 2}


def test_kv_heads_that_can_be_neither_split_nor_copied_are_refused(tmp_path: Path) -> None:
    odd = write_config(tmp_path / "odd", {**LLAMA, "hidden_size": 768, "num_attention_heads": 12})
    with pytest.raises(ParallelismError) as caught:
        resolve_model_shapes(odd, 6)
    assert str(caught.value) == (
        "num_key_value_heads 4 of odd can be neither split over --tp-size 6 nor copied evenly; "
        "use a --tp-size that divides it or is a multiple of it"
    )


def test_heads_that_do_not_divide_name_the_tp_sizes_that_do() -> None:
    with pytest.raises(ParallelismError, match=r"num_attention_heads 32 of Llama-3.1-8B .*: 1, 2, 4, 8, 16, 32$"):
        resolve_model_shapes("Llama-3.1-8B", 3)


def test_expert_parallelism_leaves_a_dense_model_as_it_is() -> None:
    assert resolve_model_shapes("Qwen3-32B", 2, enable_expert_parallel=True) == resolve_model_shapes("Qwen3-32B", 2)


def test_a_head_dimension_of_its_own_counts_and_is_not_guessed_from_the_class(tmp_path: Path) -> None:
    wide = write_config(tmp_path / "wide", {**LLAMA, "head_dim": 128})
    assert dense_sizes(wide, 1)["o_proj"] == (1024, 16 * 128)
    silent = write_config(tmp_path / "silent", {**LLAMA, "model_type": "qwen3"})
    with pytest.raises(ModelConfigError, match="head_dim=128 is only a default of Qwen3Config"):
        resolve_model_shapes(silent, 1)


@pytest.mark.parametrize("field", ["hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"])
def test_a_dense_model_without_a_field_is_told_which(tmp_path: Path, field: str) -> None:
    with pytest.raises(ModelConfigError, match=f"has none of .*{field}"):
        resolve_model_shapes(write_config(tmp_path / "holes", without(LLAMA, field)), 1)


@pytest.mark.parametrize("config", [without(QWEN, "num_experts"), {**LLAMA, "num_moe_experts": 4}])
def test_a_model_that_speaks_of_experts_is_never_taken_for_a_dense_one(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ModelConfigError, match="has none of num_local_experts, num_experts, "):
        resolve_model_shapes(write_config(tmp_path / "holes", config), 1)


def test_a_family_under_another_name_is_read_without_its_own_code(tmp_path: Path) -> None:
    config = {
        **without(QWEN, "num_experts"),
        "model_type": "kimi_k2",
        "n_routed_experts": 384,
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    }
    assert resolve_one(write_config(tmp_path / "Kimi", config), 1).sizes["num_experts"] == 384


@pytest.mark.parametrize("field", ["hidden_size", "moe_intermediate_size", "num_experts", "num_experts_per_tok"])
@pytest.mark.parametrize("as_null", [False, True])
def test_a_field_that_only_the_class_default_would_fill_is_an_error(tmp_path: Path, field: str, as_null: bool) -> None:
    config = {**QWEN, field: None} if as_null else without(QWEN, field)
    with pytest.raises(ModelConfigError, match=field):
        resolve_one(write_config(tmp_path / "holes", config), 1)


def test_the_dense_width_never_stands_in_for_the_experts(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "holes", without(QWEN, "moe_intermediate_size"))
    with pytest.raises(ModelConfigError, match="moe_intermediate_size=768 is only a default of Qwen3MoeConfig"):
        resolve_one(folder, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", "cannot read .*config.json: Expecting property name"),
        ("[1, 2]", "holds a list, not an object"),
        ({**QWEN, "model_type": "no_such_family"}, "model type `no_such_family`"),
        ({"hidden_size": 1}, "transformers cannot read the config of broken"),
        ({**QWEN, "hidden_size": "wide"}, "hidden_size.*expected int, got str"),
        ({**QWEN, "num_experts": 0}, "num_experts of broken is 0, not a whole number from 1 up"),
        ({**QWEN, "model_type": "other", "auto_map": {"AutoConfig": "x.Y"}}, "contains custom code"),
    ],
)
def test_a_config_that_cannot_be_used_is_one_clear_line(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ModelConfigError, match=message) as caught:
        resolve_one(write_config(tmp_path / "broken", content), 1)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_config_and_a_folder_that_is_not_there_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelConfigError, match=r"cannot read .*config\.json"):
        resolve_one(str(tmp_path), 1)
    with pytest.raises(ModelConfigError, match=r"no folder .*/missing; give one"):
        resolve_one(str(tmp_path / "missing"), 1)


def test_an_unknown_model_lists_the_nearest_and_says_how_to_allow_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(shapes.DOWNLOAD_VARIABLE, raising=False)
    with pytest.raises(UnknownNameError) as caught:
        resolve_one("mistralai/Mixtral-8x9B", 1)
    message = str(caught.value)
    assert message.startswith("unknown model 'mistralai/Mixtral-8x9B'; nearest: ")
    assert "Mixtral-8x22B, Mixtral-8x7B (all: kernel-nightly list models)" in message
    assert "org/name on the Hub with --allow-download (KERNEL_NIGHTLY_ALLOW_DOWNLOAD=1)" in message


def test_a_bare_unknown_name_never_goes_to_the_hub() -> None:
    with pytest.raises(UnknownNameError, match="unknown model 'Mixtral'"):
        resolve_one("Mixtral", 1, allow_download=True)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hub cache of its own, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def write_hub_config(cache: Path, config: dict[str, Any]) -> None:
    repository = cache / "models--someone--Tiny-MoE"
    write_config(repository / "snapshots" / "0123abc", config)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc", encoding="utf-8")


def test_a_hub_model_is_read_as_strictly_as_a_folder(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hub_config(hub_cache, QWEN)
    shape = resolve_one("someone/Tiny-MoE", 1, allow_download=True)
    assert (shape.model, shape.sizes["intermediate_size"]) == ("Tiny-MoE", 768)
    monkeypatch.setenv(shapes.DOWNLOAD_VARIABLE, "1")
    assert resolve_one("someone/Tiny-MoE", 1) == shape


def test_a_hole_in_a_hub_config_is_an_error_too(hub_cache: Path) -> None:
    write_hub_config(hub_cache, without(QWEN, "num_experts"))
    with pytest.raises(ModelConfigError, match="is only a default of Qwen3MoeConfig"):
        resolve_one("someone/Tiny-MoE", 1, allow_download=True)


def test_a_hub_model_that_cannot_be_fetched_is_one_clear_line(hub_cache: Path) -> None:
    with pytest.raises(ModelConfigError, match=r"cannot get config\.json of nobody/Nothing from the Hub") as caught:
        resolve_one("nobody/Nothing", 1, allow_download=True)
    assert "\n" not in str(caught.value)


def test_a_rank_may_hold_fewer_experts_than_a_token_picks() -> None:
    sizes = resolve_one("Mixtral-8x7B", 8, enable_expert_parallel=True).sizes
    assert (sizes["num_experts"], sizes["top_k"]) == (1, 2)


def test_a_model_of_fewer_experts_than_a_token_picks_is_refused(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "few", {**QWEN, "num_experts": 4})
    with pytest.raises(ModelConfigError, match="few has fewer experts, 4, than its top_k 8; correct"):
        resolve_model_shapes(folder, 1)
