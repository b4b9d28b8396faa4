"""What the site costs at scale: seconds and bytes of ten thousand series of a year, drawn, and drawn again.

    python benchmarks/site.py [--series 10000] [--nights 365] [--save-dir DIR]

The nights are made up: noise of half a percent, a step of 6 % in one series of fifty, a new configuration half way.
They are stored as measured ones are, and read and drawn as `kernel-nightly site` does.
"""

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dashboards.site import write_site
from kernels.spec import Case, Device, Layer
from tasks.records import Ceiling, Host, Run
from tasks.storage import rows
from tasks.storage.database import Database
from tasks.storage.store import Store

PROVIDERS = ("torch", "triton", "vllm-triton-shipped", "vllm-cutlass")
TOKENS = (1, 4, 16, 64, 256, 1024, 2048, 4096)
SCHEMES = ("fp8_w8a8", "fp8_w8a8_block128", "fp8_w8a8_channel", "int8_w8a8", "unquantized")
FIRST = datetime(2026, 1, 1, 2, tzinfo=UTC)
HOST = Host("b" * 16, Device("cuda", "NVIDIA H200", (9, 0)), "GPU-0", "580", "13.0", "3.11", "2.11", "3.6", "0.26", 16)

MEASUREMENTS = """
    INSERT INTO measurements BY NAME
    WITH drawn AS (
        SELECT r.run_id, r.number, r.started_at, c.case_key, c.num_tokens, p.provider,
               hash(c.case_key, p.provider) AS id,
               hash(c.case_key, p.provider, r.number) AS noise
        FROM runs r, cases c, (SELECT unnest(?) AS provider) p
    ), timed AS (
        SELECT *, (20 + 8 * sqrt(num_tokens)) * (0.8 + (id % 1000) / 1000)
            * (1 + 0.01 * ((noise % 997) / 997 - 0.5))
            * CASE WHEN id % 50 = 0 AND number > 250 THEN 1.06 ELSE 1 END AS us
        FROM drawn
    )
    SELECT run_id, case_key, provider, 'graph' AS timer, ? AS host_id, 'ok' AS status, '' AS reason,
           0.0123 AS relative_error, 1.0 AS share_close, num_tokens::BIGINT * 75000000 AS flops,
           60000000 AS bytes_moved,
           CASE WHEN number > 180 THEN '{"BLOCK_SIZE_M": 128}' ELSE '{"BLOCK_SIZE_M": 64}' END AS config,
           started_at AS measured_at, '[]' AS trials, 'ab' AS source_sha256, '[]' AS compiled,
           list_transform(range(9), lambda i: us * (1 + 0.004 * ((hash(noise, i) % 991) / 991 - 0.5))) AS samples_us
    FROM timed
"""
VERDICTS = """
    INSERT INTO verdicts BY NAME
    SELECT run_id, case_key, provider, timer, ? AS device_name, list_median(samples_us) AS median_us,
           CASE WHEN hash(case_key, provider) % 500 = 0 THEN 'SLOW' ELSE 'SAME' END AS state,
           'made up' AS evidence, list_median(samples_us) AS baseline_us, 0.0 AS relative_change
    FROM measurements WHERE run_id = ?
"""


def list_cases(number: int) -> list[Case]:
    """Layers of made-up models, each with all batch sizes."""
    sizes = {"num_experts": 8, "top_k": 2, "hidden_size": 4096, "intermediate_size": 7168}
    cases: list[Case] = []
    while len(cases) < number:
        place = len(cases) // len(TOKENS)
        model, scheme = f"Model-{place // len(SCHEMES):02}", SCHEMES[place % len(SCHEMES)]
        layer = Layer("fused_moe", model, 2, 1, scheme, "bfloat16", sizes)
        cases += [Case(layer, tokens) for tokens in TOKENS]
    return cases[:number]


def make_store(save_dir: Path, num_series: int, num_nights: int) -> None:
    """A database as so many nights would leave it, and its snapshot."""
    database = Database.open(save_dir)
    runs = [
        Run(f"night-{n:03}", "nightly", {}, 0, f"{n:040x}", False, FIRST + timedelta(days=n), "complete",
            FIRST + timedelta(days=n, hours=1), {"measure": 3000.0})
        for n in range(num_nights)
    ]  # fmt: skip
    values = {"copy": 4200.0, "bfloat16 gemm": 700.0, "float8_e4m3fn gemm": 1400.0, "int8 gemm": 1300.0}
    ceilings = [Ceiling(run.run_id, HOST.host_id, name, value, "") for run in runs for name, value in values.items()]
    with database.transaction():
        database.insert("hosts", [rows.host_to_row(HOST)])
        database.insert("runs", [{**rows.run_to_row(run), "number": n + 1} for n, run in enumerate(runs)])
        database.insert("cases", map(rows.case_to_row, list_cases(num_series // len(PROVIDERS))))
        database.insert("ceilings", map(rows.ceiling_to_row, ceilings))
        database.execute(MEASUREMENTS, [list(PROVIDERS), HOST.host_id])
        database.execute(VERDICTS, [HOST.device.name, runs[-1].run_id])
    database.publish()
    database.close()


@contextmanager
def clocked(what: str) -> Iterator[None]:
    """Print wall seconds, and CPU seconds of this process and its children."""

    def used() -> float:
        usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    start, cpu = time.perf_counter(), used()
    yield
    print(f"{what:28} {time.perf_counter() - start:7.1f} s wall {used() - cpu:7.1f} s CPU", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--nights", type=int, default=365)
    parser.add_argument("--save-dir", type=Path)
    arguments = parser.parse_args()
    save_dir = arguments.save_dir or Path(tempfile.mkdtemp())
    try:
        with clocked("make up the nights"):
            make_store(save_dir, arguments.series, arguments.nights)
        with clocked("read the night"), Store.read(save_dir) as store:
            night = store.night()
        with clocked("draw the site"):
            page = write_site(night, save_dir / "site")
        with clocked("draw it again, unchanged"):
            write_site(night, save_dir / "site")
        sizes = {path: path.stat().st_size for path in page.parent.rglob("*.*")}
        print(f"{len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB; {page.name} {sizes[page] / 1e3:.0f} kB")
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    finally:
        if not arguments.save_dir:
            shutil.rmtree(save_dir)


if __name__ == "__main__":
    main()
