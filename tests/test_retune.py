"""`kernel-nightly retune` as a user types it: what it tunes, and one line for what it cannot."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_commands import PAGES, list_ours

from flows import retune as flow
from flows.arguments import make_parser, read_selection
from flows.cli import main
from tasks.errors import TuningError, UsageError
from tasks.planning.cases import Selection
from tasks.tuning.requests import list_requests
from tasks.tuning.retuning import Request, Retuned, set_key_of

MIXTRAL = ("--model", "Mixtral-8x7B", "--tp-size", "2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "name what to tune with --model"),
        (("--model", "Mixtrl"), "unknown model 'Mixtrl'"),
        (MIXTRAL, "--device cpu: vllm-triton-default of fused_moe cannot be tuned there: needs "),
        ((*MIXTRAL, "--provider", "triton"), "--device cpu: triton of fused_moe cannot be tuned there: needs "),
        ((*MIXTRAL, "--provider", "torch"), "torch of fused_moe cannot be tuned: take a Triton provider"),
        ((*MIXTRAL, "--kernel", "silu_mul_fp8"), "--kernel silu_mul_fp8 cannot be tuned; give one of fused_moe, mxfp4"),
        ((*MIXTRAL, "--kernel", "fused_moe", "silu_mul_fp8"), "--kernel silu_mul_fp8 cannot be tuned; give one of "),
        (
            (*MIXTRAL, "--scheme", "mxfp4_w4a4"),
            "--scheme mxfp4_w4a4 is of none of the kernels to tune: fused_moe has ",
        ),
        (
            (*MIXTRAL, "--batch-size", "1", "--option", "activation_format=standard", "activation_format=batched"),
            "--option: Mixtral-8x7B TP2 was asked for with ",
        ),
        ((*MIXTRAL, "--budget", "0"), "--budget 0 is not above 0"),
        ((*MIXTRAL, "--batch-size", "0"), "--batch-size 0 is below 1"),
    ],
)
def test_bad_input_is_one_line(
    options: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["retune", "--device", "cpu", *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"kernel-nightly: {message}")
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_tuned_without_more_is_vllms_kernel_at_the_batch_sizes_of_its_tuner(tmp_path: Path) -> None:
    [request] = list_requests(Selection(models=("Mixtral-8x7B",), tp_sizes=(2,)), "cuda", tmp_path, 3, 60.0)
    assert (request.unit.layer.kernel, request.unit.layer.scheme) == ("fused_moe", "fp8_w8a8")
    assert (request.unit.providers, request.unit.timers) == (("vllm-triton-default",), ("graph",))
    assert [case.num_tokens for case in request.unit.cases][:4] == [1, 2, 4, 8]
    assert len(request.unit.cases) == 18
    assert (request.seed, request.effort.most_seconds) == (3, 60.0)


def test_every_layer_and_provider_is_a_request_and_vllms_three_are_one(tmp_path: Path) -> None:
    providers = ("triton", "vllm-triton-shipped", "vllm-triton-tuned")
    both = Selection(models=("Mixtral-8x7B",), tp_sizes=(2, 4), providers=providers, batch_sizes=(1,))
    found = list_requests(both, "cuda", tmp_path, 0, 60.0)
    assert [(request.unit.layer.tp_size, *request.unit.providers) for request in found] == [
        (2, "triton"),
        (2, "vllm-triton-default"),
        (4, "triton"),
        (4, "vllm-triton-default"),
    ]
    dense = Selection(models=("Llama-3.1-8B",), kernels=("mxfp4_gemm",), batch_sizes=(1,))
    assert [request.launcher for request in list_requests(dense, "cuda", tmp_path, 0, 60.0)] == ["triton"] * 4
    with pytest.raises(UsageError, match="cannot be tuned"):
        list_requests(Selection(models=("Mixtral-8x7B",), kernels=("silu_mul_fp8",)), "cuda", tmp_path, 0, 60.0)


def test_a_layer_that_cannot_be_tuned_costs_no_other_and_workers_see_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[object]()

    @contextmanager
    def open_workshop(*_: object) -> Iterator[None]:
        seen.append(os.environ.get("KERNEL_NIGHTLY_WEBHOOK_URL"))
        yield

    def tune(_workshop: object, request: Request) -> list[Retuned]:
        if request.unit.layer.tp_size == 2:
            raise TuningError("its weights do not fit")
        key = set_key_of(request.unit.cases[0], request.launcher, "NVIDIA H200")
        return [Retuned(key, (), "### what was found\n", tmp_path / "s.md", None)]

    monkeypatch.setenv("KERNEL_NIGHTLY_WEBHOOK_URL", "https://example.com/secret")
    monkeypatch.setattr(flow, "open_workshop", open_workshop)
    monkeypatch.setattr(flow, "retune_layer", tune)
    monkeypatch.setattr(flow, "choose_device", lambda device, address: ("cuda", address))
    both = Selection(models=("Mixtral-8x7B",), tp_sizes=(2, 4), batch_sizes=(1,))
    with pytest.raises(TuningError, match="1 of 2 layers could not be tuned: its weights do not fit"):
        flow.retune.fn(both, save_dir=tmp_path, markdown=tmp_path / "found.md")
    assert seen == [None]
    assert "### what was found" in (tmp_path / "found.md").read_text()


def test_every_command_that_is_shown_can_be_planned(tmp_path: Path) -> None:
    shown = [argv for page in PAGES for argv in list_ours(page) if argv[0] == "retune"]
    assert len(shown) >= 4
    for argv in shown:
        arguments = make_parser().parse_args(argv)
        assert list_requests(read_selection(arguments), "cuda", tmp_path, arguments.seed, arguments.budget), argv
