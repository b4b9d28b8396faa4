"""Model configs to sizes per rank: real folders, read by the real transformers."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks import shapes
from tasks.errors import ModelConfigError, ParallelismError, UnknownNameError, UsageError
from tasks.shapes import find_vendored, list_models, resolve_model_shape

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


@pytest.mark.parametrize(
    ("model", "num_experts", "top_k", "hidden_size", "intermediate_size"),
    [
        ("Mixtral-8x7B", 8, 2, 4096, 14336),
        ("Qwen3-30B-A3B", 128, 8, 2048, 768),
        ("DeepSeek-V3", 256, 8, 7168, 2048),
    ],
)
def test_vendored_models_have_their_published_sizes(
    model: str, num_experts: int, top_k: int, hidden_size: int, intermediate_size: int
) -> None:
    shape = resolve_model_shape(model, 1)
    assert shape.sizes == {
        "num_experts": num_experts,
        "top_k": top_k,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
    }
    assert (shape.model, shape.tp_size, shape.ep_size, shape.dtype) == (model, 1, 1, "bfloat16")


def test_every_vendored_folder_has_a_row_in_the_readme() -> None:
    folder = Path(shapes.__file__).parent / "model_configs"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert list_models() == ("DeepSeek-V3", "Mixtral-8x7B", "Qwen3-30B-A3B")
    assert all(f"| `{model}/config.json` |" in readme for model in list_models())


def test_a_vendored_name_is_found_in_any_case_and_after_an_organisation() -> None:
    assert find_vendored("mixtral-8x7b") == "Mixtral-8x7B"
    assert find_vendored("Qwen/Qwen3-30B-A3B") == "Qwen3-30B-A3B"
    assert resolve_model_shape("deepseek-ai/DeepSeek-V3", 8).model == "DeepSeek-V3"


@pytest.mark.parametrize("model", ["mistralai/Mixtral-8x7B-v0.1", "a/b/DeepSeek-V3", "./DeepSeek-V3", "DeepSeek", ""])
def test_a_name_that_only_resembles_a_vendored_one_is_not_it(model: str) -> None:
    assert find_vendored(model) is None


def test_tensor_parallelism_splits_the_intermediate_size() -> None:
    sizes = resolve_model_shape("Mixtral-8x7B", 2).sizes
    assert (sizes["num_experts"], sizes["intermediate_size"]) == (8, 7168)


def test_expert_parallelism_splits_the_experts_instead() -> None:
    shape = resolve_model_shape("DeepSeek-V3", 8, enable_expert_parallel=True)
    assert (shape.tp_size, shape.ep_size) == (8, 8)
    assert (shape.sizes["num_experts"], shape.sizes["intermediate_size"]) == (32, 2048)


def test_a_tp_size_that_does_not_divide_names_those_that_do() -> None:
    with pytest.raises(ParallelismError) as caught:
        resolve_model_shape("Qwen3-30B-A3B", 5)
    assert str(caught.value) == (
        "intermediate_size 768 of Qwen3-30B-A3B is not divisible by --tp-size 5; "
        "TP sizes up to 64 that divide it: 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64"
    )


def test_experts_that_do_not_divide_are_named_under_expert_parallelism() -> None:
    with pytest.raises(ParallelismError, match=r"num_experts 8 of Mixtral-8x7B .* --tp-size 7; .*: 1, 2, 4, 8$"):
        resolve_model_shape("Mixtral-8x7B", 7, enable_expert_parallel=True)


@pytest.mark.parametrize("tp_size", [0, -2])
def test_a_tp_size_below_one_is_refused(tp_size: int) -> None:
    with pytest.raises(UsageError, match=f"--tp-size {tp_size} is below 1"):
        resolve_model_shape("Mixtral-8x7B", tp_size)


def test_a_given_dtype_overrides_the_configs_and_an_unknown_one_is_refused() -> None:
    assert resolve_model_shape("Mixtral-8x7B", 1, dtype="float16").dtype == "float16"
    with pytest.raises(UsageError, match="one of auto, bfloat16, float16"):
        resolve_model_shape("Mixtral-8x7B", 1, dtype="float32")


def test_a_dtype_that_is_missing_or_unsupported_asks_for_one(tmp_path: Path) -> None:
    silent = write_config(tmp_path / "silent", without(QWEN, "torch_dtype"))
    wide = write_config(tmp_path / "wide", {**QWEN, "torch_dtype": "float32"})
    with pytest.raises(ModelConfigError, match="names no dtype; give --dtype"):
        resolve_model_shape(silent, 1)
    with pytest.raises(ModelConfigError, match="wide is in float32; give --dtype"):
        resolve_model_shape(wide, 1)
    assert resolve_model_shape(wide, 1, dtype="bfloat16").dtype == "bfloat16"


def test_a_local_folder_is_named_after_itself_and_comes_before_a_vendored_name(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "DeepSeek-V3", QWEN)
    shape = resolve_model_shape(folder, 8)
    assert (shape.model, shape.sizes["num_experts"], shape.sizes["intermediate_size"]) == ("DeepSeek-V3", 128, 96)


def test_a_nested_text_config_is_found_by_itself_and_by_name(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "Scout", {"model_type": "llama4", "text_config": LLAMA4_TEXT})
    shape = resolve_model_shape(folder, 2)
    assert shape.sizes == {"num_experts": 4, "top_k": 1, "hidden_size": 640, "intermediate_size": 256}
    assert shape.dtype == "float16"
    assert resolve_model_shape(folder, 2, model_prefix="text_config") == shape


def test_the_dtype_of_the_whole_model_serves_a_text_config_without_one(tmp_path: Path) -> None:
    text = without(LLAMA4_TEXT, "dtype")
    folder = write_config(tmp_path / "m", {"model_type": "llama4", "text_config": text, "torch_dtype": "bfloat16"})
    assert resolve_model_shape(folder, 1).dtype == "bfloat16"


def test_an_unknown_model_prefix_names_those_that_exist(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "Scout", {"model_type": "llama4", "text_config": LLAMA4_TEXT})
    with pytest.raises(ModelConfigError, match=r"no nested config 'language'; those it has: text_config$"):
        resolve_model_shape(folder, 1, model_prefix="language")
    with pytest.raises(ModelConfigError, match="leave --model-prefix out"):
        resolve_model_shape("Mixtral-8x7B", 1, model_prefix="text_config")


def test_a_text_config_two_levels_down_is_found_below_the_model_prefix(tmp_path: Path) -> None:
    text = {**without(QWEN, "model_type"), "model_type": "qwen3_omni_moe_text"}
    folder = write_config(tmp_path / "Omni", {"model_type": "qwen3_omni_moe", "thinker_config": {"text_config": text}})
    assert resolve_model_shape(folder, 1, model_prefix="thinker_config").sizes["intermediate_size"] == 768
    with pytest.raises(ModelConfigError, match="with --model-prefix"):
        resolve_model_shape(folder, 1)


def test_a_text_config_made_of_class_defaults_is_an_error(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "Scout", {"model_type": "llama4", "dtype": "bfloat16"})
    with pytest.raises(ModelConfigError, match="no section for the text config of Llama4Config; add it"):
        resolve_model_shape(folder, 1)


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
    shape = resolve_model_shape(write_config(tmp_path / "HunYuan", config), 1)
    assert shape.sizes == {"num_experts": 64, "top_k": 8, "hidden_size": 4096, "intermediate_size": 3072}


def test_the_experts_of_dbrx_are_found_in_its_ffn_config(tmp_path: Path) -> None:
    experts = {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}
    config = {"model_type": "dbrx", "d_model": 6144, "ffn_config": experts, "torch_dtype": "bfloat16"}
    shape = resolve_model_shape(write_config(tmp_path / "dbrx", config), 4)
    assert shape.sizes == {"num_experts": 16, "top_k": 4, "hidden_size": 6144, "intermediate_size": 2688}


def test_a_dense_model_is_refused_with_the_fields_looked_for(tmp_path: Path) -> None:
    dense = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "torch_dtype": "bfloat16"}
    with pytest.raises(ModelConfigError) as caught:
        resolve_model_shape(write_config(tmp_path / "Dense-1B", dense), 1)
    assert str(caught.value) == (
        "config.json of Dense-1B has none of num_local_experts, num_experts, n_routed_experts, moe_num_experts; "
        "give a mixture-of-experts model (DeepSeek-V3, Mixtral-8x7B, Qwen3-30B-A3B)"
    )


@pytest.mark.parametrize("field", ["hidden_size", "moe_intermediate_size", "num_experts", "num_experts_per_tok"])
@pytest.mark.parametrize("as_null", [False, True])
def test_a_field_that_only_the_class_default_would_fill_is_an_error(tmp_path: Path, field: str, as_null: bool) -> None:
    config = {**QWEN, field: None} if as_null else without(QWEN, field)
    with pytest.raises(ModelConfigError, match=field):
        resolve_model_shape(write_config(tmp_path / "holes", config), 1)


def test_the_dense_width_never_stands_in_for_the_experts(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "holes", without(QWEN, "moe_intermediate_size"))
    with pytest.raises(ModelConfigError, match="moe_intermediate_size=768 is only a default of Qwen3MoeConfig"):
        resolve_model_shape(folder, 1)


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
        resolve_model_shape(write_config(tmp_path / "broken", content), 1)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_config_and_a_folder_that_is_not_there_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelConfigError, match=r"cannot read .*config\.json"):
        resolve_model_shape(str(tmp_path), 1)
    with pytest.raises(ModelConfigError, match=r"no folder .*/missing; give one"):
        resolve_model_shape(str(tmp_path / "missing"), 1)


def test_an_unknown_model_lists_the_nearest_and_says_how_to_allow_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(shapes.DOWNLOAD_VARIABLE, raising=False)
    with pytest.raises(UnknownNameError) as caught:
        resolve_model_shape("mistralai/Mixtral-8x22B", 1)
    message = str(caught.value)
    assert message.startswith("unknown model 'mistralai/Mixtral-8x22B'; nearest: Mixtral-8x7B")
    assert "org/name on the Hub with --allow-download (KERNEL_NIGHTLY_ALLOW_DOWNLOAD=1)" in message


def test_a_bare_unknown_name_never_goes_to_the_hub() -> None:
    with pytest.raises(UnknownNameError, match="unknown model 'Mixtral'"):
        resolve_model_shape("Mixtral", 1, allow_download=True)


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
    shape = resolve_model_shape("someone/Tiny-MoE", 1, allow_download=True)
    assert (shape.model, shape.sizes["intermediate_size"]) == ("Tiny-MoE", 768)
    monkeypatch.setenv(shapes.DOWNLOAD_VARIABLE, "1")
    assert resolve_model_shape("someone/Tiny-MoE", 1) == shape


def test_a_hole_in_a_hub_config_is_an_error_too(hub_cache: Path) -> None:
    write_hub_config(hub_cache, without(QWEN, "num_experts"))
    with pytest.raises(ModelConfigError, match="is only a default of Qwen3MoeConfig"):
        resolve_model_shape("someone/Tiny-MoE", 1, allow_download=True)


def test_a_hub_model_that_cannot_be_fetched_is_one_clear_line(hub_cache: Path) -> None:
    with pytest.raises(ModelConfigError, match=r"cannot get config\.json of nobody/Nothing from the Hub") as caught:
        resolve_model_shape("nobody/Nothing", 1, allow_download=True)
    assert "\n" not in str(caught.value)


def test_fewer_experts_on_a_rank_than_a_token_picks_are_refused() -> None:
    with pytest.raises(ParallelismError, match="at EP 8 leaves 1 experts per rank, fewer than its top_k 2"):
        resolve_model_shape("Mixtral-8x7B", 8, enable_expert_parallel=True)
