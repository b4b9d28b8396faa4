"""From a model's config.json to the sizes one rank computes with: its experts, or the linear layers of a dense model.

Every size is read from config.json itself: transformers finds the text config and knows the family, but fills what the
file leaves out with class defaults, and a default of the family is not a dimension of the model.
"""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tasks.errors import ModelConfigError, ParallelismError, UnknownNameError, UsageError
from tasks.records import ModelShape

DTYPES = ("auto", "bfloat16", "float16")
DOWNLOAD_VARIABLE = "KERNEL_NIGHTLY_ALLOW_DOWNLOAD"

_MODEL_CONFIGS = Path(__file__).parent / "model_configs"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LARGEST_LISTED_TP_SIZE = 64

_NUM_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_TOP_K = ("num_experts_per_tok", "moe_top_k", "moe_topk", "moe_k")
_HIDDEN_SIZE = ("hidden_size", "d_model")
_EXPERT_INTERMEDIATE_SIZE = ("moe_intermediate_size", "expert_ffn_hidden_size")
_INTERMEDIATE_SIZE = ("intermediate_size", "ffn_hidden_size")

_MODELING_CODE = {
    "transformers.models.auto.modeling_auto": None,
    "transformers.activations": SimpleNamespace(ACT2FN={}),
}
"""Modules that config classes import, and what stands in for them meanwhile. None: the import fails, as they expect;
it would only name models in docstrings. No activations: transformers takes their names as not to be checked, for as
long as this process lives."""

_SAME_FAMILY = {"kimi_k2": "deepseek_v3"}
"""Families whose config class is a copy of another's, which transformers has; vLLM reads them as that one too."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a model's config.json is."""

    name: str
    """Short model name, part of every key."""
    location: str
    """What AutoConfig is given: a folder, or org/name on the Hub."""
    config_file: Path
    is_local: bool


@dataclass(frozen=True, slots=True)
class _TextConfig:
    """A model's text config twice: as transformers sees it, and as the file has it."""

    model: str
    config: Any
    """The transformers config: its class knows which fields the family has."""
    sections: tuple[Mapping[str, Any], ...]
    """Raw sections of config.json from the whole file down to the text config."""

    def find(self, names: tuple[str, ...]) -> tuple[str, Any] | None:
        """The first of the names that the file itself gives a value, with the value."""
        text = self.sections[-1]
        nested = text.get("ffn_config")  # DBRX keeps its experts there
        for section in (text, nested if isinstance(nested, dict) else {}):
            for name in names:
                if section.get(name) is not None:
                    return name, section[name]
        return None


def list_models() -> tuple[str, ...]:
    """Names of the vendored models."""
    return tuple(sorted(file.parent.name for file in _MODEL_CONFIGS.glob("*/config.json")))


def find_vendored(model: str) -> str | None:
    """The vendored model a name means: its short name in any case, or org/name that ends in exactly that; else None."""
    for name in list_models():
        if name.lower() == model.lower():
            return name
    last = model.rsplit("/", maxsplit=1)[-1]
    return last if _HUB_NAME.fullmatch(model) and last in list_models() else None


def resolve_model_shapes(
    model: str,
    tp_size: int,
    *,
    enable_expert_parallel: bool = False,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    model_prefix: str = "",
    allow_download: bool = False,
) -> tuple[ModelShape, ...]:
    """Read the layer sizes of a model and split them over the ranks.

    Args:
        model: a vendored name, a folder with a config.json, or org/name on the Hub.
        tp_size: tensor-parallel ranks; with expert parallelism the experts are split over them instead.
        enable_expert_parallel: of no effect on a dense model, which has no experts to split.
        dtype: "auto" for the dtype that config.json names, or "bfloat16" or "float16".
        model_prefix: attribute of the config that holds the text config; by default transformers finds it.
        allow_download: read config.json from the Hub; KERNEL_NIGHTLY_ALLOW_DOWNLOAD=1 allows it as well.
    Returns:
        One shape, the experts of a mixture-of-experts model, or four: the linear layers of a dense one.
    Raises:
        UnknownNameError: no such model; ModelConfigError: config.json is unreadable or lacks a field;
        ParallelismError: tp_size does not divide; UsageError: tp_size below 1 or an unknown dtype.
    """
    if tp_size < 1:
        raise UsageError(f"--tp-size {tp_size} is below 1; give a whole number from 1 up")
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype!r} is not supported; give one of {', '.join(DTYPES)}")
    source = _find_source(model, allow_download)
    text = _read_text_config(source, trust_remote_code, model_prefix)
    used_dtype = _read_dtype(text) if dtype == "auto" else dtype
    if not _has_experts(text):
        layers = _split_linear_layers(text, tp_size)
        return tuple(ModelShape(source.name, tp_size, 1, used_dtype, sizes, module) for module, sizes in layers.items())
    ep_size = tp_size if enable_expert_parallel else 1
    return (ModelShape(source.name, tp_size, ep_size, used_dtype, _split_experts(text, tp_size, ep_size)),)


def _has_experts(text: _TextConfig) -> bool:
    """Whether the file or its family speaks of experts; then a field left out is missed, not taken as a dense model."""
    named = any("expert" in name or "moe" in name for name in text.sections[-1])
    known = any(getattr(text.config, name, None) is not None for name in _NUM_EXPERTS)
    return named or known or text.find(_NUM_EXPERTS) is not None


def _split_experts(text: _TextConfig, tp_size: int, ep_size: int) -> dict[str, int]:
    """Sizes of the MoE layer per rank."""
    sizes = {
        "num_experts": _read_size(text, _NUM_EXPERTS),
        "top_k": _read_size(text, _TOP_K),
        "hidden_size": _read_size(text, _HIDDEN_SIZE),
        "intermediate_size": _read_size(text, _intermediate_size_fields(text)),
    }
    if sizes["top_k"] > sizes["num_experts"]:
        raise ModelConfigError(
            f"{text.model} has fewer experts, {sizes['num_experts']}, than its top_k {sizes['top_k']}; "
            "correct config.json"
        )
    split = "num_experts" if ep_size > 1 else "intermediate_size"
    sizes[split] = _split_size(text.model, split, sizes[split], tp_size)
    return sizes


def _split_linear_layers(text: _TextConfig, tp_size: int) -> dict[str, dict[str, int]]:
    """Output features n and input features k per rank of a dense model's layers, by vLLM's names of them.

    The heads of Q, K and V are split over the ranks; with more ranks than K and V heads each rank keeps a copy of one.
    """
    hidden_size = _read_size(text, _HIDDEN_SIZE)
    heads = _read_size(text, ("num_attention_heads",))
    head_dim = _read_head_dim(text, hidden_size, heads)
    kv_heads = _read_size(text, ("num_key_value_heads",))
    rank_heads = _split_size(text.model, "num_attention_heads", heads, tp_size)
    if kv_heads % tp_size and tp_size % kv_heads:
        raise ParallelismError(
            f"num_key_value_heads {kv_heads} of {text.model} can be neither split over --tp-size {tp_size} nor copied "
            "evenly; use a --tp-size that divides it or is a multiple of it"
        )
    rank_kv_heads = max(1, kv_heads // tp_size)
    intermediate_size = _read_size(text, _INTERMEDIATE_SIZE)
    rank_intermediate_size = _split_size(text.model, "intermediate_size", intermediate_size, tp_size)
    return {
        "qkv_proj": {"n": (rank_heads + 2 * rank_kv_heads) * head_dim, "k": hidden_size},
        "o_proj": {"n": hidden_size, "k": rank_heads * head_dim},
        "gate_up_proj": {"n": 2 * rank_intermediate_size, "k": hidden_size},
        "down_proj": {"n": hidden_size, "k": rank_intermediate_size},
    }


def _read_head_dim(text: _TextConfig, hidden_size: int, heads: int) -> int:
    """head_dim, or what is left of the hidden size per head where neither the file nor the family says otherwise."""
    per_head, rest = divmod(hidden_size, heads)
    if text.find(("head_dim",)) is None and rest == 0 and getattr(text.config, "head_dim", None) in (None, per_head):
        return per_head
    return _read_size(text, ("head_dim",))


def _find_source(model: str, allow_download: bool) -> _Source:
    folder = Path(model).expanduser()
    is_named_folder = "/" in model and folder.is_dir()
    vendored = None if is_named_folder else find_vendored(model)
    if vendored:
        folder = _MODEL_CONFIGS / vendored
    if folder.is_dir():
        return _Source(vendored or folder.resolve().name, str(folder), folder / "config.json", is_local=True)
    if model.startswith((".", "/", "~")):
        raise ModelConfigError(f"no folder {model}; give one with a config.json, or a name: {', '.join(list_models())}")
    if not (allow_download or os.environ.get(DOWNLOAD_VARIABLE) == "1") or not _HUB_NAME.fullmatch(model):
        raise _unknown_model(model)
    return _Source(model.rsplit("/", maxsplit=1)[-1], model, _download_config(model), is_local=False)


def _unknown_model(model: str) -> UnknownNameError:
    error = UnknownNameError("model", model, list_models())
    hint = f"or a folder with a config.json, or org/name on the Hub with --allow-download ({DOWNLOAD_VARIABLE}=1)"
    error.args = (f"{error}; {hint}",)
    return error


def _download_config(model: str) -> Path:
    from transformers.utils import cached_file

    try:
        return Path(cached_file(model, "config.json"))
    except (OSError, ValueError) as error:
        raise ModelConfigError(f"cannot get config.json of {model} from the Hub: {_first_line(error)}") from error


def _read_text_config(source: _Source, trust_remote_code: bool, model_prefix: str) -> _TextConfig:
    raw = _read_json(source)
    config = _load_config(source, raw, trust_remote_code)
    sections = [raw]
    if model_prefix:
        config = _open_section(source.name, config, sections, model_prefix)
    try:
        text = config.get_text_config()
    except ValueError as error:
        raise ModelConfigError(f"{source.name}: {_first_line(error)}; name it with --model-prefix") from error
    if text is not config:
        nested = [name for name, value in sections[-1].items() if isinstance(value, dict)]
        names = [name for name in nested if getattr(config, name, None) is text]
        if not names:
            where = f"config.json of {source.name} has no section for the text config of {_class_name(config)}"
            raise ModelConfigError(f"{where}; add it, or name the section it is in with --model-prefix")
        config = _open_section(source.name, config, sections, names[0])
    return _TextConfig(source.name, config, tuple(sections))


def _open_section(model: str, config: Any, sections: list[dict[str, Any]], name: str) -> Any:
    """Step into one nested config, in the transformers config and in the raw file alike."""
    known = [key for key, value in sections[-1].items() if isinstance(value, dict) and _is_config(config, key)]
    if name not in known:
        found = f"those it has: {', '.join(known)}" if known else "it has none: leave --model-prefix out"
        raise ModelConfigError(f"{model} has no nested config {name!r}; {found}")
    sections.append(sections[-1][name])
    return getattr(config, name)


def _is_config(config: Any, name: str) -> bool:
    from transformers import PreTrainedConfig

    return isinstance(getattr(config, name, None), PreTrainedConfig)


def _read_json(source: _Source) -> dict[str, Any]:
    try:
        raw = json.loads(source.config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelConfigError(f"cannot read {source.config_file}: {_first_line(error)}") from error
    if not isinstance(raw, dict):
        raise ModelConfigError(f"{source.config_file} holds a {type(raw).__name__}, not an object; give a model's")
    return raw


def _load_config(source: _Source, raw: dict[str, Any], trust_remote_code: bool) -> Any:
    """The transformers config; AutoConfig imports seconds of modeling code: only for a family with code of its own."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig

    try:
        family = _SAME_FAMILY.get(raw.get("model_type", ""), raw.get("model_type"))
        if family in CONFIG_MAPPING and not trust_remote_code:
            with _without_modeling_code():
                return CONFIG_MAPPING[family].from_dict({**raw, "model_type": family})
        return AutoConfig.from_pretrained(
            source.location, trust_remote_code=trust_remote_code, local_files_only=source.is_local
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, StrictDataclassError) as error:
        raise ModelConfigError(f"transformers cannot read the config of {source.name}: {_first_line(error)}") from error


@contextmanager
def _without_modeling_code() -> Iterator[None]:
    """Leave out the import of modeling code, unless it is here already: most of it is torch's compiler, for seconds."""
    absent = {name: instead for name, instead in _MODELING_CODE.items() if name not in sys.modules}
    sys.modules.update(absent)  # type: ignore[arg-type]  # None is Python's own way to say that it is not there
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


def _intermediate_size_fields(text: _TextConfig) -> tuple[str, ...]:
    """A family with a field for its experts never falls back on the width of its dense layers."""
    for name in _EXPERT_INTERMEDIATE_SIZE:
        if text.find((name,)) or getattr(text.config, name, None) is not None:
            return (name,)
    return _INTERMEDIATE_SIZE


def _read_size(text: _TextConfig, names: tuple[str, ...]) -> int:
    found = text.find(names)
    if found is None:
        raise _missing_field(text, names)
    name, value = found
    size = value[0] if isinstance(value, list) and value else value  # HunYuan: one value per layer
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ModelConfigError(
            f"{name} of {text.model} is {value!r}, not a whole number from 1 up; correct config.json"
        )
    return size


def _missing_field(text: _TextConfig, names: tuple[str, ...]) -> ModelConfigError:
    looked_for = f"config.json of {text.model} has none of {', '.join(names)}"
    for name in names:
        default = getattr(text.config, name, None)
        if default is not None:
            why = f"{name}={default} is only a default of {_class_name(text.config)}"
            return ModelConfigError(f"{looked_for}; {why}: add the model's own value")
    return ModelConfigError(f"{looked_for}; add it, or give another model (all: kernel-nightly list models)")


def _read_dtype(text: _TextConfig) -> str:
    for section in reversed(text.sections):
        dtype = section.get("dtype") or section.get("torch_dtype")
        if dtype in DTYPES[1:]:
            return str(dtype)
        if dtype is not None:
            raise ModelConfigError(f"{text.model} is in {dtype}; give --dtype bfloat16 or float16")
    raise ModelConfigError(f"config.json of {text.model} names no dtype; give --dtype bfloat16 or float16")


def _split_size(model: str, name: str, size: int, tp_size: int) -> int:
    if size % tp_size == 0:
        return size // tp_size
    fitting = ", ".join(str(n) for n in range(1, _LARGEST_LISTED_TP_SIZE + 1) if size % n == 0)
    limit = f"TP sizes up to {_LARGEST_LISTED_TP_SIZE} that divide it: {fitting}"
    raise ParallelismError(f"{name} {size} of {model} is not divisible by --tp-size {tp_size}; {limit}")


def _class_name(config: Any) -> str:
    return type(config).__name__


def _first_line(error: Exception) -> str:
    """Libraries explain over several lines; ours is one."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
