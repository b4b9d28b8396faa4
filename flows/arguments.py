"""The command line of kernel-nightly: its options, spelled as vLLM's benchmark scripts spell theirs."""

import argparse
from pathlib import Path
from typing import NoReturn

from flows.choice import DEVICES
from tasks.channels.files import AlertFiles
from tasks.errors import UsageError
from tasks.planning.cases import Selection
from tasks.planning.shapes import DTYPES
from tasks.records import PRECISION

DESCRIPTION = """\
Continuous benchmarking of quantized GPU kernels: check every provider of every kernel against a reference,
time it, compare it with earlier nights, and draw the history.
"""
EXAMPLES = """\
examples:
  kernel-nightly run                                          the nightly suite on a GPU, the smoke suite without one
  kernel-nightly run --model Mixtral-8x7B --tp-size 2 --batch-size 1 64 --provider triton vllm-triton-default
  kernel-nightly run --suite benchmark_moe --model Qwen3-30B-A3B --timer graph eager
  kernel-nightly run --run-id 20261120T220000Z                resume a run that was killed
  kernel-nightly retune --model Mixtral-8x7B --tp-size 2      new configurations for vLLM's fused MoE, as it reads them
  kernel-nightly list providers
  kernel-nightly show                                         the newest run as a table
  kernel-nightly show --table throughput                      TFLOP/s by batch size and provider
  kernel-nightly changes                                      what differs between the last two runs of a suite
  kernel-nightly incidents                                    what stands, since when, and what changed with it
  kernel-nightly acknowledge slow-3f9a1c --reason "exact scales cost that much"
  kernel-nightly branch my-branch --base main --only nvfp4_moe
  kernel-nightly bisect slow-3f9a1c --good v1.2 --bad main
  kernel-nightly site --open

exit codes: 0 nothing to report, 1 an incident is open or a branch is worse (SLOW, WRONG, FAILED or MISSING) or the
            commit that did it was found, 2 bad input, 3 the run did not finish or could not decide
"""
LISTINGS = ("models", "kernels", "providers", "schemes", "options", "timers", "coverage", "suites", "runs", "branches")
TABLES = ("times", "throughput", "bandwidth", "speedup", "memory", "costs", "all")
"""What `show --table` prints; flows/tables.py."""
SAVE_DIR = Path("results")
BUDGET_SECONDS = 180.0
"""Of a layer that is compared: after so long it gets no more sittings."""
SEARCH_SECONDS = 300.0
"""Of searching a layer: all 18 batch sizes of a shape on one H200 are to be done in that time."""

SEED_BITS = 64
"""Of a seed, its sign included, as the database keeps it."""

Group = argparse._ArgumentGroup


class Parser(argparse.ArgumentParser):
    """A parser of a command, or of all; it refuses bad input in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(UsageError.exit_code, f"kernel-nightly: {message}; see {self.prog} --help\n")


def make_parser() -> Parser:
    """The parser of every command."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("kernel-nightly", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="measure a suite, judge it and draw the site", formatter_class=raw))
    _add_retune(commands.add_parser("retune", help="search better launch configurations", formatter_class=raw))
    _add_branch(commands.add_parser("branch", help="measure a branch against its base, for a pull request"))
    _add_bisect(commands.add_parser("bisect", help="find the commit that changed a series"))
    listing = commands.add_parser("list", help=f"list {', '.join(LISTINGS)}")
    listing.add_argument("what", choices=LISTINGS)
    _add_source(listing)
    show = commands.add_parser("show", help="print a run: every case, provider, time and verdict")
    show.add_argument("run_id", nargs="?", default="", help="default: the newest run")
    show.add_argument("--table", choices=TABLES, help="batch sizes x providers, as vLLM's scripts print them")
    _add_source(show)
    changes = commands.add_parser("changes", help="print what differs between two runs, and how times moved with it")
    runs = "the newer run, or the older and the newer; default: the newest that ended, and that of its suite before"
    changes.add_argument("run_ids", nargs="*", metavar="RUN", help=runs)
    _add_source(changes)
    incidents = commands.add_parser("incidents", help="print what is slow, wrong, failed or missing, and since when")
    incidents.add_argument("--all", action="store_true", help="also those that are acknowledged or over")
    _add_source(incidents)
    acknowledge = commands.add_parser("acknowledge", help="say that incidents are expected: they are told no more")
    acknowledge.add_argument("incident_ids", nargs="+", metavar="INCIDENT", help="as kernel-nightly incidents names it")
    _add_reason(acknowledge)
    baseline = commands.add_parser("baseline", help="compare series with no night before a run")
    baseline.add_argument("run_id", nargs="?", default="", metavar="RUN", help="default: the newest run")
    baseline.add_argument("--kernel", default="", help="only its series")
    baseline.add_argument("--provider", default="", help="only its series")
    baseline.add_argument("--case", default="", metavar="TEXT", help="only cases whose key holds this")
    _add_reason(baseline)
    site = commands.add_parser("site", help="draw the site of a run")
    site.add_argument("run_id", nargs="?", default="", help="default: the newest run")
    site.add_argument("--out", type=Path, help="folder to write (default: SAVE_DIR/site)")
    site.add_argument("--open", action="store_true", help="open it in a browser")
    _add_source(site)
    export = commands.add_parser("export", help="write every table as Parquet")
    export.add_argument("folder", type=Path)
    _add_save_dir(export)
    return parser


def _add_reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", required=True, help="why; stored and shown")
    _add_save_dir(parser)


def _add_save_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--save-dir", type=Path, default=SAVE_DIR, help="folder of the database (default: results)")


def _add_source(parser: argparse.ArgumentParser) -> None:
    _add_save_dir(parser)
    parser.add_argument("--from", dest="parquet", type=Path, metavar="DIR", help="read Parquet tables from DIR instead")


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_what(parser)
    how = _add_how(parser)
    how.add_argument(
        "--run-id", default="", help="name of the run; one that was stopped is resumed: only what it lacks is measured"
    )
    how.add_argument(
        "--tuning-seconds",
        type=float,
        metavar="SECONDS",
        help="of retuning stale configurations (default: the suite's, 600 for nightly; 0 for a part of a suite)",
    )
    told = parser.add_argument_group("who is told, besides the console (docs/alerts.md has webhooks, Slack and mail)")
    for name, what_it_does in (
        ("json", "append every alert, one JSON object a line"),
        ("junit", "write the night as JUnit XML"),
        ("markdown", "write the night as Markdown"),
    ):
        told.add_argument(f"--alert-{name}", type=Path, metavar="FILE", help=what_it_does)


def _add_branch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "head", nargs="?", default="HEAD", metavar="BRANCH", help="a branch, tag or commit (default: HEAD)"
    )
    parser.add_argument("--base", default="main", metavar="REF", help="what it is measured against (default: main)")
    parser.add_argument("--worktree", action="store_true", help="measure the checkout's uncommitted work instead")
    _add_what(parser)
    _add_doubt(_add_how(parser))


def _add_bisect(parser: argparse.ArgumentParser) -> None:
    series = "an incident's id, or words that only one series has: fused_moe num_tokens=16 triton graph"
    parser.add_argument("series", nargs="+", metavar="SERIES", help=series)
    parser.add_argument("--good", required=True, metavar="REF", help="a branch, tag or commit from before the change")
    parser.add_argument("--bad", default="HEAD", metavar="REF", help="one that has it (default: HEAD)")
    _add_doubt(_add_where(parser.add_argument_group("how to run")))


def _add_doubt(how: Group) -> None:
    how.add_argument(
        "--least-change",
        type=float,
        metavar="SHARE",
        help="relative change that is to be told from none (default: 0.01 on a GPU, 0.2 on a CPU)",
    )
    how.add_argument(
        "--budget",
        type=float,
        default=BUDGET_SECONDS,
        metavar="SECONDS",
        help="a layer that is still in doubt after so long gets no more sittings (default: 180)",
    )
    how.add_argument("--markdown", type=Path, metavar="FILE", help="also write the text for a pull request to a file")


def _add_what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to measure (several values after one option: --batch-size 1 16 64)")
    what.add_argument("--suite", default="auto", help="default: nightly on a GPU, smoke without one")
    _add_layers(what)
    what.add_argument(
        "--timer", "--timers", nargs="+", default=[], dest="timers", help="graph, cold, eager (GPU) or wall (CPU)"
    )


def _add_retune(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to tune (without more: fused_moe, fp8_w8a8, vLLM's kernel, 18 batch sizes)")
    _add_layers(what)
    how = parser.add_argument_group("how to tune")
    _add_seed(how)
    _add_where(how)
    how.add_argument(
        "--budget",
        type=float,
        default=SEARCH_SECONDS,
        metavar="SECONDS",
        help="of proposing configurations for each layer; the final comparisons come on top (default: 300)",
    )
    how.add_argument("--markdown", type=Path, metavar="FILE", help="also write the summary to a file")
    parser.set_defaults(timers=[], precision=PRECISION)


def _add_layers(what: Group) -> None:
    """Options that name layers, cases and providers."""
    what.add_argument(
        "--model", "--models", nargs="+", default=[], dest="models", help="vendored name, folder or org/name on the Hub"
    )
    split = "ranks that a layer is split over"
    what.add_argument("--tp-size", "--tp-sizes", "-tp", nargs="+", type=int, default=[], dest="tp_sizes", help=split)
    what.add_argument("--enable-expert-parallel", action="store_true", help="split experts, not their columns, over TP")
    what.add_argument("--dtype", default="auto", help=f"of the activations: {', '.join(DTYPES)}")
    what.add_argument(
        "--batch-size",
        "--batch-sizes",
        nargs="+",
        type=int,
        default=[],
        dest="batch_sizes",
        help="numbers of tokens (M)",
    )
    what.add_argument(
        "--option",
        "--options",
        nargs="+",
        default=[],
        dest="options",
        metavar="NAME=VALUE",
        help="values of a case's options: activation_format=standard activation_format=batched",
    )
    what.add_argument(
        "--limit-k", nargs="+", type=int, default=[], help="keep layers with these hidden sizes or input features (K)"
    )
    what.add_argument(
        "--limit-n", nargs="+", type=int, default=[], help="keep these intermediate sizes or output features a rank (N)"
    )
    what.add_argument("--kernel", "--only", nargs="+", default=[], dest="kernels", help="keep these kernels")
    what.add_argument("--provider", "--providers", nargs="+", default=[], dest="providers", help="keep these providers")
    what.add_argument("--scheme", "--schemes", nargs="+", default=[], dest="schemes", help="keep these schemes")
    what.add_argument("--trust-remote-code", action="store_true", help="let a model's own code read its config")
    what.add_argument("--model-prefix", default="", help="attribute of the config that holds the language model's")
    what.add_argument("--allow-download", action="store_true", help="let --model fetch a config from the Hub")


def _add_how(parser: argparse.ArgumentParser) -> Group:
    how = parser.add_argument_group("how to run")
    _add_seed(how)
    how.add_argument(
        "--precision", type=float, default=PRECISION, help="sample until a median is known to +- this (default: 0.005)"
    )
    return _add_where(how)


def _add_seed(how: Group) -> None:
    how.add_argument("--seed", type=_read_seed, default=0, help="of weights and inputs (default: 0)")


def _read_seed(text: str) -> int:
    most = 2 ** (SEED_BITS - 1)
    try:
        seed = int(text)
    except ValueError:
        seed = most
    if not -most <= seed < most:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of {SEED_BITS} bits")
    return seed


def _add_where(how: Group) -> Group:
    how.add_argument("--device", default="auto", help=f"one of {', '.join(DEVICES)}")
    how.add_argument("--address", default="", help="of a running Ray cluster (default: RAY_ADDRESS, or start one here)")
    how.add_argument("--save-dir", type=Path, default=SAVE_DIR, help="folder for all results (default: results)")
    return how


def read_alert_files(arguments: argparse.Namespace) -> AlertFiles:
    """The files that the `run` command's options name for alerts."""
    return AlertFiles(arguments.alert_json, arguments.alert_junit, arguments.alert_markdown)


def read_selection(arguments: argparse.Namespace) -> Selection:
    """What the options of `run`, `branch` and `retune` narrow or replace."""
    return Selection(
        models=tuple(arguments.models),
        tp_sizes=tuple(arguments.tp_sizes),
        enable_expert_parallel=arguments.enable_expert_parallel,
        dtype=arguments.dtype,
        batch_sizes=tuple(arguments.batch_sizes),
        options=tuple(arguments.options),
        timers=tuple(arguments.timers),
        precision=arguments.precision,
        limit_k=tuple(arguments.limit_k),
        limit_n=tuple(arguments.limit_n),
        kernels=tuple(arguments.kernels),
        providers=tuple(arguments.providers),
        schemes=tuple(arguments.schemes),
        trust_remote_code=arguments.trust_remote_code,
        model_prefix=arguments.model_prefix,
        allow_download=arguments.allow_download,
    )
