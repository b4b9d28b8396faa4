"""What changed between two nights: found, grouped so that a person reads it, and told with how the times moved."""

import re
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import duckdb
import pytest
from records import GPU, make_case, make_host, make_measurement, make_receipt, make_run
from rich.console import Console

from flows.changes import print_changes
from flows.cli import main
from kernels.spec import CompiledKernel, Device
from tasks.judgement.changes import Change, TimeRatios, find_changes
from tasks.nights import Night
from tasks.records import Host, Measurement, Run, Status, UnitResult, WeightsReceipt
from tasks.storage.database import snapshot_path
from tasks.storage.store import Store

ROOT = Path(__file__).resolve().parent.parent
OPERATIONS = ROOT / "docs" / "operations.md"
TOKENS = (1, 16, 64)
SOURCES = ("1a2b3c4d" * 8, "4d5e6f7a" * 8)
CODES = ("12ab12ab" * 8, "34cd34cd" * 8)
B200 = Device("cuda", "NVIDIA B200", (10, 0))


def make_kernel(name: str = "gemm_kernel", sha256: str = CODES[0], **figures: int) -> CompiledKernel:
    made = {"num_warps": 4, "registers": 40, "spill_bytes": 0, "shared_bytes": 1024, **figures}
    return CompiledKernel(name, "sm_90", sha256=sha256, **made)


def make_series(
    run_id: str = "older", times_us: Sequence[float] = (10.0, 20.0, 30.0), provider: str = "triton", **check: object
) -> list[Measurement]:
    """One measurement per number of tokens, of one source and one compiled kernel unless told otherwise."""
    fields = {"source_sha256": SOURCES[0], "compiled": (make_kernel(),), "relative_error": 0.01, **check}
    cases = map(make_case, TOKENS)
    made = zip(cases, times_us, strict=True)
    return [make_measurement(run_id, case, provider, samples_us=[time] * 3, **fields) for case, time in made]


def make_night(
    run_id: str = "older",
    measurements: Sequence[Measurement] | None = None,
    hosts: Sequence[Host] = (make_host(),),
    receipts: Sequence[WeightsReceipt] = (),
    **run: object,
) -> Night:
    measurements = make_series(run_id) if measurements is None else measurements
    host_ids = [host.host_id for host in hosts]
    measurements = [
        m if m.check.host_id in host_ids else replace(m, check=replace(m.check, host_id=host_ids[0]))
        for m in measurements
    ]
    made = make_run(run_id, run_id == "newer", status="complete", **run)
    return Night(made, tuple(hosts), tuple(receipts), tuple(measurements), (), {})


def changes_of(**check: object) -> list[Change]:
    """What differs if the newer run's checks have these fields; its times are 10 % longer, 20 % shorter and equal."""
    return find_changes(make_night(), make_night("newer", make_series("newer", (11.0, 16.0, 30.0), **check)))


MOVED = TimeRatios(3, 1.0, 0.8, 1.1)
"""Of `changes_of`."""


def print_nights(older: Night, newer: Night) -> list[str]:
    stream = StringIO()
    print_changes(Console(file=stream, width=80), older, newer)
    return stream.getvalue().splitlines()


def lines_between(older: Night, newer: Night) -> list[str]:
    """What is printed between the two runs' lines and the summary of all times."""
    lines = print_nights(older, newer)
    return lines[2 : next(n for n, line in enumerate(lines) if line.startswith("all series: "))]


# Finding


def test_two_nights_of_the_same_have_no_changes() -> None:
    assert changes_of() == []


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({"git_commit": "f" * 40}, ("commit", make_run().git_commit, "f" * 40)),
        ({"git_dirty": False}, ("uncommitted edits", "yes", "no")),
        ({"seed": 8}, ("seed", "7", "8")),
        ({"suite": "full"}, ("suite", "nightly", "full")),
        ({"arguments": {"models": ["Mixtral-8x7B"], "tp_sizes": [4]}}, ("argument tp_sizes", "[2]", "[4]")),
        ({"arguments": {"tp_sizes": [2]}}, ("argument models", '["Mixtral-8x7B"]', "")),
    ],
)
def test_what_differs_of_the_run_concerns_every_series(run: dict[str, object], expected: tuple[str, str, str]) -> None:
    newer = make_night("newer", make_series("newer", (11.0, 16.0, 30.0)), **run)
    assert find_changes(make_night(), newer) == [Change("run", *expected, 3, MOVED)]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ({"device_uuid": "GPU-9"}, ("another card", "GPU-4f2c", "GPU-9")),
        ({"driver": "590.1"}, ("driver", "580.159.04", "590.1")),
        ({"cuda": "13.1"}, ("CUDA", "13.0", "13.1")),
        ({"device": replace(GPU, capability=(9, 1))}, ("capability", "9.0", "9.1")),
        ({"torch": "2.13.0"}, ("torch", "2.11.0", "2.13.0")),
        ({"triton": "3.7.1"}, ("triton", "3.6.0", "3.7.1")),
        ({"vllm": ""}, ("vLLM", "0.26.0", "")),
        ({"python": "3.12.1"}, ("python", "3.11.2", "3.12.1")),
        ({"num_cpus": 32}, ("CPUs", "16", "32")),
    ],
)
def test_what_differs_of_a_host_is_told_of_its_device(host: dict[str, object], expected: tuple[str, str, str]) -> None:
    newer = make_night("newer", hosts=[replace(make_host(), host_id="other", **host)])
    assert find_changes(make_night(), newer) == [Change(GPU.name, *expected, 3, TimeRatios(3, 1.0, 1.0, 1.0))]


def test_devices_are_compared_with_their_like_and_concern_their_own_series() -> None:
    on_b200 = [
        replace(m, device=B200, check=replace(m.check, host_id="b200")) for m in make_series(times_us=(1.0, 2.0, 3.0))
    ]
    hosts = [make_host(), make_host(B200, "b200")]
    older = make_night(measurements=[*make_series(), *on_b200], hosts=hosts)
    newer = replace(older, hosts=(hosts[0], replace(hosts[1], triton="3.7.1")))
    assert [(c.subject, c.what, c.num_series) for c in find_changes(older, newer)] == [(B200.name, "triton", 3)]
    alone = replace(older, hosts=(hosts[0],), measurements=tuple(make_series()))
    [devices] = find_changes(alone, older)
    assert (devices.subject, devices.what, devices.after) == ("run", "devices", "NVIDIA B200, NVIDIA H200")


def spread_over(run_id: str, times_us: Sequence[float], host_ids: Sequence[str]) -> Night:
    """A night on cards of one model, each series on the card that is named."""
    hosts = [replace(make_host(), host_id=name, device_uuid=f"GPU-{name}") for name in sorted(set(host_ids))]
    made = zip(make_series(run_id, times_us), host_ids, strict=True)
    return make_night(run_id, [replace(m, check=replace(m.check, host_id=name)) for m, name in made], hosts)


def test_series_that_ran_on_another_card_of_the_same_hosts_are_counted() -> None:
    older = spread_over("older", (10.0, 20.0, 30.0), "abc")
    newer = spread_over("newer", (11.0, 20.0, 36.0), "bba")
    assert {host.device_uuid for host in older.hosts} > {host.device_uuid for host in newer.hosts}
    assert find_changes(older, newer) == [Change(GPU.name, "another card", "", "", 2, TimeRatios(2, 1.15, 1.1, 1.2))]
    assert lines_between(older, newer) == ["NVIDIA H200: another card (2 series; times +15.0% (+10.0% to +20.0%))"]
    same = spread_over("newer", (10.0, 20.0, 30.0), "abc")
    assert find_changes(older, same) == []


def test_what_cannot_run_is_on_no_card() -> None:
    unsupported = [make_measurement("older", make_case(tokens), status=Status.UNSUPPORTED) for tokens in TOKENS]
    other = replace(make_host(), host_id="other", device_uuid="GPU-9")
    assert find_changes(make_night(measurements=unsupported), make_night("newer", unsupported, [other])) == []


def test_other_weights_are_one_change_per_kernel_and_device() -> None:
    layer = make_case().layer
    older = make_night(receipts=[make_receipt(layer)])
    newer = make_night("newer", receipts=[replace(make_receipt(layer), sha256="cd" * 32)])
    assert find_changes(older, newer) == [
        Change("fused_moe", "weights", "ab" * 32, "cd" * 32, 3, TimeRatios(3, 1.0, 1.0, 1.0))
    ]
    elsewhere = replace(newer, receipts=(replace(newer.receipts[0], host_id="of another device"),))
    assert find_changes(older, elsewhere) == []


def test_other_weights_of_many_layers_are_counted() -> None:
    models = ("Mixtral-8x7B", "Mixtral-8x22B")
    measured = [make_measurement(case=make_case(16, model)) for model in models]
    receipts = [
        [replace(make_receipt(m.check.case.layer), sha256=f"{m.check.case.layer.model} {side}") for m in measured]
        for side in (1, 2)
    ]
    older, newer = (make_night(measurements=measured, receipts=side) for side in receipts)
    [change] = find_changes(older, newer)
    assert (change.what, change.before, change.after, change.num_series) == ("weights", "2 digests", "2 digests", 2)


def test_a_new_source_of_a_kernel_is_told_of_each_of_its_providers() -> None:
    measured = [
        make_series(provider=provider, source_sha256=source) for source in SOURCES for provider in ("torch", "triton")
    ]
    older, newer = (make_night(measurements=[*measured[i], *measured[i + 1]]) for i in (0, 2))
    expected = [
        Change(f"fused_moe {provider}", "source", *SOURCES, 3, TimeRatios(3, 1.0, 1.0, 1.0))
        for provider in ("torch", "triton")
    ]
    assert find_changes(older, newer) == expected


def test_each_entry_of_a_configuration_is_compared_also_inside_another() -> None:
    configs = ({"gate_up": {"BLOCK_SIZE_M": 64, "num_warps": 4}}, {"gate_up": {"BLOCK_SIZE_M": 128, "num_warps": 4}})
    older, newer = (make_night(measurements=make_series(config=config)) for config in configs)
    [change] = find_changes(older, newer)
    assert change.subject == "fused_moe triton"
    assert (change.what, change.before, change.after) == ("config gate_up.BLOCK_SIZE_M", "64", "128")


def test_a_series_that_fails_now_has_another_status_and_nothing_else() -> None:
    failed = [make_measurement("newer", make_case(tokens), status=Status.CRASHED) for tokens in TOKENS]
    changes = find_changes(make_night(measurements=make_series(config={"num_warps": 4})), make_night("newer", failed))
    assert changes == [Change("fused_moe triton", "status", "ok", "crashed", 3, None)]


def test_what_an_earlier_version_did_not_note_is_no_difference() -> None:
    before = make_night(measurements=make_series(source_sha256="", compiled=()))
    assert find_changes(before, make_night("newer")) == []
    assert find_changes(make_night("newer"), before) == []


def test_figures_and_machine_code_of_a_compiled_kernel_are_told_with_the_series_that_launch_it() -> None:
    kernel = make_kernel(sha256=CODES[1], registers=48, spill_bytes=16, shared_bytes=2048, num_warps=8)
    assert changes_of(compiled=(kernel,)) == [
        Change("gemm_kernel", "warps", "4", "8", 3, MOVED),
        Change("gemm_kernel", "registers", "40", "48", 3, MOVED),
        Change("gemm_kernel", "bytes spilled", "0", "16", 3, MOVED),
        Change("gemm_kernel", "bytes of shared memory", "1024", "2048", 3, MOVED),
        Change("gemm_kernel", "machine code", *CODES, 3, MOVED),
    ]


def test_other_machine_code_of_every_series_is_one_change() -> None:
    older, newer = (
        make_night(
            measurements=[
                replace(m, check=replace(m.check, compiled=(make_kernel(sha256=f"{side} {m.check.case.num_tokens}"),)))
                for m in make_series()
            ]
        )
        for side in "ab"
    )
    [change] = find_changes(older, newer)
    assert (change.what, change.before, change.after, change.num_series) == (
        "machine code",
        "3 digests",
        "3 digests",
        3,
    )


def test_kernels_that_came_and_went_have_no_other_side() -> None:
    changes = changes_of(compiled=(make_kernel("sum_kernel", CODES[1]),))
    assert [(c.subject, c.what, c.before, c.after) for c in changes] == [
        ("gemm_kernel", "machine code", CODES[0], ""),
        ("sum_kernel", "machine code", "", CODES[1]),
    ]


def test_kernels_of_one_name_are_matched_by_their_code_and_then_by_their_order() -> None:
    first, second, third = (make_kernel(sha256=name, registers=count) for name, count in (("a", 1), ("b", 2), ("c", 3)))
    older = make_night(measurements=make_series(compiled=(first, second)))
    assert find_changes(older, make_night(measurements=make_series(compiled=(second, first)))) == []
    changes = find_changes(older, make_night(measurements=make_series(compiled=(third, second))))
    assert [(c.what, c.before, c.after) for c in changes] == [("registers", "1", "3"), ("machine code", "a", "c")]


def test_what_many_series_share_comes_before_what_few_do() -> None:
    newer = [
        *make_series("newer", source_sha256=SOURCES[1])[:1],
        *make_series("newer", provider="torch", source_sha256=SOURCES[1]),
    ]
    older = make_night(measurements=[*make_series()[:1], *make_series(provider="torch")])
    found = find_changes(older, make_night("newer", newer))
    assert [(change.subject, change.num_series) for change in found] == [
        ("fused_moe torch", 3),
        ("fused_moe triton", 1),
    ]


# Printing


def test_a_line_holds_everything_that_changed_for_the_same_series() -> None:
    kernel = make_kernel(sha256=CODES[1], registers=48, spill_bytes=16)
    newer = make_night("newer", make_series("newer", (11.0, 16.0, 30.0), compiled=(kernel,), source_sha256=SOURCES[1]))
    assert lines_between(make_night(), newer) == [
        "fused_moe triton: source 1a2b3c4d -> 4d5e6f7a (3 series; times +0.0% (-20.0% to +10.0%))",
        "gemm_kernel: 40 -> 48 registers, 0 -> 16 bytes spilled, machine code 12ab12ab -> 34cd34cd "
        "(3 series; times +0.0% (-20.0% to +10.0%))",
    ]


def test_different_changes_of_one_subject_are_lines_of_their_own() -> None:
    configs = [{"num_warps": 4}, {"num_warps": 8}]
    older = make_night(measurements=[*make_series(config=configs[0])[:2]])
    first, second = make_series("newer", config=configs[1])[:2]
    other = replace(second, check=replace(second.check, config={"num_warps": 2}))
    assert lines_between(older, make_night("newer", [first, other])) == [
        "fused_moe triton: config num_warps 4 -> 8 (1 series; times +0.0%)",
        "fused_moe triton: config num_warps 4 -> 2 (1 series; times +0.0%)",
    ]


def test_series_that_were_not_timed_in_both_runs_are_told() -> None:
    later = [*make_series("newer")[:1], make_measurement("newer", make_case(16), status=Status.HUNG)]
    newer = make_night("newer", later, seed=8)
    assert lines_between(make_night(measurements=make_series()[:2]), newer) == [
        "run: seed 7 -> 8 (2 series, 1 timed in both; times +0.0%)",
        "fused_moe triton: status ok -> hung (1 series)",
    ]


def test_both_runs_are_named_and_all_times_are_summed_up() -> None:
    lines = print_nights(make_night(), make_night("newer", make_series("newer", (11.0, 16.0, 30.0)), git_dirty=False))
    assert lines == [
        "older: run older, suite nightly, 252e9d4c+, complete",
        "newer: run newer, suite nightly, 252e9d4c, complete",
        "run: uncommitted edits yes -> no (3 series; times +0.0% (-20.0% to +10.0%))",
        "all series: times +0.0% (-20.0% to +10.0%)",
        "  -20.0% fused_moe Mixtral-8x7B TP2 fp8_w8a8 M=16 silu uniform, triton, graph: 20 -> 16 us",
        "  +10.0% fused_moe Mixtral-8x7B TP2 fp8_w8a8 M=1 silu uniform, triton, graph: 10 -> 11 us",
    ]


def test_the_five_series_that_moved_most_are_told_and_nothing_moved_is_never_minus_zero() -> None:
    cases = [make_case(tokens) for tokens in (1, 2, 4, 8, 16, 32, 64)]
    nights = []
    for run_id, times in (("older", [10.0] * 7), ("newer", [10.1, 10.2, 8.0, 10.3, 12.0, 10.4, 9.9999])):
        nights.append(
            make_night(
                run_id, [make_measurement(run_id, c, samples_us=[t] * 3) for c, t in zip(cases, times, strict=True)]
            )
        )
    lines = print_nights(*nights)
    moved = lines[lines.index("all series: times +2.0% (-20.0% to +20.0%)") + 1 :]
    assert [line.split()[0] for line in moved] == ["-20.0%", "+20.0%", "+4.0%", "+3.0%", "+2.0%"]
    last = [replace(night, measurements=night.measurements[-1:]) for night in nights]
    assert print_nights(*last)[-1] == "all series: times +0.0%"


def test_a_run_that_did_not_note_its_sources_is_named() -> None:
    before = make_night(measurements=make_series(source_sha256="", compiled=()))
    assert lines_between(before, make_night("newer")) == [
        "nothing that both runs noted differs",
        "not compared: run older did not note sources and machine code",
    ]


def test_without_a_series_in_common_no_times_are_told() -> None:
    lines = print_nights(make_night(), make_night("newer", make_series("newer", provider="torch")))
    assert lines[2:] == [
        "nothing that both runs noted differs",
        "3 series only in the older run",
        "3 series only in the newer run",
        "all series: none was timed in both runs",
    ]


# The command


def commit(store: Store, run: Run, measurements: Sequence[Measurement]) -> None:
    store.begin_run(run)
    store.commit_unit(run.run_id, UnitResult(make_host(), None, tuple(measurements)))


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two nights of the same suite with another run between them and one going on; the newer is of other code."""
    monkeypatch.chdir(tmp_path)
    kernel = make_kernel(sha256=CODES[1], registers=48)
    with Store.open(tmp_path / "results") as store:
        commit(store, make_run("older", 0, status="complete"), make_series("older"))
        commit(store, make_run("smoke", 1, status="complete", suite="smoke"), make_series("smoke"))
        newer = make_series("newer", (11.0, 16.0, 30.0), compiled=(kernel,), source_sha256=SOURCES[1])
        commit(store, make_run("newer", 2, status="complete", git_commit="f" * 40), newer)
        store.begin_run(make_run("going-on", 3))
        store.publish()
    return tmp_path


def told_by(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["changes", *argv]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


@pytest.mark.usefixtures("nights")
def test_the_last_two_runs_of_a_suite_that_have_ended_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    told = told_by(capsys)
    assert told == told_by(capsys, "older", "newer") == told_by(capsys, "newer")
    assert "older: run older, suite nightly" in told
    assert "newer: run newer, suite nightly" in told
    assert "run: commit 252e9d4c -> ffffffff (3 series; " in told
    assert "gemm_kernel: 40 -> 48 registers, machine code 12ab12ab -> 34cd34cd (3 series; " in told


@pytest.mark.usefixtures("nights")
def test_any_two_runs_can_be_compared_in_either_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert "suite nightly -> smoke" in told_by(capsys, "newer", "smoke")


@pytest.mark.usefixtures("nights")
def test_exported_nights_are_compared_as_stored_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "tables"]) == 0
    capsys.readouterr()
    assert told_by(capsys, "--from", "tables") == told_by(capsys)


def test_the_published_nights_are_compared_as_the_operations_page_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    one, two = re.findall(r"^kernel-nightly changes (.*examples.*)$", OPERATIONS.read_text(), re.MULTILINE)
    told = told_by(capsys, *two.split())
    assert told == told_by(capsys, *one.split())
    assert "NVIDIA H200: another card (926 series; times " in told
    assert len(told.partition("all series: times ")[2].splitlines()) == 6
    assert "-0.0%" not in told


@pytest.mark.usefixtures("nights")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("lost",), "no run 'lost'; the newest is going-on"),
        (("older", "lost"), "no run 'lost'"),
        (("newer", "newer"), "newer is the older and the newer run: name another"),
        (("older",), "no run of suite nightly ended before older; name two: "),
        (("older", "smoke", "newer"), "two runs are compared, not 3"),
    ],
)
def test_runs_that_cannot_be_compared_are_one_line(
    argv: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["changes", *argv]) == 2
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)
    assert message in printed.err


def test_a_suites_only_run_has_nothing_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.open(tmp_path / "results") as store:
        commit(store, make_run("smoke", 0, status="complete", suite="smoke"), make_series("smoke"))
        commit(store, make_run("only", 1, status="complete"), make_series("only"))
        store.publish()
    assert main(["changes"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("kernel-nightly: no run of suite nightly ended before only; name two: ")
    assert len(printed.err.splitlines()) == 1


def test_the_queries_of_the_operations_page_find_the_night_and_what_changed(nights: Path) -> None:
    environments, machine_code = re.findall(r"^```sql\n(.*?)^```$", OPERATIONS.read_text(), re.MULTILINE | re.DOTALL)
    with duckdb.connect(str(snapshot_path(nights / "results")), read_only=True) as connection:
        found = connection.sql(environments)
        rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
        assert [row["run_id"] for row in rows] == ["newer", "smoke", "older"]
        assert (rows[0]["git_commit"], rows[0]["triton"], rows[0]["series"]) == ("f" * 40, "3.6.0", 3)
        found = connection.sql(machine_code)
        rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    assert [row["run_id"] for row in rows] == ["newer"] * 3
    assert sorted(row["ratio"] for row in rows) == pytest.approx([0.8, 1.0, 1.1])
    assert rows[0]["compiled"] == [{"name": "gemm_kernel", "registers": 48, "spill_bytes": 0, "sha256": CODES[1]}]
