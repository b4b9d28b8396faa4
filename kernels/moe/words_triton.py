"""The Triton MoE with repacked weights of 4 bits, or 8: picks a configuration, launches round_w4.py and gemm_words.py.

Two launches to seven: align (none, one or two), round hidden states (unless they stay in 16 bits), gate-up, quantize
the intermediate (int4), down, sum (unless top_k is 1, no expert map leaves pairs out and no sum is split). The batched
format needs neither align nor sum. Few pairs with FP4 weights and 16-bit activations go row by row (gemv_words.py), in
two.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import triton

from kernels.configs import read_config
from kernels.errors import ConfigError
from kernels.gemm.int4_words import OFFSETS, pack_int4
from kernels.gemm.w4_words import GROUP_SIZES, pack_words
from kernels.gemm.w8_words import pack_int8
from kernels.gemm.words import PACKED, PACKED_BY_LANES, STEP, Words, gate_up_by_lanes, interleave_gate_up
from kernels.moe.activations import quantize_rows_and_sum
from kernels.moe.align import Blocks
from kernels.moe.gemm_words import words_down_kernel, words_gate_up_kernel
from kernels.moe.gemv_words import words_down_gemv_kernel, words_gate_up_gemv_kernel
from kernels.moe.inputs import is_batched, moe_sizes, weights_input
from kernels.moe.round_w4 import round_rows_kernel
from kernels.moe.routing import Routing, find_blocks, gemm_arguments, routing_of
from kernels.moe.sums import sum_over_choices
from kernels.sms import DEFAULT_NUM_SMS, DEFAULT_SHARED_BYTES, count_shared_bytes
from kernels.spec import Case, Launch, Outputs, Tensors

Rows = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""What a GEMM reads: [rows, k] values, or FP8 codes with a scale per row and the sums of groups of 128 (int4)."""
OFFSET_FACTORS = (-OFFSETS[0], -OFFSETS[1])
LEAST_SUMS = 16
"""tl.dot sums up no fewer."""
PACKERS = {"int4": pack_int4, "int8": pack_int8}


@dataclass(frozen=True, slots=True)
class WordsLayer:
    """Weights of a layer as the kernels read them, and what multiplies whole sums."""

    format: str
    """"mxfp4", "nvfp4", "int4" or "int8"."""
    rounds_to_fp4: bool
    """Whether activations are rounded to the weights' FP4 format; those that meet int4 are FP8."""
    w1: Words
    """Of [E, 2 N, K], gate and up rows in turn."""
    w2: Words
    """Of [E, K, N]."""
    w1_factor: torch.Tensor
    """[E, 2 N] float32, gate and up in turn: of whole sums."""
    w2_factor: torch.Tensor
    """[E, K] float32."""
    a1_global_scale: torch.Tensor | None = None
    """[1] float32, of hidden states rounded to NVFP4."""
    a2_global_scale: torch.Tensor | None = None
    """[1] float32, of the intermediate rounded to NVFP4."""
    by_lanes: bool = False
    """Which order the columns of words have, and the rows of w1."""


def pack_experts(
    weight_format: str, weights: Tensors, scale_suffix: str, by_lanes: bool = False
) -> tuple[Words, Words]:
    """w1 with gate and up rows in turn, and w2, repacked once for a layer."""
    w1, w2 = weights["w1"], weights["w2"]
    w1_scale, w2_scale = weights[f"w1{scale_suffix}"], weights[f"w2{scale_suffix}"]

    def pack(codes: torch.Tensor, scales: torch.Tensor) -> Words:
        packer = PACKERS.get(weight_format)
        return packer(codes, scales) if packer else pack_words(weight_format, codes, scales, by_lanes=by_lanes)

    def pack_w1() -> Words:
        order = gate_up_by_lanes if by_lanes else interleave_gate_up
        return pack(order(w1), order(w1_scale))

    packed = PACKED_BY_LANES if by_lanes else PACKED
    return packed.get(w1, pack_w1), packed.get(w2, lambda: pack(w2, w2_scale))


@dataclass(frozen=True, slots=True)
class WordsConfig:
    """Launch configuration of words_moe_triton."""

    BLOCK_SIZE_M: int
    """Rows of a block: pairs of one expert. 1: row by row (gemv_words.py), FP4 weights and 16-bit activations only;
    GROUP_SIZE_M, num_stages and DOWN_SPLIT are not read then."""
    GATE_UP_BLOCK_SIZE_N: int
    """Columns of the intermediate per program: twice as many rows of weights."""
    DOWN_BLOCK_SIZE_N: int
    """Columns of the output per program."""
    GROUP_SIZE_M: int
    """Blocks that share a tile of weights in L2."""
    num_warps: int
    num_stages: int
    DOWN_SPLIT: int
    """Programs that share a sum of the down GEMM; few rows have few of them."""

    @property
    def shared(self) -> dict[str, int]:
        """What both GEMMs are launched with."""
        return {
            "BLOCK_SIZE_M": self.BLOCK_SIZE_M,
            "GROUP_SIZE_M": self.GROUP_SIZE_M,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
        }


FP4_FORMATS = ("mxfp4", "nvfp4")
BY_ROW = WordsConfig(1, 2, 4, 1, num_warps=1, num_stages=1, DOWN_SPLIT=1)
"""The best of 12 configurations on an H200, DeepSeek-R1-FP4 TP8 and Qwen3-30B-A3B at M=1."""
MOST_BY_ROW = 2**24
"""Weights of a matrix of all pairs: from about twice as many on, tensor cores are faster."""


def goes_by_row(case: Case, weight_format: str) -> bool:
    """Whether there are so few pairs, and so small experts, that no tile should be computed."""
    num_experts, top_k, k, n = moe_sizes(case.layer)
    num_pairs = case.num_tokens * top_k
    if weight_format not in FP4_FORMATS or case.layer.scheme.endswith("w4a4") or is_batched(case):
        return False
    return num_pairs * 4 <= num_experts * case.layer.ep_size and num_pairs * n * k <= MOST_BY_ROW


def default_config(case: Case, weight_format: str, shared_bytes: int = DEFAULT_SHARED_BYTES) -> WordsConfig:
    """By rows per expert; of 4-bit weights the best of about 20 configurations a case on an H200: 24 cases, 5 layers.

    Few rows read and unpack weights and do little else: 128 rows of weights for four warps, and three stages, since
    more of them leave room for fewer programs. Many rows share what was unpacked for one.

    Args:
        shared_bytes: most that a program may have of shared memory; INT8 weights have tiles for little of it.
    """
    if goes_by_row(case, weight_format):
        return BY_ROW
    num_experts, top_k, k, n = moe_sizes(case.layer)
    num_experts *= case.layer.ep_size
    num_pairs = case.num_tokens * top_k
    reached = num_experts if is_batched(case) else min(num_experts, num_pairs)
    rows = num_pairs / max(reached, 1)
    split = 4 if num_pairs * triton.cdiv(k, 64) <= DEFAULT_NUM_SMS and not is_batched(case) else 1
    if weight_format == "int8":
        grouped = "group" in case.layer.scheme
        if split > 1 and not grouped:  # the best of 78 configurations on an H200 (Mixtral-8x7B TP2, M=1)
            return WordsConfig(16, 64, 128, 1, num_warps=8, num_stages=3, DOWN_SPLIT=split)
        if shared_bytes < INT8_SHARED_BYTES:
            return WordsConfig(*default_int8_config(min(rows, SMALL_INT8_ROWS), num_pairs, grouped), DOWN_SPLIT=1)
        wide = reached * triton.cdiv(n, 256) >= DEFAULT_NUM_SMS * case.layer.ep_size
        return WordsConfig(*default_int8_config(rows, num_pairs, grouped, wide), DOWN_SPLIT=1)
    if weight_format == "int4":
        return WordsConfig(*default_int4_config(rows, num_pairs), DOWN_SPLIT=split)
    if num_pairs * 4 <= num_experts:
        block_m, gate_up_n, down_n, num_warps = 16, 32, 64, 4
    elif rows <= 12:
        block_m, gate_up_n, down_n, num_warps = 16, 32 if rows <= 1 and n < 1024 else 64, 128, 4
    elif rows <= 24:
        block_m, gate_up_n, down_n, num_warps = 32, 64, 128, 8 if n < 1024 else 4
    elif rows <= (64 if n < 1024 else 48):
        block_m, gate_up_n, down_n, num_warps = 32, 64, 256, 4
    else:
        block_m, gate_up_n, down_n, num_warps = 64, 64, 128, 4
    return WordsConfig(block_m, gate_up_n, down_n, 1 if block_m == 16 else 8, num_warps, num_stages=3, DOWN_SPLIT=1)


def default_int4_config(rows: float, num_pairs: int) -> tuple[int, int, int, int, int, int]:
    """Its fields but DOWN_SPLIT: the best of 4 to 8 configurations a case on an H200 (Mixtral-8x7B TP2)."""
    if num_pairs <= 8:
        return 16, 32, 64, 1, 4, 4
    if rows <= 24:
        return 16, 64, 128, 1, 8, 4
    if rows <= 96:
        return 32, 64, 128, 8, 4, 4
    return (64, 64, 128, 8, 4, 3) if rows <= 384 else (64, 128, 256, 8, 8, 4)


INT8_SHARED_BYTES = 160 * 1024
"""What the largest of the tiles below take, 163,840 bytes compiled for sm_90; sm_86, sm_89 and sm_120 have 99 KiB."""
SMALL_INT8_ROWS = 384
"""Per expert, up to which tiles that are not wide fit there."""


def default_int8_config(
    rows: float, num_pairs: int, grouped: bool, wide: bool = False
) -> tuple[int, int, int, int, int, int]:
    """Its fields but DOWN_SPLIT: the best of 12 configurations a case on an H200 (Mixtral-8x7B TP2, M=1 to 2048).

    At most 3 % slower ones where the best spills. Scales per group add registers and instructions to every step.

    Args:
        wide: tiles of 256 columns of the intermediate are at least as many as SMs. Up to 24 rows they were the best of
            27, of the same layer, which has 224 of them; where they are fewer nothing was measured.
    """
    if num_pairs <= 8:
        return (16, 64, 64, 1, 8, 5) if grouped else (16, 64, 64, 1, 4, 6)
    if rows <= 8:
        return (16, 64, 128, 1, 4, 4) if grouped else (16, 256, 128, 1, 8, 3) if wide else (16, 128, 128, 1, 8, 4)
    if rows <= 24:
        return (16, 64, 128, 8, 4, 4) if grouped else (32, 256, 128, 8, 8, 3) if wide else (32, 64, 128, 8, 8, 4)
    if rows <= 96:
        return (64, 128, 128, 8, 8, 3) if grouped else (64, 64, 128, 8, 8, 4)
    if rows <= 384:
        return 64, 64, 128, 8, 4, 3
    return (128, 64, 128, 8, 8, 3) if grouped else (128, 128, 128, 8, 8, 3)


def words_moe_triton(layer: WordsLayer, inputs: Tensors, config: WordsConfig, *, on_input: bool) -> torch.Tensor:
    """The formula of the MoE, without leaving the device.

    Args:
        inputs: as make_moe_inputs makes them, contiguous.
        on_input: whether the router's weight multiplies the experts' input; batched activations are not weighted.
    Returns:
        Like hidden_states.
    """
    hidden_states, routing = inputs["hidden_states"], routing_of(inputs)
    if config.BLOCK_SIZE_M == 1:
        return words_gemv(layer, hidden_states, routing, config, on_input=on_input)
    k = hidden_states.shape[-1]
    blocks = find_blocks(inputs, len(layer.w2.words), config.BLOCK_SIZE_M)
    weight_rows = on_input and layer.rounds_to_fp4 and routing.topk_weights is not None
    weight_sums = routing.topk_weights if on_input and not weight_rows else None
    a = round_hidden_states(layer, hidden_states.view(-1, k), routing, weight_rows)
    h = gate_up_triton(layer, a, weight_sums, routing, blocks, config)
    h_rows = (
        quantize_rows_and_sum(h, routing, OFFSET_FACTORS, LEAST_SUMS) if layer.format == "int4" else (h, None, None)
    )
    output_weights = None if on_input else routing.topk_weights
    split = config.DOWN_SPLIT
    dtype = hidden_states.dtype if split == 1 else torch.float32
    by_row = torch.empty(routing.num_rows, split, k, dtype=dtype, device=h.device)
    down_triton(layer, h_rows, output_weights, by_row, routing, blocks, config)
    return sum_over_choices(by_row, routing, hidden_states.dtype, split).view(hidden_states.shape)


def round_hidden_states(layer: WordsLayer, x: torch.Tensor, routing: Routing, weight_rows: bool) -> Rows:
    """What the gate-up GEMM reads: FP8 codes (int4), values rounded to FP4, or x.

    Args:
        x: [rows, K].
        weight_rows: multiply each pair's copy of its token by the router's weight before it is rounded.
    """
    if layer.format == "int4":
        return quantize_rows_and_sum(x, routing, OFFSET_FACTORS, LEAST_SUMS)
    if not layer.rounds_to_fp4:
        return x, None, None
    k = x.shape[1]
    num_rows, top_k = (routing.num_rows, routing.top_k) if weight_rows else (x.shape[0], 1)
    computed = routing.computed if num_rows == routing.num_rows else (None,) * 4  # else rows are tokens
    rounded = torch.empty(num_rows, k, dtype=torch.bfloat16, device=x.device)
    round_rows_kernel[(num_rows, triton.cdiv(k, 1024))](
        x, routing.topk_weights if weight_rows else None, layer.a1_global_scale, rounded, *computed, k, top_k,
        FORMAT=layer.format, GROUP_SIZE=GROUP_SIZES[layer.format], BLOCK_SIZE_K=1024,
    )  # fmt: skip
    return rounded, None, None


def count_sums(rows: Rows) -> int | None:
    """Sums of a row; None if there are none."""
    return None if rows[2] is None else rows[2].shape[1]


def gate_up_triton(
    layer: WordsLayer,
    a: Rows,
    weights: torch.Tensor | None,
    routing: Routing,
    blocks: Blocks,
    config: WordsConfig,
) -> torch.Tensor:
    """The intermediate [num_rows, N], rounded to FP4 if activations are.

    Args:
        a: of [rows, K], a row for num_rows / rows pairs in turn.
        weights: [num_rows] float32 that multiply the sums; they are linear in the input, and so is its FP8 rounding.
    """
    (rows, k), n = a[0].shape, layer.w1.num_rows // 2
    dtype = torch.bfloat16 if layer.format == "int4" else a[0].dtype
    h = torch.empty(routing.num_rows, n, dtype=dtype, device=a[0].device)
    block_n = config.GATE_UP_BLOCK_SIZE_N
    words_gate_up_kernel[(blocks.max_blocks * triton.cdiv(n, block_n),)](
        a[0], a[1], a[2], layer.w1.words, layer.w1.scales, layer.w1_factor, weights, h, layer.a2_global_scale,
        *gemm_arguments(routing, blocks), n, k, routing.num_rows // rows, routing.rows_per_expert,
        FORMAT=layer.format, STEPS=count_sums(a), GROUP_SIZE=GROUP_SIZES.get(layer.format),
        ROUND_OUT=layer.rounds_to_fp4, LAYOUT=blocks.layout,
        EVEN_N=n % block_n == 0, EVEN_K=k % STEP == 0, BLOCK_SIZE_N=block_n, **config.shared,
    )  # fmt: skip
    return h


def down_triton(
    layer: WordsLayer,
    h: Rows,
    weights: torch.Tensor | None,
    by_row: torch.Tensor,
    routing: Routing,
    blocks: Blocks,
    config: WordsConfig,
) -> None:
    """Write the output of every row, by_row [num_rows, DOWN_SPLIT, K], times weights [num_rows] if given."""
    n, k = h[0].shape[1], by_row.shape[2]
    block_n = config.DOWN_BLOCK_SIZE_N
    words_down_kernel[(blocks.max_blocks * triton.cdiv(k, block_n), config.DOWN_SPLIT)](
        h[0], h[1], h[2], layer.w2.words, layer.w2.scales, layer.w2_factor, weights, by_row,
        *gemm_arguments(routing, blocks), n, k, routing.rows_per_expert,
        FORMAT=layer.format, STEPS=count_sums(h), LAYOUT=blocks.layout,
        EVEN_N=n % STEP == 0, EVEN_K=k % block_n == 0, BLOCK_SIZE_N=block_n, SPLIT=config.DOWN_SPLIT, **config.shared,
    )  # fmt: skip


def words_gemv(
    layer: WordsLayer, x: torch.Tensor, routing: Routing, config: WordsConfig, *, on_input: bool
) -> torch.Tensor:
    """The formula row by row, for FP4 weights and 16-bit activations x [num_tokens, K]."""
    (num_tokens, k), n = x.shape, layer.w1.num_rows // 2  # whole steps of them, if by lanes
    gate_up_n, down_n = config.GATE_UP_BLOCK_SIZE_N, config.DOWN_BLOCK_SIZE_N
    h = torch.empty(routing.num_rows, n, dtype=x.dtype, device=x.device)
    out = torch.empty_like(x)
    routed = (routing.topk_ids, routing.expert_map)
    constants = {
        "FORMAT": layer.format,
        "BY_LANES": layer.by_lanes,
        "SEGMENTS": 8 * config.num_warps,
        "num_warps": config.num_warps,
    }
    words_gate_up_gemv_kernel[(routing.num_rows, triton.cdiv(n, gate_up_n))](
        x, layer.w1.words, layer.w1.scales, layer.w1_factor, routing.topk_weights if on_input else None, h, *routed,
        layer.w1.num_rows, n, k, routing.top_k, BLOCK_SIZE_N=gate_up_n, **constants,
    )  # fmt: skip
    words_down_gemv_kernel[(num_tokens, triton.cdiv(k, down_n))](
        h, layer.w2.words, layer.w2.scales, layer.w2_factor, None if on_input else routing.topk_weights, out, *routed,
        n, k, routing.top_k, BLOCK_SIZE_N=down_n, **constants,
    )  # fmt: skip
    return out


def prepare_words(case: Case, layer: WordsLayer, inputs: Tensors) -> Launch:
    """Pick the default configuration."""
    shared_bytes = count_shared_bytes(inputs["hidden_states"].device)
    return launch_words(case, layer, inputs, default_config(case, layer.format, shared_bytes))


def prepare_words_with(case: Case, layer: WordsLayer, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """Take a given configuration."""
    return launch_words(case, layer, inputs, read_config(WordsConfig, config, case))


def launch_words(case: Case, layer: WordsLayer, inputs: Tensors, config: WordsConfig) -> Launch:
    """The launch with a given configuration.

    Raises:
        ConfigError: it goes row by row, which this layer or batched rows cannot.
    """
    if config.BLOCK_SIZE_M == 1 and (layer.rounds_to_fp4 or layer.format not in FP4_FORMATS or is_batched(case)):
        raise ConfigError(
            f"BLOCK_SIZE_M=1: row by row go FP4 weights and 16-bit activations of tokens (this is "
            f"{case.layer.scheme}{', batched' if is_batched(case) else ''}): set 16"
        )
    on_input = weights_input(case)

    def run() -> Outputs:
        return (words_moe_triton(layer, inputs, config, on_input=on_input),)

    return Launch(run, asdict(config))
