"""Sets the process up before any test imports Triton: kernels run in its interpreter, and nobody phones home."""

import gc
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

os.environ.setdefault("TRITON_INTERPRET", "1")  # `make gpu-test` may say 0
os.environ["DO_NOT_TRACK"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # as tasks/workers.py, before which a test may import ray
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of many processes would compile our code anew

import pytest
import torch
from interpreting import mend_interpreter
from servers import end_sharing, share_folder

from flows.cli import end_quietly

end_quietly()
torch.set_num_threads(1)  # with tensors as small as the tests' a second one is only waited for

LONGEST = (
    *("nightly", "deployments", "replay", "cluster", "moe_schemes", "database", "recipes", "site", "pool", "compile"),
    *("measure", "full_disk", "search", "branch", "workers", "moe_compile", "nvfp4_moe", "ahead", "faults", "cli"),
    *("retrial", "mxfp4_moe", "events", "evidence", "clock", "lanes", "words_triton", "sittings", "beside"),
    *("mxfp4_triton", "words_gluon", "mxfp4_hopper", "int4_gluon"),
)
"""Files that take the longest, which begin first so that all workers end together: those that start processes among
those that wait or compute by themselves."""
AT_THE_END = ("bench", "story")
"""Files that compare times of this machine, which is quiet when the others have ended."""


def is_first_process(session: pytest.Session) -> bool:
    """Whether this is the process that starts those which run the tests, or the only one."""
    return not hasattr(session.config, "workerinput")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Prepare what all processes share. Ray's token: two that each made one would lock each other out."""
    if not is_first_process(session):
        return
    share_folder()
    if not (Path.home() / ".ray" / "auth_token").exists():
        ray = Path(sys.executable).with_name("ray")
        subprocess.run([ray, "get-auth-token", "--generate"], check=True, capture_output=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what all processes shared, once they have ended."""
    if is_first_process(session):
        end_sharing()


def place(item: pytest.Item) -> int:
    """Where its file stands in the order of files."""
    name = item.path.stem.removeprefix("test_")
    if name in AT_THE_END:
        return len(LONGEST) + 1 + AT_THE_END.index(name)
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, and skip what needs a GPU where there is none."""
    items.sort(key=place)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for garbage after it, and never through what it has imported: that takes a fifth of its time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def interpreter_as_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Triton's interpreter compute what a GPU does, in every supported version of Triton."""
    mend_interpreter(monkeypatch)
