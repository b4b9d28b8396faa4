"""The table that holds our kernels against vLLM's: what is ours, what is the fastest other, what has no time."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from against_vllm import (
    Row,
    add_marlin,
    collect,
    list_providers,
    main,
    measure,
    print_means,
    print_precision,
    print_table,
)
from records import make_run

from flows.arguments import make_parser, read_selection
from kernels.spec import Case, Device, Layer
from tasks.nights import Night
from tasks.records import Check, Measurement, Status, Trial

CHECKOUT = Path(__file__).parent.parent
EXAMPLE = CHECKOUT / "examples" / "h200" / "against_vllm"
H200 = Device("cuda", "NVIDIA H200", (9, 0))
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def case_of(scheme: str, num_tokens: int = 16) -> Case:
    return Case(Layer("mxfp4_gemm", "grid", 1, 1, scheme, "bfloat16", {"n": 256, "k": 512}), num_tokens)


def measured(case: Case, provider: str, *samples_us: float) -> Measurement:
    """A round for each sample."""
    check = Check(case, provider, Status.OK, "host")
    trials = tuple(Trial(number, 1) for number in range(len(samples_us)))
    return Measurement("run", check, "graph", H200, NOW, samples_us, trials)


def row_of(case: Case, **times: float) -> Row:
    """By provider, its dashes as underscores."""
    names = {name: name.replace("_", "-") for name in times}
    return Row(case, "graph", 8.0, {names[name]: measured(case, names[name], us) for name, us in times.items()})


def test_the_faster_of_ours_is_held_against_the_fastest_other() -> None:
    row = row_of(
        case_of("mxfp4_w4a4_hadamard32"),
        triton=30.0,
        triton_exact_fp8=20.0,
        torch_bf16=50.0,
        vllm_marlin=40.0,
        torch=1.0,
    )
    assert [found and found.check.provider for found in (row.ours, row.best_other)] == [
        "triton-exact-fp8",
        "vllm-marlin",
    ]
    assert row.ratio == 2.0
    assert row_of(row.case, vllm_marlin=40.0).ratio is None


def test_ratios_are_of_rounds_as_show_has_them_and_of_medians_beside_another_case() -> None:
    dynamic = case_of("mxfp4_w4a4_hadamard32")
    row = Row(dynamic, "graph", measured={"triton": measured(dynamic, "triton", 10.0, 20.0, 30.0)})
    row.measured["torch-bf16"] = measured(dynamic, "torch-bf16", 40.0, 30.0, 60.0)
    assert row.ratio == 2.0  # of 4, 1.5 and 2; medians 40 and 20
    row.measured["triton"] = measured(dynamic, "triton", 10.0, 24.0, 30.0)
    assert row.ratio == 2.0  # of 4, 1.25 and 2; medians 40 and 24
    elsewhere = measured(replace(dynamic, options={"activations": "prequantized"}), "vllm-marlin", 36.0, 33.0, 39.0)
    row.measured["vllm-marlin (prequantized)"] = elsewhere
    assert row.ratio == 1.5  # medians 36 and 24; of rounds of the same number 1.375


def test_marlin_on_prequantized_values_stands_beside_the_dynamic_row_of_the_same_layer() -> None:
    dynamic = [Row(case_of("mxfp4_w4a4_hadamard32", tokens), "graph") for tokens in (16, 64)]
    case = replace(dynamic[0].case, options={"activations": "prequantized"})
    prequantized = row_of(case, vllm_marlin=40.0)
    add_marlin([*dynamic, prequantized, Row(case, "cold")])
    marlin = prequantized.measured["vllm-marlin"]
    assert [row.measured for row in dynamic] == [{"vllm-marlin (prequantized)": marlin}, {}]


def test_the_table_says_why_ours_has_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        row_of(case_of("mxfp4_w4a16", 1), triton=16.0, vllm_marlin=20.0),
        row_of(case_of("mxfp4_w4a16", 16), vllm_marlin=21.0),
    ]
    rows[1].why["triton"] = "wrong"
    print_table(rows)
    print_means(rows)
    printed = capsys.readouterr().out
    assert "| 1 | 16.0 | 20.0 | 8.0 | 50% | 1.25 |" in printed
    assert "| 16 | wrong | 21.0 | 8.0 |  |  |" in printed
    assert "| mxfp4_gemm | mxfp4_w4a16 |  | graph | 1 | 1.25 | 1.25 | 1.25 |" in printed


def test_plain_torch_does_not_compete() -> None:
    names = list_providers()
    assert "torch" not in names
    assert {"triton", "triton-exact-fp8", "torch-bf16", "vllm-marlin"} <= set(names)


def test_a_kernel_that_only_moves_bytes_has_rows_too() -> None:
    sizes = {"num_experts": 8, "intermediate_size": 256}
    case = Case(Layer("silu_mul_fp8", "grid", 1, 1, "fp8_group128", "bfloat16", sizes), 64)
    (row,) = collect(Night(make_run(), (), (), (measured(case, "triton", 5.0), measured(case, "vllm-cuda", 10.0))))
    assert (row.ratio, row.floor_us) == (2.0, None)


def test_grids_of_other_sizes_have_other_tables_and_tokens_are_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    layer = case_of("mxfp4_w4a16").layer
    rows = [Row(case_of("mxfp4_w4a16", tokens), "graph") for tokens in (64, 1)]
    print_table([*rows, Row(Case(replace(layer, sizes={"n": 512, "k": 512}), 1), "graph")])
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("mxfp4", "| 1 ", "| 64 "))]
    assert [title.partition("  ")[0] for title in titles] == [
        "mxfp4_gemm grid n=256 k=512 mxfp4_w4a16 graph",
        "| 1 |",
        "| 64 |",
        "mxfp4_gemm grid n=512 k=512 mxfp4_w4a16 graph",
        "| 1 |",
    ]


def test_the_run_is_the_commands_and_its_bad_end_is_the_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr("against_vllm.cli.begin_process", lambda: asked.append([]))
    monkeypatch.setattr("against_vllm.cli.main", lambda words: asked.append(words) or len(asked))
    with pytest.raises(SystemExit) as ended:
        measure(tmp_path)
    assert (asked[0], ended.value.code) == ([], 2)
    arguments = make_parser().parse_args(asked[1])
    assert (arguments.command, arguments.suite, arguments.save_dir) == ("run", "against_vllm", tmp_path)
    assert read_selection(arguments).providers == tuple(list_providers())
    monkeypatch.setattr("against_vllm.cli.main", lambda _: 0)
    measure(tmp_path)


def test_medians_say_how_well_they_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    case = case_of("mxfp4_w4a16")
    ours = measured(case, "triton", 9.98, 9.98, 10.0, 10.0, 10.02, 10.02)
    other = measured(case, "vllm-marlin", 9.9, 10.0, 10.0, 10.0, 10.0, 10.1)
    alike = {"triton": ours, "vllm-marlin": other, "vllm-marlin (prequantized)": other}  # the last counts elsewhere
    print_precision([Row(case, "graph", measured=dict(alike)) for _ in range(10)])
    said = "20 medians; half of their 95 % intervals are within +- 0.6%, 95 of 100 within 1.0%, all within 1.0%."
    assert capsys.readouterr().out.strip() == said


def test_a_run_of_another_suite_is_told_to_be_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["against_vllm.py", "--from", str(EXAMPLE.parent)])
    main()
    printed = capsys.readouterr()
    assert printed.out.startswith("Run 20261121T171307Z of 2026-11-21, suite nightly, commit ")
    assert printed.err.count("\n") == 1
    assert "is of the suite nightly" in printed.err


def test_the_committed_table_is_that_of_the_committed_samples_and_the_readme_quotes_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["against_vllm.py", "--from", str(EXAMPLE)])
    main()
    printed = capsys.readouterr().out
    assert printed == (EXAMPLE / "table.md").read_text()
    section = (CHECKOUT / "README.md").read_text().partition("\n## On an H200\n")[2].partition("\nNot in that run")[0]
    quoted = [line for line in section.splitlines() if line.startswith("| `")]
    assert len(quoted) > 10
    assert not [line for line in quoted if line not in printed.splitlines()]


def test_who_reads_the_first_lines_only_sees_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr("sys.argv", ["against_vllm.py", "--from", str(EXAMPLE)])
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        main()
        stdout.write("and nothing is left for the end to fail of")
