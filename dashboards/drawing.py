"""Pages drawn by all cores: matplotlib holds the interpreter, so threads would take turns."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from dashboards.folder import Files, Page

WORTH_PROCESSES = 400
"""Pages from which on starting processes takes less time than they save."""
BATCHES_PER_CORE = 8
"""Few, since what pages share is sent with each; enough that all cores end together."""


def draw_pages(pages: Sequence[Page], num_cores: int | None = None) -> Iterator[tuple[Page, Files]]:
    """Each page with its files."""
    cores = num_cores or os.cpu_count() or 1
    if len(pages) < WORTH_PROCESSES or cores == 1:
        yield from ((page, page.draw()) for page in pages)
        return
    # spawned, since a fork would copy the threads' locks of Prefect and Ray, and nobody would ever release them
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        batches = [pages[first :: cores * BATCHES_PER_CORE] for first in range(cores * BATCHES_PER_CORE)]
        for batch, files in zip(batches, pool.map(draw_batch, batches), strict=True):
            yield from zip(batch, files, strict=True)


def draw_batch(pages: Sequence[Page]) -> list[Files]:
    """What one process does."""
    return [page.draw() for page in pages]
