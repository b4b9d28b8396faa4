"""Which launch configurations may be tried: values by name, what the kernel refuses, what cannot be the best.

    Space    values each name may take, constraints, rules; data
    Problem  the matrix products of one batch size on one architecture
    prune    Space x Problem -> the configurations worth compiling, and how many each rule took

Rules compile nothing and take only what cannot come within 1 % of the best. Checked: they keep all 919 entries for
NVIDIA H200 that vLLM 0.26 ships. So there is none for warps: 41 of those have 8 warps on a tile of 16 rows.
"""

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from kernels.moe.vllm_config_files import Config
from tasks.errors import EmptySpaceError

SHARED_BYTES = {
    "sm_80": 166_912,
    "sm_86": 101_376,
    "sm_89": 101_376,
    "sm_90": 232_448,
    "sm_100": 232_448,
    "sm_103": 232_448,
    "sm_120": 101_376,
}
"""Most shared memory of a program, by architecture."""
REGISTERS = 255
"""Most registers of a thread."""
TENSOR_MEMORY = ("sm_100", "sm_103")
"""Architectures that do not hold sums in registers."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What a configuration is to multiply at one batch size."""

    num_tokens: int
    gemms: tuple[tuple[int, int], ...]
    """[n, k] of each weight matrix of an expert: columns of the result and the length of the sum."""
    arch: str
    """E.g. "sm_90"."""
    num_experts: int = 1
    """All that tokens are routed to; 1 for a linear layer."""
    top_k: int = 1
    a_bytes: float = 2.0
    """Of a value of the tokens' operand, as it is loaded."""
    w_bytes: float = 2.0
    """Of a weight."""
    is_batched: bool = False
    """Whether activations come grouped by expert."""

    @property
    def most_rows(self) -> int:
        """Of one expert: its share, and six standard deviations of drawing it at random; never more than tokens."""
        share = self.num_tokens * self.top_k / self.num_experts
        return min(self.num_tokens, math.ceil(share + 6 * math.sqrt(share) + 6))


Check = Callable[[Config, Problem], bool]
"""Whether a configuration may stay."""
Canonical = Callable[[dict[str, int], Problem], None]
"""Changes values without an effect to the one that stands for all of them."""


@dataclass(frozen=True, slots=True)
class Space:
    """The configurations of one kernel under one scheme."""

    name: str
    """Of the kernel's provider and the scheme."""
    values: Mapping[str, tuple[int, ...]] = field(hash=False)
    """By name, ascending."""
    checks: Mapping[str, Check] = field(hash=False)
    """By the words that say what is asked, in the order asked: what the kernel refuses first, then rules."""
    canonical: Canonical | None = None

    def list_configs(self) -> Iterator[dict[str, int]]:
        """All of them, in a fixed order."""
        for values in itertools.product(*self.values.values()):
            yield dict(zip(self.values, values, strict=True))

    @property
    def size(self) -> int:
        """How many that are."""
        return math.prod(map(len, self.values.values()))

    @property
    def sha256(self) -> str:
        """Digest of what may be tried: a set that was tuned in another space may have missed the best."""
        content = [self.name, {name: list(values) for name, values in self.values.items()}, list(self.checks)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def canonicalize(self, config: Config, problem: Problem) -> dict[str, int]:
        """The configuration that stands for all that do the same at this batch size."""
        same = dict(config)
        if self.canonical:
            self.canonical(same, problem)
        return same

    def refusal(self, config: Config, problem: Problem) -> str:
        """The first check that the configuration fails, or ""."""
        return next((words for words, check in self.checks.items() if not check(config, problem)), "")


@dataclass(frozen=True, slots=True)
class Candidates:
    """What is left of a space for one problem."""

    configs: tuple[Config, ...] = field(hash=False)
    """Each stands for itself and what does the same."""


def prune(space: Space, problem: Problem) -> Candidates:
    """The configurations that are worth compiling.

    Raises:
        EmptySpaceError: none is; names the check that took the last.
    """
    kept: dict[str, Config] = {}
    taken: Counter[str] = Counter()
    for config in space.list_configs():
        refusal = space.refusal(config, problem)
        if refusal:
            taken[refusal] += 1
        else:
            same = space.canonicalize(config, problem)
            kept.setdefault(config_key(same), same)
    if not kept:
        counts = ", ".join(f"{words} took {taken[words]}" for words in space.checks if taken[words])
        last = [words for words in space.checks if taken[words]][-1]
        raise EmptySpaceError(
            f"no configuration of {space.name} is left of {space.size} for {problem.num_tokens} tokens on "
            f"{problem.arch}: {last} took the last ({counts}); give its values more room"
        )
    return Candidates(tuple(kept.values()))


def config_key(config: Config) -> str:
    """The identity of a configuration, whatever the order of its names."""
    return json.dumps(config, sort_keys=True)


def distinct(configs: Iterable[Config]) -> list[Config]:
    """Each once, in their order."""
    return list({config_key(config): config for config in configs}.values())


def fits_shared_memory(config: Config, problem: Problem, rows: int, columns: int, is_async: bool) -> bool:
    """Whether the pipeline's buffers fit: one a stage where the tensor core reads them asynchronously, else one less.

    Compiled with Triton 3.7 for sm_80 to sm_100, vLLM's kernel took this or more in 64 of 64 cases, ours in 126 of 126.

    Args:
        rows, columns: of the tile of the result.
    """
    k, stages = config["BLOCK_SIZE_K"], config["num_stages"]
    buffers = stages if is_async else stages - 1
    return buffers * k * (rows * problem.a_bytes + columns * problem.w_bytes) <= SHARED_BYTES.get(
        problem.arch, math.inf
    )


def fits_registers(config: Config, problem: Problem, elements: int) -> bool:
    """Whether the sums of a tile fit into the registers of its threads."""
    return problem.arch in TENSOR_MEMORY or elements < (REGISTERS + 1) * 32 * config["num_warps"]


def has_few_empty_rows(config: Config, problem: Problem) -> bool:
    """Whether a tile of half as many rows would not hold all of any expert; 64 rows cost a tensor core no more."""
    rows: int = config["BLOCK_SIZE_M"]
    return rows <= 64 or rows < 2 * problem.most_rows


def has_few_empty_columns(config: Config, problem: Problem, *names: str) -> bool:
    """Whether no tile is twice as wide as every result."""
    widest = max(n for n, _ in problem.gemms)
    return all(config[name] < 2 * widest for name in names)


def has_few_empty_steps(config: Config, problem: Problem) -> bool:
    """Whether no step is twice as long as every sum."""
    longest = max(k for _, k in problem.gemms)
    return config["BLOCK_SIZE_K"] < 2 * longest


def merge_groups(config: dict[str, int], problem: Problem, values: tuple[int, ...]) -> None:
    """Let all groups as large as the number of blocks be the smallest of them: the order of tiles is the same."""
    if problem.is_batched:
        return
    pairs, rows = problem.num_tokens * problem.top_k, config["BLOCK_SIZE_M"]
    if pairs * 4 <= problem.num_experts:
        most_blocks = pairs  # a block for each pair, without alignment
    else:
        most_blocks = min(pairs, math.ceil(pairs / rows) + problem.num_experts)
    enough = [size for size in values if size >= most_blocks]
    if config["GROUP_SIZE_M"] > most_blocks and enough:
        config["GROUP_SIZE_M"] = 1 if most_blocks == 1 else enough[0]
