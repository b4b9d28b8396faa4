"""SiLU-and-multiply fused with FP8 quantization, on batched (masked) expert activations.

Between the two GEMMs of a batched MoE every expert e holds tokens_per_expert[e] valid rows out of T. For each valid row

    a = silu(y[:H]) * y[H:];  scale[g] = max(max|a[g]|, 1e-10) / 448;  codes[g] = round_to_e4m3(a[g] / scale[g])

with groups g of 128 columns. Rows past tokens_per_expert[e] are padding: never written and never compared. The work is
bound by memory: 4 bytes in and 1 byte out per column.
Source: DeepSeek-V3 technical report (arXiv:2412.19437), section 3.3; vLLM's batched_deep_gemm_moe.py.
"""

import importlib
import importlib.util
from pathlib import Path

import torch
import triton
import triton.language as tl
from torch.nn.functional import silu

from kernels.errors import ShapeError
from kernels.quantize.fp8 import AMAX_FLOOR, FP8_DTYPE, FP8_MAX, dequantize_fp8_group, quantize_fp8_group
from kernels.spec import Case, Device, Kernel, Launch, Layer, Outputs, Provider, Tensors, Tolerance

GROUP_SIZE = 128
SCHEMES = ("fp8_group128",)

# H200 and H100 SXM; also what is compiled for where there is no GPU.
DEFAULT_NUM_SMS = 132
PROGRAMS_PER_SM = 32
BLOCK_SIZE_G = 4
WARP_SIZE = 32
# 65536 registers of an SM / (32 programs of 32 threads): one register more, and the last programs would run alone.
MAX_REGISTERS = 64
MAX_ITEMS = 2**31 - 1


@triton.jit
def silu_mul_fp8_kernel(  # type: ignore[no-untyped-def]  # Triton types the arguments at the launch
    y_ptr,  # [E, T, 2 * H] bfloat16, contiguous
    tokens_per_expert_ptr,  # [E] int32
    codes_ptr,  # [E, T, H] float8_e4m3fn, contiguous
    scales_ptr,  # [E, T, H / GROUP_SIZE] float32, strides (T * H / GROUP_SIZE, 1, T)
    num_experts,
    max_tokens,
    H: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    FP8_MAX: tl.constexpr,
    AMAX_FLOOR: tl.constexpr,
    BLOCK_SIZE_E: tl.constexpr,
    BLOCK_SIZE_G: tl.constexpr,
):
    """Every program strides over the tiles of all experts; a tile is BLOCK_SIZE_G groups of one valid row.

    How many tiles there are is known on the device only, so the grid is fixed, and the row's expert is found by a
    cumulative sum over tokens_per_expert. Programs that run together read neighbouring tiles: with a contiguous range
    per program the largest input (E=256, T=1024, H=7168) took 1.19 times as long on an H200.
    """
    NUM_GROUPS: tl.constexpr = H // GROUP_SIZE
    TILES_PER_ROW: tl.constexpr = (NUM_GROUPS + BLOCK_SIZE_G - 1) // BLOCK_SIZE_G
    offs_e = tl.arange(0, BLOCK_SIZE_E)
    num_tokens = tl.load(tokens_per_expert_ptr + offs_e, mask=offs_e < num_experts, other=0)
    row_ends = tl.cumsum(num_tokens, 0)  # [BLOCK_SIZE_E]
    num_tiles = tl.sum(num_tokens, 0) * TILES_PER_ROW

    # Eight columns a thread: 16-byte loads that a warp coalesces, 8-byte stores.
    offs_g = tl.arange(0, BLOCK_SIZE_G)
    offs_n = tl.arange(0, GROUP_SIZE // 8)[None, :, None] * 8 + tl.arange(0, 8)[None, None, :]
    for tile in tl.range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        row = tile // TILES_PER_ROW
        is_before = row_ends <= row
        expert = tl.sum(is_before.to(tl.int32), 0).to(tl.int64)
        token = row - tl.max(tl.where(is_before, row_ends, 0), 0)
        groups = tile % TILES_PER_ROW * BLOCK_SIZE_G + offs_g
        mask = groups < NUM_GROUPS
        offs = (groups * GROUP_SIZE)[:, None, None] + offs_n  # [BLOCK_SIZE_G, GROUP_SIZE / 8, 8]
        gate_ptrs = y_ptr + (expert * max_tokens + token) * (2 * H) + offs
        gate = tl.load(gate_ptrs, mask=mask[:, None, None], other=0.0)
        up = tl.load(gate_ptrs + H, mask=mask[:, None, None], other=0.0)

        gate = gate.to(tl.float32)
        activation = gate / (1.0 + tl.exp(-gate)) * up.to(tl.float32)
        amax = tl.maximum(tl.max(tl.max(tl.abs(activation), 2), 1), AMAX_FLOOR)  # [BLOCK_SIZE_G]
        codes = (activation * (FP8_MAX / amax)[:, None, None]).to(codes_ptr.dtype.element_ty)

        tl.store(codes_ptr + (expert * max_tokens + token) * H + offs, codes, mask=mask[:, None, None])
        scale_ptrs = scales_ptr + expert * max_tokens * NUM_GROUPS + groups * max_tokens + token
        tl.store(scale_ptrs, amax * (1.0 / FP8_MAX), mask=mask)


def launch_config(y: torch.Tensor) -> dict[str, int]:
    """Blocks, warps and grid for an input [E, T, 2 * H]: as many programs as the SMs hold at once, no more than items.

    A program is one warp, so that no barrier keeps a warp from its next loads. Fewer experts than lanes are padded to a
    warp, because the compiler spills registers over a narrower scan.
    """
    num_experts, max_tokens, columns = y.shape
    num_items = num_experts * max_tokens * (columns // 2 // GROUP_SIZE)
    return {
        "BLOCK_SIZE_E": max(WARP_SIZE, triton.next_power_of_2(num_experts)),
        "BLOCK_SIZE_G": BLOCK_SIZE_G,
        "num_programs": min(count_sms(y.device) * PROGRAMS_PER_SM, num_items),
        "num_warps": 1,
        "maxnreg": MAX_REGISTERS,
    }


def count_sms(device: torch.device) -> int:
    """Streaming multiprocessors of the device; DEFAULT_NUM_SMS where it is not a GPU (interpreted or only compiled)."""
    if device.type != "cuda":
        return DEFAULT_NUM_SMS
    return torch.cuda.get_device_properties(device).multi_processor_count


def empty_outputs(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Unwritten codes [E, T, H] and scales [E, T, H / 128], column-major per expert, as DeepGEMM reads them."""
    num_experts, max_tokens, columns = y.shape
    num_groups = columns // 2 // GROUP_SIZE
    codes = torch.empty(num_experts, max_tokens, columns // 2, dtype=FP8_DTYPE, device=y.device)
    scales = torch.empty(num_experts, num_groups, max_tokens, dtype=torch.float32, device=y.device).transpose(1, 2)
    return codes, scales


def silu_mul_fp8_triton(y: torch.Tensor, tokens_per_expert: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """silu(y[..., :H]) * y[..., H:] in FP8, one scale per 128 columns of each valid row, by a persistent Triton kernel.

    Args:
        y: [E, T, 2 * H] bfloat16, contiguous, H divisible by 128.
        tokens_per_expert: [E] int32, valid rows of each expert, at most T; read on the device only.
    Returns:
        codes [E, T, H] float8_e4m3fn; scales [E, T, H / 128] float32 with strides (T * H / 128, 1, T). The padding of
        both stays unwritten.
    Raises:
        ShapeError: a size or layout the kernel does not take; the message names it and the limit.
    """
    check_input(y, tokens_per_expert)
    codes, scales = empty_outputs(y)
    config = launch_config(y)
    if config["num_programs"] == 0:
        return codes, scales
    silu_mul_fp8_kernel[(config["num_programs"],)](
        y,
        tokens_per_expert,
        codes,
        scales,
        y.shape[0],
        y.shape[1],
        H=y.shape[2] // 2,
        GROUP_SIZE=GROUP_SIZE,
        FP8_MAX=FP8_MAX,
        AMAX_FLOOR=AMAX_FLOOR,
        BLOCK_SIZE_E=config["BLOCK_SIZE_E"],
        BLOCK_SIZE_G=config["BLOCK_SIZE_G"],
        num_warps=config["num_warps"],
        maxnreg=config["maxnreg"],
    )
    return codes, scales


def check_input(y: torch.Tensor, tokens_per_expert: torch.Tensor) -> None:
    """Raise ShapeError for what the kernel's pointer arithmetic cannot address."""
    if y.ndim != 3 or y.shape[2] % (2 * GROUP_SIZE) or y.shape[2] == 0:
        raise ShapeError(f"y has shape {tuple(y.shape)}: give [E, T, 2 * H] with H a multiple of {GROUP_SIZE}")
    if y.dtype != torch.bfloat16 or not y.is_contiguous():
        raise ShapeError(f"y is {y.dtype} with strides {y.stride()}: give contiguous bfloat16")
    if tokens_per_expert.shape != y.shape[:1] or tokens_per_expert.dtype != torch.int32:
        raise ShapeError(
            f"tokens_per_expert is {tokens_per_expert.dtype} {tuple(tokens_per_expert.shape)}: "
            f"give int32 [{y.shape[0]}], one count per expert"
        )
    if max(y.numel() // (2 * GROUP_SIZE), y[0].numel() if y.shape[0] else 0) > MAX_ITEMS:
        raise ShapeError(f"y {tuple(y.shape)} has more items than the {MAX_ITEMS} of an int32: split it by experts")


def silu_mul_fp8_reference(y: torch.Tensor, tokens_per_expert: torch.Tensor) -> torch.Tensor:
    """What the codes and scales of every valid row stand for, in float32; plain torch, one expert at a time.

    Only valid rows exist in the result, and no other float32 tensor is larger than one expert's rows.

    Args:
        y: [E, T, 2 * H] bfloat16.
        tokens_per_expert: [E] int32.
    Returns:
        [sum(tokens_per_expert), H] float32, the experts' rows one after another.
    """
    num_tokens = tokens_per_expert.tolist()
    half = y.shape[2] // 2
    out = torch.empty(sum(num_tokens), half, dtype=torch.float32, device=y.device)
    for rows, expert, n in zip(out.split(num_tokens), y, num_tokens, strict=True):
        gate, up = expert[:n].float().split(half, dim=-1)
        rows.copy_(dequantize_fp8_group(*quantize_fp8_group(silu(gate) * up, GROUP_SIZE)))
    return out


def check_layer(layer: Layer) -> None:
    """Raise ShapeError unless activations are bfloat16 and the intermediate size is whole groups of 128."""
    if layer.dtype != "bfloat16":
        raise ShapeError(f"dtype {layer.dtype} of {layer.key}: silu_mul_fp8 takes bfloat16; leave --dtype out")
    intermediate_size = layer.sizes["intermediate_size"]
    if intermediate_size <= 0 or intermediate_size % GROUP_SIZE:
        raise ShapeError(
            f"intermediate_size {intermediate_size} of {layer.key} is not a multiple of {GROUP_SIZE}: "
            "choose a tp_size that leaves whole groups"
        )


def make_weights(layer: Layer, seed: int, device: torch.device) -> Tensors:
    """None: an activation has no weights."""
    return {}


def make_inputs(case: Case, weights: Tensors, seed: int, device: torch.device) -> Tensors:
    """Gaussian y [E, T, 2 * H] bfloat16 and tokens_per_expert [E] int32 by the case's token_strategy.

    uniform draws each count from [0.7 * T, T), max_t is T everywhere, first_t gives expert 0 T tokens and no other any.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    num_experts = case.layer.sizes["num_experts"]
    tokens_per_expert = draw_token_counts(case, generator)
    columns = 2 * case.layer.sizes["intermediate_size"]
    y = torch.empty(num_experts, case.num_tokens, columns, dtype=torch.bfloat16, device=device)
    for expert in y:
        expert.normal_(generator=generator)
    return {"y": y, "tokens_per_expert": tokens_per_expert}


def draw_token_counts(case: Case, generator: torch.Generator) -> torch.Tensor:
    """tokens_per_expert [E] int32 on the generator's device."""
    strategy = case.options.get("token_strategy", "uniform")
    counts = torch.zeros(case.layer.sizes["num_experts"], dtype=torch.int32, device=generator.device)
    if strategy == "uniform":
        least = max(1, int(case.num_tokens * 0.7))
        return counts.random_(least, max(least + 1, case.num_tokens), generator=generator)
    if strategy == "max_t":
        return counts.fill_(case.num_tokens)
    if strategy == "first_t":
        counts[:1] = case.num_tokens
        return counts
    known = ", ".join(KERNEL.options["token_strategy"])
    raise ShapeError(f"token_strategy {strategy!r} of {case.key} is not known: use one of {known}")


def reference(case: Case, weights: Tensors, inputs: Tensors) -> torch.Tensor:
    """silu_mul_fp8_reference of the case."""
    return silu_mul_fp8_reference(inputs["y"], inputs["tokens_per_expert"])


def decode(case: Case, inputs: Tensors, outputs: Outputs) -> torch.Tensor:
    """Dequantize the valid rows, laid out as the reference; the scales may have any strides."""
    codes, scales = outputs
    num_tokens = inputs["tokens_per_expert"].tolist()
    out = torch.empty(sum(num_tokens), codes.shape[2], dtype=torch.float32, device=codes.device)
    for rows, expert_codes, expert_scales, n in zip(out.split(num_tokens), codes, scales, num_tokens, strict=True):
        rows.copy_(dequantize_fp8_group(expert_codes[:n], expert_scales[:n]))
    return out


def count_columns(case: Case, inputs: Tensors) -> int:
    """Activations of all valid rows: rows times H."""
    return int(inputs["tokens_per_expert"].sum()) * case.layer.sizes["intermediate_size"]


def flops(case: Case, inputs: Tensors) -> int:
    """Eight operations per activation: negate, exp, add, divide, multiply, abs, max, and the multiply by 1 / scale."""
    return 8 * count_columns(case, inputs)


def bytes_moved(case: Case, inputs: Tensors) -> int:
    """Two bfloat16 in and one float8 out per activation, a float32 scale per group, and the int32 token counts."""
    columns = count_columns(case, inputs)
    return 5 * columns + 4 * columns // GROUP_SIZE + 4 * case.layer.sizes["num_experts"]


def prepare_torch(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """Plain torch over all T rows: the number of valid ones is on the device, and asking for it would synchronize."""
    y = inputs["y"]
    half = y.shape[2] // 2

    def run() -> Outputs:
        activation = silu(y[..., :half].float()).mul_(y[..., half:])
        return quantize_fp8_group(activation, GROUP_SIZE)

    return Launch(run)


def prepare_triton(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """Our persistent kernel."""
    y, tokens_per_expert = inputs["y"], inputs["tokens_per_expert"]
    return Launch(lambda: silu_mul_fp8_triton(y, tokens_per_expert), launch_config(y))


# Newest first: where releases of vLLM keep persistent_masked_m_silu_mul_quant.
VLLM_MODULES = (
    "vllm.model_executor.layers.fused_moe.experts.batched_deep_gemm_moe",
    "vllm.model_executor.layers.fused_moe.batched_deep_gemm_moe",
)


def find_vllm_module() -> str | None:
    """The module of the installed vLLM that has the kernel, found by its file: importing vLLM takes eight seconds."""
    spec = importlib.util.find_spec("vllm")
    folders = [Path(folder).parent for folder in (spec.submodule_search_locations or ())] if spec else []
    paths = [(name, folder / f"{name.replace('.', '/')}.py") for name in VLLM_MODULES for folder in folders]
    return next((name for name, path in paths if path.exists()), None)


def prepare_vllm_cuda(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """vLLM's CUDA kernel persistent_masked_m_silu_mul_quant, with float32 scales."""
    module = find_vllm_module()
    if module is None:
        raise ImportError(unsupported_by_vllm_package())
    quantize = importlib.import_module(module).persistent_masked_m_silu_mul_quant
    y, tokens_per_expert = inputs["y"], inputs["tokens_per_expert"]
    return Launch(lambda: tuple(quantize(y, tokens_per_expert)))


def unsupported_by_torch(case: Case, device: Device) -> str | None:
    """Never: plain torch runs on every device."""
    return None


def unsupported_by_triton(case: Case, device: Device) -> str | None:
    """Hardware conversion to float8_e4m3fn came with sm_89."""
    return unsupported_before(device, (8, 9))


def unsupported_by_vllm_cuda(case: Case, device: Device) -> str | None:
    """vLLM's own limit is sm_80: below it, it silently runs a Triton fallback instead."""
    return unsupported_before(device, (8, 0)) or unsupported_by_vllm_package()


def unsupported_before(device: Device, capability: tuple[int, int]) -> str | None:
    """Why a device is too old, or not a GPU at all."""
    if device.type != "cuda":
        return f"needs a CUDA GPU (this is {device.type})"
    if device.capability < capability:
        return f"needs sm_{capability[0]}{capability[1]} (this is {device.arch})"
    return None


def unsupported_by_vllm_package() -> str | None:
    """Why the installed vLLM will not do, or None."""
    if importlib.util.find_spec("vllm") is None:
        return "needs the vllm package, which is not installed"
    if find_vllm_module() is None:
        return f"needs a vllm package that has {VLLM_MODULES[0]}, and the installed one has not"
    return None


KERNEL = Kernel(
    name="silu_mul_fp8",
    title="SiLU-and-multiply with FP8 quantization (groups of 128) on batched experts",
    schemes=SCHEMES,
    size_names=("num_experts", "intermediate_size"),
    make_weights=make_weights,
    make_inputs=make_inputs,
    reference=reference,
    providers={
        "torch": Provider(prepare_torch, unsupported_by_torch, "any"),
        "triton": Provider(prepare_triton, unsupported_by_triton, "sm_89+"),
        "vllm-cuda": Provider(prepare_vllm_cuda, unsupported_by_vllm_cuda, "sm_80+"),
    },
    baseline="torch",
    tolerance=dict.fromkeys(
        SCHEMES,
        Tolerance(
            relative_error=0.02,
            element_error=0.14,
            share_close=1.0,
            reason="near a rounding boundary a value may land on the next e4m3 code, up to 1/8 away (3-bit mantissa; "
            "0.14 with a bfloat16 scale); an activation rounded to bfloat16 first does so in 3 % of them, 1.5 % in norm",
        ),
    ),
    flops=flops,
    bytes_moved=bytes_moved,
    decode=decode,
    check_layer=check_layer,
    options={"token_strategy": ("uniform", "max_t", "first_t")},
)
