"""One Night -> a folder of pages that open from disk: the night, its kernels, comparisons of layers, and every series.

What is drawn by matplotlib is drawn anew only where what it shows has changed; tables are written every time.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path

from dashboards.arrangement import arrange_night
from dashboards.charts import assign_marks
from dashboards.columns import render_csv, write_csv
from dashboards.compare import CompareView, can_compare, name_compare_page, render_compare
from dashboards.drawing import draw_pages
from dashboards.folder import Files, Page, find_unchanged, refuse_foreign, swap_in
from dashboards.heat import find_ratios, map_heat, tell_heat
from dashboards.listing import list_nights, list_series
from dashboards.pages import (
    render_index,
    render_kernel,
    render_references,
    render_rooflines,
    render_series_list,
)
from dashboards.rows import KernelRows
from dashboards.series.render import render_series
from dashboards.series.views import Background, SeriesView, list_views, make_background
from tasks.errors import UsageError
from tasks.judgement.histories import Histories
from tasks.nights import Night

HEAT_COLUMNS = (
    *("device", "kernel", "model", "mean_change", "worst_change"),
    *("worst_case", "worst_provider", "num_series"),
)


def write_site(night: Night, out: Path) -> Path:
    """Write the site of a night into a folder; the old site stays until the new one is complete.

    Args:
        out: a new or empty folder, or one that holds an older site.
    Returns:
        The page to open: out/index.html.
    Raises:
        UsageError: the folder cannot be written, or holds something that is not a site; the message names it.
    """
    folder = out.resolve()
    try:
        refuse_foreign(folder)
        pages = list_pages(night)
        unchanged = find_unchanged(pages, folder)
        drawn = draw_pages([page for page in pages if page.path not in unchanged])
        swap_in(pages, drawn, unchanged, folder)
    except OSError as error:
        raise UsageError(
            f"cannot write the site to {folder}: {error.strerror}; choose a folder that you can write to"
        ) from error
    return out / "index.html"


def list_pages(night: Night) -> list[Page]:
    """Every page of the site; the same night gives the same bytes."""
    kernels, code = arrange_night(night), digest_code()
    background = make_background(night, kernels, code)
    layers = [(kernel, layer) for kernel in kernels for layer in kernel.layers if can_compare(layer)]
    compare_pages = {layer.key: name_compare_page(kernel, layer) for kernel, layer in layers}
    marks = assign_marks([row.provider for row in kernel.rows] for kernel in kernels)
    views = [
        CompareView(
            path=compare_pages[layer.key],
            kernel=replace(kernel, layers=(), trends=Histories()),
            layer=layer,
            marks={row.provider: marks[row.provider] for row in layer.rows},
            pages=background.pages,
        )
        for kernel, layer in layers
    ]
    series = list_views(night, kernels, compare_pages)
    return [
        Page("index.html", "", partial(dict, draw_tables(night, kernels, compare_pages, background))),
        *(Page(view.path, view.find_digest(code), partial(render_compare, view)) for view in views),
        *list_series_pages(series, background),
    ]


def list_series_pages(views: Sequence[SeriesView], background: Background) -> list[Page]:
    """A page for each series."""
    return [Page(view.path, view.find_digest(background), partial(render_series, view, background)) for view in views]


def draw_tables(
    night: Night, kernels: Sequence[KernelRows], compare_pages: dict[str, str], background: Background
) -> Files:
    """What is written anew each time: the pages of the night and of kernels, lists, CSV, style and script."""
    ratios = find_ratios(night)
    maps = map_heat(kernels, ratios)
    texts = {
        "index.html": render_index(night, kernels, maps, background),
        "series.html": render_series_list(night, kernels, background),
        "series.js": list_series(kernels, night.trends, ratios),
        "nights.js": list_nights(night.trends.runs),
        "data-heat.csv": write_csv(HEAT_COLUMNS, tell_heat(maps)),
    }
    for kernel in kernels:
        texts[f"kernel-{kernel.slug}.html"] = render_kernel(night, kernel, compare_pages, background)
        texts[f"data-{kernel.slug}.csv"] = render_csv(night.run.run_id, kernel)
    for name in ("style.css", "script.js"):
        texts[name] = (resources.files("dashboards") / name).read_text(encoding="utf-8")
    files = {name: text.encode() for name, text in texts.items()}
    return files | render_rooflines(night, kernels, background) | render_references(night, background)


def digest_code() -> str:
    """Of everything that draws: a new version of it draws every page anew."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted((*folder.rglob("*.py"), *folder.rglob("*.jinja"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()
