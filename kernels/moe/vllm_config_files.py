"""vLLM's files of tuned configurations, read strictly: what is wrong is named, what is right stays usable.

    E=8,N=7168,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json
    {"triton_version": "3.6.0", "1": {"BLOCK_SIZE_M": 16, ...}, "2": {...}, ...}

Source: vLLM, fused_moe.py (get_config_file_name, get_moe_configs) and the files that vLLM 0.26 ships.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Config = Mapping[str, int]
"""One launch configuration: values by the names that the kernel gives them."""

BLOCKS = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M")
GROUPED_BLOCKS = ("BLOCK_SIZE_M",)
"""What an entry needs that may serve vLLM's kernel for groups, which can choose the other blocks itself."""
MOST_WARPS = 32
MOST_ELEMENTS = 2**20
"""Of a tile: Triton's own limit."""

FILE_NAME = re.compile(
    r"E=(?P<num_experts>\d+),N=(?P<intermediate_size>\d+),device_name=(?P<device_name>[^,]+?)"
    r"(,dtype=(?P<dtype>[^,]+?))?(,block_shape=\[(?P<block_n>\d+),(?P<block_k>\d+)\])?(,backend=(?P<backend>[^,]+?))?"
    r"\.json"
)


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """What the name of a file says of the layers it is for."""

    num_experts: int
    """E of one rank."""
    intermediate_size: int
    """N of one rank."""
    device_name: str
    """E.g. "NVIDIA_H200": without blanks, and one for the H200 family."""
    dtype: str | None = None
    """E.g. "fp8_w8a8"; None for 16-bit weights, and for INT8 x INT8."""
    block_shape: tuple[int, int] | None = None
    """Weights per scale, [rows, columns]; None without blocks, and for groups along the columns of one row."""
    backend: str | None = None
    """E.g. "flydsl"; None for Triton."""

    @property
    def file_name(self) -> str:
        """As vLLM spells it."""
        dtype = f",dtype={self.dtype}" if self.dtype else ""
        blocks = f",block_shape=[{self.block_shape[0]},{self.block_shape[1]}]" if self.block_shape else ""
        backend = f",backend={self.backend}" if self.backend else ""
        sizes = f"E={self.num_experts},N={self.intermediate_size}"
        return f"{sizes},device_name={self.device_name}{dtype}{blocks}{backend}.json"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing in a file that vLLM could not use."""

    file: Path
    batch_size: str
    """As the file spells it; "" for the whole file."""
    name: str
    """Of the value; "" for the whole entry."""
    value: str
    limit: str
    """What it should be."""

    @property
    def line(self) -> str:
        """All of it in one line for people."""
        where = f", batch size {self.batch_size}" if self.batch_size else ""
        what = f"{self.name}={self.value}" if self.name else self.value
        return f"{self.file}{where}: {what} ({self.limit})"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The configurations of one file that can be used."""

    key: ConfigKey
    triton_version: str | None
    """Of the tuner's Triton; None where the file does not say."""
    configs: Mapping[int, Config] = field(hash=False)
    """By batch size."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading a file gave."""

    path: Path
    file: ConfigFile | None
    """None if nothing of it can be used."""
    faults: tuple[Fault, ...] = ()


def parse_file_name(name: str) -> ConfigKey | None:
    """What the name says; None if vLLM would not look for such a name."""
    found = FILE_NAME.fullmatch(name)
    if found is None:
        return None
    blocks = (int(found["block_n"]), int(found["block_k"])) if found["block_n"] else None
    return ConfigKey(
        int(found["num_experts"]),
        int(found["intermediate_size"]),
        found["device_name"],
        found["dtype"],
        blocks,
        found["backend"],
    )


def read_config_file(path: Path) -> Reading:
    """Everything usable in a file, and everything that is not."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        return _refuse(path, error.strerror or str(error), "must be a readable file")
    except UnicodeDecodeError as error:
        return _refuse(path, str(error), "must be JSON in UTF-8")
    return parse_config_file(path, text)


def parse_config_file(path: Path, text: str) -> Reading:
    """The same of a text that is, or will be, the file's."""
    key = parse_file_name(path.name)
    if key is None:
        limit = "a name is E=..,N=..,device_name=..[,dtype=..][,block_shape=[..,..]][,backend=..].json"
        return _refuse(path, path.name, limit)
    repeated: list[str] = []
    try:
        content = json.loads(text, object_pairs_hook=_note_repeated(repeated))
    except (ValueError, RecursionError) as error:
        return _refuse(path, " ".join(str(error).split()), "must be JSON in UTF-8")
    if not isinstance(content, dict):
        return _refuse(path, _show(content), "must be an object that maps batch sizes to configurations")
    faults = [Fault(path, "", name, "given twice", "must be given once") for name in repeated]
    version = content.pop("triton_version", None)
    if not (version is None or (isinstance(version, str) and version)):
        faults.append(Fault(path, "", "triton_version", _show(version), 'must be text such as "3.6.0"'))
        version = None
    if not content:
        faults.append(Fault(path, "", "", "no batch size", "must have one at least"))
    configs: dict[int, Config] = {}
    for batch_size, config in content.items():
        found = find_faults(batch_size, config, key)
        faults.extend(Fault(path, batch_size, *fault) for fault in found)
        if not found:
            configs[int(batch_size)] = config
    return Reading(path, ConfigFile(key, version, configs), tuple(faults))


def _refuse(path: Path, value: str, limit: str) -> Reading:
    return Reading(path, None, (Fault(path, "", "", value, limit),))


def find_faults(batch_size: str, config: object, key: ConfigKey) -> list[tuple[str, str, str]]:
    """What is wrong with one entry: name, value, limit."""
    if not (batch_size.isascii() and batch_size.isdigit() and batch_size[0] != "0"):
        return [("", _show(batch_size), "a batch size must be a positive whole number")]
    if not isinstance(config, dict):
        return [("", _show(config), "must be an object that maps names to whole numbers")]
    found = []
    for name, value in config.items():
        check = FLYDSL_VALUES.get(name) if key.backend else TRITON_VALUES.get(name)
        limit = "is not a name that vLLM's kernel knows" if check is None else _check_type(value) or check(value)
        if limit:
            found.append((name, _show(value), limit))
    if found or key.backend:
        return found
    grouped = key.dtype in ("int8_w8a16", "int4_w4a16")
    found += [
        (name, "not there", "is needed") for name in (GROUPED_BLOCKS if grouped else BLOCKS) if name not in config
    ]
    return found or check_tile(config, key.block_shape)


def check_tile(config: Config, block_shape: tuple[int, int] | None) -> list[tuple[str, str, str]]:
    """What is wrong with sizes that are right one by one: name, value, limit."""
    m, n, k = (config.get(f"BLOCK_SIZE_{axis}", 16) for axis in "MNK")
    found = []
    if block_shape and k % block_shape[1] and block_shape[1] % k:
        found.append(("BLOCK_SIZE_K", str(k), f"must be a multiple of block_k {block_shape[1]}, or divide it"))
    if max(m * n, m * k, n * k) > MOST_ELEMENTS:
        found.append(("BLOCK_SIZE_M, N, K", f"{m}, {n}, {k}", f"no tile may have more than {MOST_ELEMENTS} elements"))
    return found


def _note_repeated(repeated: list[str]) -> Callable[[list[tuple[str, object]]], dict[str, object]]:
    """A hook for json.loads that lists names which an object has twice."""

    def hook(pairs: list[tuple[str, object]]) -> dict[str, object]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.extend(sorted({name for name in names if names.count(name) > 1}))
        return content

    return hook


def _show(value: object) -> str:
    """A value as JSON, cut where it is long."""
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."


def _check_type(value: object) -> str:
    return "" if type(value) is int else "must be a whole number"


def _power_of_two(least: int, most: int | None = None) -> Callable[[int], str]:
    limit = f"must be a power of two from {least}" + (f" to {most}" if most else "")
    return lambda value: "" if value >= least and value & (value - 1) == 0 and value <= (most or value) else limit


def _at_least(least: int) -> Callable[[int], str]:
    return lambda value: "" if value >= least else f"must be at least {least}"


TRITON_VALUES: Mapping[str, Callable[[int], str]] = {
    "BLOCK_SIZE_M": _power_of_two(1),
    "BLOCK_SIZE_N": _power_of_two(8),
    "BLOCK_SIZE_K": _power_of_two(16),
    "GROUP_SIZE_M": _at_least(1),
    "SPLIT_K": _at_least(1),
    "num_warps": _power_of_two(1, MOST_WARPS),
    "num_stages": _at_least(1),
    "num_ctas": _power_of_two(1, 16),
    "waves_per_eu": _at_least(0),
    "matrix_instr_nonkdim": _at_least(0),
    "kpack": _power_of_two(1),
}
"""What each value of a Triton configuration must be, in the order in which vLLM's tuner writes them; "" if it is."""

FLYDSL_VALUES: Mapping[str, Callable[[int], str]] = {
    name: _power_of_two(1) for name in ("tile_m", "tile_n", "tile_k", "tile_n2", "tile_k2")
}
"""The same of a configuration for the backend "flydsl"."""
