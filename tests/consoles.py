"""Runs the real console command in a process of its own, as a user would."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from servers import share_server

COMMAND = [sys.executable, "-c", "from flows.cli import script; script()"]
ONE_UNIT = (
    *("--kernel", "silu_mul_fp8", "--scheme", "fp8_group128", "--provider", "torch", "--batch-size", "1"),
    *("--option", "token_strategy=uniform"),
)
"""Options that leave little of the smoke suite."""
OURS = ("PREFECT_", "RAY_", "TRITON_INTERPRET", "KERNEL_NIGHTLY_", "GITHUB_STEP_SUMMARY")
"""Variables that are for the process of the tests: the interpreter would time and fail, real channels would be told."""
FLOWS = ("run", "retune", "branch", "bisect")
"""Commands that speak to Prefect's server."""
TINY = {
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 1,
    "vocab_size": 128,
    "dtype": "bfloat16",
}


def make_model(folder: Path, **changes: object) -> Path:
    """A model's folder with the config.json of a very small Mixtral; a field changed to None is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {name: value for name, value in {**TINY, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def make_environment(**changes: str) -> dict[str, str]:
    """A user's: without what the tests set for themselves, and without a GPU."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {**kept, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "COLUMNS": "200", **changes}


def find_server(command: object, embedded: bool = False) -> dict[str, str]:
    """What has a command use the server of this test run, where a user's starts one of its own, which takes seconds."""
    return {} if embedded or command not in FLOWS else {"PREFECT_API_URL": share_server()}


def run_command(
    *arguments: object, cwd: Path, seconds: float = 200.0, embedded: bool = False
) -> subprocess.CompletedProcess[str]:
    """The command's exit code and what it printed; as a user's, with a Prefect server of its own, if `embedded`."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=make_environment(**find_server(arguments[0], embedded)),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def start_command(*arguments: object, cwd: Path, embedded: bool = False, **environment: str) -> subprocess.Popen[str]:
    """The command as the leader of a process group, with stdout to read from, and more in its environment."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=make_environment(PYTHONUNBUFFERED="1", **{**find_server(arguments[0], embedded), **environment}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )


def heed_interrupts() -> None:
    """As in a terminal: a shell that runs the tests in the background hands them an ignored SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
