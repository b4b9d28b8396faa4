"""Bad input as a user would type it: one line that names the next step, exit code 2, nothing half-written."""

import re
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import duckdb
import pytest
from consoles import COMMAND, ONE_UNIT, make_environment, make_model, run_command
from prefect.exceptions import TerminationSignal
from records import make_comparison, make_run

from flows.arguments import LISTINGS, make_parser, read_selection
from flows.choice import has_gpu
from flows.cli import COMMANDS, is_of_an_interrupt, main
from kernels.registry import kernels
from kernels.timing.timers import TIMERS
from tasks.checkout import CHECKOUT
from tasks.planning.shapes import list_models
from tasks.planning.suites import SUITES
from tasks.storage.comparison_store import ComparisonStore
from tasks.storage.database import database_path, snapshot_path
from tasks.storage.store import Store

RUN_OPTIONS = (
    *("--suite", "--model", "--models", "--tp-size", "--tp-sizes", "--enable-expert-parallel", "--dtype"),
    *("--batch-size", "--batch-sizes", "--limit-k", "--limit-n", "--kernel", "--provider", "--scheme", "--seed"),
    *("--option", "--options", "--timer", "--timers"),
    *("--trust-remote-code", "--model-prefix", "--allow-download", "--device", "--address", "--run-id", "--save-dir"),
)

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to type commands in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KERNEL_NIGHTLY_ALLOW_DOWNLOAD", raising=False)
    return tmp_path


def refuse(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that must fail on its input; gives its one line."""
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"kernel-nightly: [^\n]+\n", printed.err)
    return printed.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "Mixtrl-8x7B"), "unknown model 'Mixtrl-8x7B'; nearest: .*Mixtral-8x7B"),
        (("--model", "./nowhere"), "no folder ./nowhere; give one with a config.json"),
        (("--kernel", "fused_mo"), "unknown kernel 'fused_mo'; nearest: fused_moe"),
        (("--provider", "tritn"), "unknown provider 'tritn'; nearest: .*triton"),
        (("--scheme", "fp8_w8a9"), "unknown scheme 'fp8_w8a9'; nearest: .*fp8_w8a8,"),
        (("--suite", "nightli"), "unknown suite 'nightli'; nearest: nightly"),
        (("--device", "tpu"), "--device 'tpu' is not one of auto, cuda, cpu"),
        (("--dtype", "float64"), "--dtype 'float64' is not supported; give one of auto, bfloat16, float16"),
        (("--model", "Mixtral-8x7B", "--tp-size", "3"), "intermediate_size 14336 .* not divisible by --tp-size 3"),
        (("--tp-size", "0"), "--tp-size 0 is below 1"),
        (("--batch-size", "0"), "--batch-size 0 is below 1"),
        (("--batch-size", "1", "-4"), "--batch-size -4 is below 1"),
        (("--limit-k", "-1"), "--limit-k -1 is below 1"),
        (("--limit-n", "12345"), "--limit-n 12345 leaves nothing of suite smoke; there is "),
        (("--model-prefix", "text_config"), "has no nested config 'text_config'"),
        (("--option", "token_strategy=max"), "token_strategy has no value 'max'; give one of uniform, max_t"),
        (("--option", "token_stategy=max_t"), "unknown option 'token_stategy'; nearest: token_strategy"),
        (("--timer", "grap"), "unknown timer 'grap'; nearest: graph"),
        (("--timer", "graph"), "--timer graph works on cuda, this run is on cpu; give wall"),
    ],
)
def test_a_wrong_argument_of_run_is_one_line_and_starts_nothing(
    options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    device = () if "--device" in options or "--suite" in options else ("--device", "cpu")
    assert re.search(message, refuse(capsys, "run", *device, *options))
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("branch", "nowhere"), "branch 'nowhere' is no branch, tag or commit here; see git branch --all"),
        (("branch", "HEAD", "--base", "nowhere"), "--base 'nowhere' is no branch, tag or commit here"),
        (("branch", "v1", "--worktree", "--base", "HEAD"), "--worktree measures the checkout as it is: leave out v1"),
        (("branch", "--only", "fused_mo"), "unknown kernel 'fused_mo'; nearest: fused_moe"),
        (("branch", "--least-change", "0"), "--least-change 0 is not between 0 and 10; 0.01 is 1 %"),
        (("branch", "--budget", "-1"), "--budget -1 is below 0"),
        (
            ("branch", "--base", "HEAD", "--markdown", "/proc/no/x.md"),
            "cannot write /proc/no/x.md: .*; give --markdown",
        ),
        (("bisect", "fused_moe", "--good", "nowhere"), "--good 'nowhere' is no branch, tag or commit here"),
        (("bisect", "fused_moe", "--good", "HEAD"), "run the same code, nothing of kernels and tasks differs"),
    ],
)
@pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="there is no repository to name commits of")
def test_a_wrong_argument_of_branch_or_bisect_is_one_line_and_starts_nothing(
    options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    assert re.search(message, refuse(capsys, *options, "--device", "cpu"))
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("bisect", "fused_moe", "--good", "HEAD", "--markdown", "/proc/no/x.md"), "cannot write /proc/no/x.md: "),
        (("bisect", "fused_moe", "--good", "HEAD"), "start one: kernel-nightly run"),
        (("retune", "--model", "Mixtral-8x7B", "--markdown", "."), "cannot write .: Is a directory; give --markdown"),
    ],
)
def test_what_would_fail_in_the_end_is_told_at_the_beginning(
    options: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.commits.refs.find_commit", lambda ref, option: ref)
    monkeypatch.setattr("tasks.commits.refs.list_commits", lambda good, bad: [bad])
    assert message in refuse(capsys, *options, "--device", "cpu")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("field", ["num_local_experts", "num_experts_per_tok", "hidden_size", "intermediate_size"])
def test_a_model_without_a_field_is_told_which(field: str, capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    make_model(elsewhere / "model", **{field: None})
    assert field in refuse(capsys, "run", "--device", "cpu", "--model", "./model")
    assert {path.name for path in elsewhere.iterdir()} == {"model"}


def test_a_kernel_of_experts_on_a_model_without_any_is_refused(
    capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    make_model(elsewhere / "dense", model_type="llama", num_local_experts=None, num_experts_per_tok=None)
    message = refuse(capsys, "run", "--device", "cpu", "--model", "./dense", "--kernel", "fused_moe")
    assert "fused_moe takes num_experts, top_k, hidden_size, intermediate_size; dense TP1 has n, k" in message


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_the_nightly_suite_without_a_gpu_says_what_to_run(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    assert "suite nightly needs a CUDA GPU" in refuse(capsys, "run", "--suite", "nightly")
    assert "NVML tells of no GPU here; run --device cpu" in refuse(capsys, "run", "--device", "cuda")
    assert list(elsewhere.iterdir()) == []


def test_a_save_dir_that_cannot_be_made_is_refused(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    (elsewhere / "file").write_text("in the way")
    message = refuse(capsys, "run", "--device", "cpu", "--save-dir", "file/below")
    assert "cannot create file/below" in message
    assert (elsewhere / "file").read_text() == "in the way"


@pytest.mark.parametrize("command", [("show",), ("changes",), ("site",), ("export", "tables"), ("list", "runs")])
def test_reading_before_any_run_says_how_to_start_one(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    assert "start one: kernel-nightly run" in refuse(capsys, *command)
    assert list(elsewhere.iterdir()) == []


@pytest.fixture
def published(elsewhere: Path) -> Path:
    """A store with one run and one comparison that measured nothing."""
    with Store.open(elsewhere / "results") as store:
        store.begin_run(make_run("only-run", status="complete"))
    with ComparisonStore.open(elsewhere / "results") as comparisons:
        comparisons.begin(make_comparison())
        comparisons.publish()
    return elsewhere


@pytest.mark.parametrize("command", ["show", "site"])
def test_an_unknown_run_names_the_newest(command: str, capsys: pytest.CaptureFixture[str], published: Path) -> None:
    assert "no run 'lost'; the newest is only-run" in refuse(capsys, command, "lost")
    assert not (published / "results" / "site").exists()


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (("run", "--device", "cpu"), database_path),
        (("show",), snapshot_path),
        (("list", "runs"), snapshot_path),
        (("export", "tables"), snapshot_path),
    ],
)
def test_a_newer_schema_asks_for_an_upgrade(
    command: tuple[str, ...], path, capsys: pytest.CaptureFixture[str], published: Path
) -> None:
    with duckdb.connect(str(path(Path("results")))) as connection:
        connection.execute("INSERT INTO schema_version VALUES (99)")
    message = refuse(capsys, *command)
    assert "has schema version 99" in message
    assert "upgrade kernel-nightly" in message
    assert {entry.name for entry in published.iterdir()} == {"results"}


def test_a_database_in_use_names_the_process_that_uses_it(capsys: pytest.CaptureFixture[str], published: Path) -> None:
    hold = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(database_path(Path("results")))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == "open\n"
        message = refuse(capsys, "run", "--device", "cpu")
        assert main(["list", "runs"]) == 0  # readers are not in its way
        holder.stdin.close()
    assert f"is held by process {holder.pid}" in message
    assert "only-run" in capsys.readouterr().out


def test_a_database_that_is_none_is_refused_and_left_alone(capsys: pytest.CaptureFixture[str], published: Path) -> None:
    database_path(Path("results")).write_text("notes " * 9999)
    assert "is not a DuckDB database" in refuse(capsys, "run", "--device", "cpu")
    assert database_path(Path("results")).read_text() == "notes " * 9999


@pytest.mark.parametrize("command", [("export", "file"), ("export", "file/below"), ("site", "--out", "file/below")])
def test_a_folder_that_cannot_be_written_is_refused(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], published: Path
) -> None:
    (published / "file").write_text("in the way")
    assert "choose" in refuse(capsys, *command)
    assert (published / "file").read_text() == "in the way"


@pytest.mark.parametrize("command", ["show", "site"])
def test_a_folder_without_parquet_is_refused(command: str, capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    assert "nowhere lacks schema_version.parquet" in refuse(capsys, command, "--from", "nowhere")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(("status", "message"), [("complete", "is complete"), ("killed", "was started with suite")])
def test_a_run_that_cannot_be_resumed_is_refused_before_anything_starts(
    status: str, message: str, capsys: pytest.CaptureFixture[str], published: Path
) -> None:
    with Store.open(published / "results") as store:
        store.begin_run(make_run("begun", status=status))
    assert f"run begun {message}" in refuse(capsys, "run", "--device", "cpu", "--run-id", "begun")
    assert "prefect" not in {path.name for path in (published / "results").iterdir()}


def test_the_package_runs_as_the_command_does(published: Path) -> None:
    command = [sys.executable, "-m", "flows", "list", "runs"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, env=make_environment())
    assert listed.stdout.startswith("only-run")


def test_the_real_command_says_one_line_and_no_traceback(elsewhere: Path) -> None:
    ended = run_command("run", "--device", "cpu", "--model", "nothing", cwd=elsewhere)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"kernel-nightly: unknown model 'nothing'; .*\n", ended.stderr)


@pytest.mark.parametrize("argv", [(), ("measure",), ("list",), ("list", "things"), ("run", "--batch-size", "many")])
def test_what_the_parser_refuses_is_one_line_that_names_the_help_and_exit_code_two(
    argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert re.fullmatch(r"kernel-nightly: .+; see kernel-nightly.* --help\n", capsys.readouterr().err)


@pytest.mark.parametrize("seed", ["1.5", "x", "9223372036854775808", "-9223372036854775809"])
def test_a_seed_that_the_database_cannot_keep_is_refused(seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", f"--seed={seed}"])
    assert f"argument --seed: '{seed}' is no whole number of 64 bits" in capsys.readouterr().err
    assert make_parser().parse_args(["run", "--seed=-9223372036854775808"]).seed == -(2**63)


# Help and lists


def help_of(*command: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", "from flows.cli import script; script()", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=make_environment(),
    ).stdout


def test_help_names_every_command() -> None:
    text = help_of()
    known = {
        "run",
        "retune",
        "branch",
        "bisect",
        "list",
        "show",
        "changes",
        "incidents",
        "acknowledge",
        "baseline",
        "site",
        "export",
    }
    assert set(COMMANDS) == known
    assert all(re.search(rf"^ +{command}\s", text, re.MULTILINE) for command in COMMANDS)
    assert "exit codes:" in text


def test_help_of_run_names_every_option() -> None:
    words = set(re.findall(r"--[\w-]+", help_of("run")))
    assert set(RUN_OPTIONS) <= words


@pytest.mark.parametrize("command", ["list", "show", "changes", "site", "export"])
def test_help_of_the_readers_names_their_folder(command: str) -> None:
    assert "--save-dir" in help_of(command)


def test_every_option_of_run_reaches_the_selection() -> None:
    argv = "run --models a b --tp-sizes 1 2 --enable-expert-parallel --dtype float16 --batch-sizes 1 64 --limit-k 5"
    argv += " --limit-n 6 --kernel k --providers p q --schemes s --trust-remote-code --model-prefix text"
    argv += " --option a=b a=c --timer graph eager"
    selection = read_selection(make_parser().parse_args([*argv.split(), "--allow-download"]))
    assert (selection.models, selection.tp_sizes, selection.batch_sizes) == (("a", "b"), (1, 2), (1, 64))
    assert (selection.limit_k, selection.limit_n, selection.kernels) == ((5,), (6,), ("k",))
    assert (selection.providers, selection.schemes) == (("p", "q"), ("s",))
    assert (selection.dtype, selection.model_prefix) == ("float16", "text")
    assert (selection.options, selection.timers) == (("a=b", "a=c"), ("graph", "eager"))
    assert selection.enable_expert_parallel
    assert selection.trust_remote_code
    assert selection.allow_download


@pytest.mark.parametrize("what", LISTINGS)
def test_everything_can_be_listed(what: str, capsys: pytest.CaptureFixture[str], published: Path) -> None:
    assert main(["list", what]) == 0
    listed = capsys.readouterr().out
    registry = kernels().values()
    expected = {
        "models": set(list_models()),
        "kernels": set(kernels()),
        "providers": {name for kernel in registry for name in kernel.providers},
        "schemes": {name for kernel in registry for name in kernel.schemes},
        "options": {f"{name}: " for kernel in registry for name in kernel.options},
        "timers": {f"{name} (" for name in TIMERS},
        "coverage": set(kernels()),
        "suites": set(SUITES),
        "runs": {"only-run"},
        "branches": {"topic (aaaaaaaaaaaa) against main (bbbbbbbbbbbb)"},
    }
    assert all(name in listed for name in expected[what])


@pytest.mark.parametrize("what", ["runs", "branches"])
def test_what_was_exported_can_be_listed(
    what: str, capsys: pytest.CaptureFixture[str], published: Path, elsewhere: Path
) -> None:
    assert main(["export", "parquet"]) == 0
    assert main(["list", what]) == 0
    *_, listed = capsys.readouterr().out.splitlines()
    (elsewhere / "results").rename(elsewhere / "moved")
    assert main(["list", what, "--from", "parquet"]) == 0
    assert capsys.readouterr().out.splitlines() == [listed]


@pytest.mark.parametrize("what", ["runs", "branches"])
def test_a_list_of_nothing_is_a_line_that_says_so(
    what: str, capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    with Store.open(elsewhere / "results") as store:
        store.publish()
    assert main(["list", what]) == 0
    assert capsys.readouterr().out == f"no {what} in results yet\n"


def test_a_prefect_home_that_cannot_be_written_is_one_line_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    run = subprocess.run(
        [*COMMAND, "run", *ONE_UNIT, "--save-dir", "results"],
        cwd=tmp_path,
        env=make_environment(PREFECT_HOME=str(tmp_path / "file" / "home")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert len(run.stderr.splitlines()) == 1
    assert "set PREFECT_HOME to a writable folder" in run.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("told", [KeyboardInterrupt(), TerminationSignal(signal.SIGTERM)], ids=["Ctrl-C", "SIGTERM"])
def test_what_comes_up_while_an_interrupt_is_told_on_is_of_it(told: BaseException) -> None:
    class Telling(AbstractContextManager[None]):
        def __exit__(self, *_: object) -> None:
            raise ConnectionRefusedError("Prefect's server has ended too")

    def fail(during: BaseException) -> BaseException:
        with pytest.raises(ConnectionRefusedError) as failed, Telling():
            raise during
        return failed.value

    assert is_of_an_interrupt(told)
    assert is_of_an_interrupt(fail(fail(told)))
    assert not is_of_an_interrupt(fail(ValueError("of another cause")))
