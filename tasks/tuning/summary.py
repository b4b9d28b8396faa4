"""What a search found, in Markdown, ready to be pasted into a pull request."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernels.moe.vllm_config_files import Config
from tasks.errors import TunedFileError
from tasks.tuning.contest import Verdict
from tasks.tuning.plan import Outcome

SHORT = {
    "BLOCK_SIZE_M": "M",
    "BLOCK_SIZE_N": "N",
    "BLOCK_SIZE_K": "K",
    "GATE_UP_BLOCK_SIZE_N": "N1",
    "DOWN_BLOCK_SIZE_N": "N2",
    "GROUP_SIZE_M": "group",
    "SPLIT_K": "split",
    "SWAP_AB": "swap",
    "QUANTIZE_ON_LOAD": "on load",
    "num_warps": "warps",
    "num_stages": "stages",
}
"""Names of values as the table spells them."""
HEADER = "| batch size | old config | new config | old us | new us | new/old (99 % interval) | decision |"


@dataclass(frozen=True, slots=True)
class Environment:
    """What was tuned, where, and with what."""

    title: str
    """E.g. the name of the file."""
    device_name: str
    driver: str
    triton: str
    torch: str
    vllm: str
    """"" where vLLM is not installed."""
    commit: str
    """Of this project; "" outside a checkout."""


def format_summary(environment: Environment, outcomes: Sequence[Outcome]) -> str:
    """The whole summary: a heading, a row for each batch size, totals, the environment."""
    rows = [HEADER, "|---:|---|---|---:|---:|---|---|"]
    rows += [format_row(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.batch_size)]
    told = "\n".join(f"- {name}: {_escape(value)}" for name, value in list_environment(environment).items() if value)
    return f"### {_escape(environment.title)}\n\n{format_totals(outcomes)}\n\n" + "\n".join(rows) + f"\n\n{told}\n"


def write_summary(path: Path, summary: str) -> None:
    """Write a summary into a file.

    Raises:
        TunedFileError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(summary, encoding="utf-8")
    except OSError as error:
        raise TunedFileError(f"cannot write {path}: {error.strerror}; choose another place") from error


def format_row(outcome: Outcome) -> str:
    """One batch size."""
    verdict = outcome.verdict
    new = spell_config(outcome.winner) if outcome.is_replaced else "(the same)"
    cells = (
        str(outcome.batch_size),
        spell_config(outcome.task.used) + ("" if outcome.task.incumbent else " (the default)"),
        new,
        spell_us(verdict.incumbent_us),
        spell_us(verdict.winner_us),
        spell_ratio(verdict),
        _escape(verdict.reason),
    )
    return f"| {' | '.join(cells)} |"


def format_totals(outcomes: Sequence[Outcome]) -> str:
    """How many batch sizes were replaced, what that saves, and what it took to find."""
    replaced = [outcome for outcome in outcomes if outcome.is_replaced]
    timed = [outcome.verdict for outcome in outcomes if outcome.verdict.incumbent_us and outcome.verdict.winner_us]
    configs, seconds = sum(o.num_configs for o in outcomes), math.fsum(o.seconds for o in outcomes)
    text = f"{len(replaced)} of {len(outcomes)} batch sizes have a new configuration."
    if replaced and timed:
        logs = [math.log((verdict.winner_us or 1) / (verdict.incumbent_us or 1)) for verdict in timed]
        mean = math.exp(math.fsum(logs) / len(logs))
        text += f" The geometric mean of new/old is {mean:.3f} over the {len(timed)} that could be timed."
    candidates = sum(len(outcome.task.candidates.configs) for outcome in outcomes)
    return f"{text} {configs:,} of {candidates:,} candidates were measured, in {seconds:,.0f} s."


def list_environment(environment: Environment) -> Mapping[str, str]:
    """What is told of it, by the words for it."""
    return {
        "GPU": f"{environment.device_name}, driver {environment.driver}",
        "Triton": environment.triton,
        "torch": environment.torch,
        "vLLM": environment.vllm,
        "kernel-nightly": environment.commit,
    }


def spell_config(config: Config) -> str:
    """E.g. "M 16, N 64, K 128, group 1, warps 4, stages 5"."""
    return ", ".join(f"{SHORT.get(name, name)} {value:d}" for name, value in config.items())


def spell_us(microseconds: float | None) -> str:
    """A time, or a dash."""
    return "-" if microseconds is None else f"{microseconds:,.1f}"


def spell_ratio(verdict: Verdict) -> str:
    """E.g. "0.931 (0.928 to 0.935)"; of the best challenger where the incumbent stayed."""
    ratio = verdict.ratio
    return "-" if ratio is None else f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def _escape(text: str) -> str:
    """Text that neither ends a cell nor starts a tag, in one line."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
