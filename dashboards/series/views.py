"""What the page of one series shows, as plain values that another process can draw."""

import hashlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dashboards.incidents import name_anchor
from dashboards.rows import KernelRows, LayerRows, Row
from dashboards.series.calendar import Calendar, make_calendar
from dashboards.series.chronicle import number_kinds
from dashboards.trials import tell_device
from dashboards.words import tell_change, tell_day
from kernels.spec import Case
from tasks.judgement.histories import Floats, Histories, History, Integers
from tasks.judgement.history import Mark
from tasks.nights import Night
from tasks.records import Run, Series

SIZES_OF_LIMITS = {"--limit-k": ("hidden_size", "k"), "--limit-n": ("intermediate_size", "n")}
"""Options of the command line, and which size of a layer they ask for."""

PERMISSIONS = {"--trust-remote-code": "trust_remote_code", "--allow-download": "allow_download"}
"""Options that a model may need to be read, and the argument of a run that says so."""


@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """What all pages of series share: sent once to each process that draws."""

    histories: Histories
    """Without the columns of any series."""
    calendar: Calendar
    kinds: Integers
    """Of each setting (dashboards/series/chronicle.py)."""
    suite: str
    pages: tuple[tuple[str, str], ...]
    """(file, name) of every page of a kernel."""
    references: frozenset[str]
    """Devices whose reference kernels have a chart."""
    digest: str
    """Of everything here."""


@dataclass(frozen=True, slots=True)
class Sibling:
    """Another provider of the same case."""

    provider: str
    href: str
    """"" for one without a page."""
    told: str
    """Its median, or its status."""


@dataclass(frozen=True, slots=True, eq=False)
class SeriesView:
    """One series."""

    path: str
    """Of its page in the site."""
    kernel: str
    kernel_page: str
    row_anchor: str
    """On the page of its kernel."""
    compare_page: str
    """"" where its layer has none."""
    layer: str
    sizes: str
    case: str
    series: Series
    state: str
    evidence: str
    moved: str
    """The change and its interval, in words; "" if nothing has changed."""
    since: str
    """Date that the verdict holds since, "" for this night alone."""
    incident_id: str
    incident_anchor: str
    status: str
    reason: str
    tonight: str
    """Clocks, power and temperature of tonight's trials."""
    history: History
    floors_us: Floats
    samples_us: tuple[float, ...]
    """Of tonight."""
    marks: tuple[Mark, ...]
    siblings: tuple[Sibling, ...]
    command: str
    """"" where nobody knows its case."""
    commit: str
    """That the command is of; "" where there was none."""
    is_dirty: bool
    """Whether what was measured had uncommitted changes besides."""
    is_told: bool
    """Whether somebody has to look at it: its charts are kept as pictures too."""

    def find_digest(self, background: Background) -> str:
        """Of everything that the page shows."""
        history = self.history
        arrays = (
            *(history.nights, history.median_us, history.p20_us, history.p80_us),
            *(history.relative_error, history.settings, self.floors_us),
        )
        digest = hashlib.sha256(background.digest.encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        plain = [getattr(self, name) for name in self.__slots__ if name not in ("history", "floors_us")]
        digest.update(repr(plain).encode())
        return digest.hexdigest()


def name_page(row: Row) -> str:
    """Where the page of a row's series is in the site."""
    return f"series/{row.anchor.removeprefix('row-')}.html"


def make_background(night: Night, kernels: Sequence[KernelRows], code: str) -> Background:
    """What the pages of a night share.

    Args:
        code: digest of what draws them.
    """
    of_all = night.trends
    shared = Histories(of_all.runs, of_all.hosts, of_all.settings)
    pages = tuple((f"kernel-{kernel.slug}.html", kernel.name) for kernel in kernels)
    references = frozenset(device for device, _ in night.reference_trends)
    told = (code, night.run.suite, pages, shared.runs, shared.hosts, shared.settings, sorted(references))
    digest = hashlib.sha256(repr(told).encode()).hexdigest()
    calendar, kinds = make_calendar(shared.runs), number_kinds(shared)
    return Background(shared, calendar, kinds, night.run.suite, pages, references, digest)


def list_views(night: Night, kernels: Iterable[KernelRows], compare_pages: Mapping[str, str]) -> list[SeriesView]:
    """Every series that was ever timed.

    Args:
        compare_pages: by layer key, the page that compares its providers.
    """
    marks: dict[Series, list[Mark]] = {}
    for mark in night.marks:
        marks.setdefault(mark.series, []).append(mark)
    return [
        _view_row(night, kernel, layer, row, of_case, compare_pages, tuple(marks.get(row.series, ())))
        for kernel in kernels
        for layer in kernel.layers
        for of_case in _group_cases(layer)
        for row in of_case
        if row.series in night.trends.columns
    ]


def _group_cases(layer: LayerRows) -> Iterable[list[Row]]:
    cases: dict[tuple[str, str, str], list[Row]] = {}
    for row in layer.rows:
        cases.setdefault((row.series.case_key, row.series.device_name, row.series.timer), []).append(row)
    return cases.values()


def _view_row(
    night: Night,
    kernel: KernelRows,
    layer: LayerRows,
    row: Row,
    of_case: Sequence[Row],
    compare_pages: Mapping[str, str],
    marks: tuple[Mark, ...],
) -> SeriesView:
    """One row with everything around it."""
    columns = night.trends.columns
    history = columns[row.series]
    check = row.measurement.check if row.measurement else None
    case = check.case if check else night.missing_cases.get(row.series.case_key)
    run = night.run if check else night.trends.runs[history.nights[-1]]
    floors_us = np.full(len(history), np.nan)
    if check and row.floor_us:
        gemm_dtype = kernel.gemm_dtype.get(layer.scheme, "")
        floors_us = night.trends.find_floors_us(history, check.bytes_moved, check.flops, gemm_dtype)
    siblings = tuple(
        Sibling(other.provider, name_page(other).partition("/")[2] if other.series in columns else "", _tell(other))
        for other in of_case
        if other is not row
    )
    return SeriesView(
        path=name_page(row),
        kernel=kernel.name,
        kernel_page=f"kernel-{kernel.slug}.html",
        row_anchor=row.anchor,
        compare_page=compare_pages.get(layer.key, ""),
        layer=f"{layer.label} {layer.scheme}".rstrip(),
        sizes=layer.sizes,
        case=row.case_label,
        series=row.series,
        state=row.state or "",
        evidence=row.verdict.evidence if row.verdict else "",
        moved=_tell_move(row),
        since=tell_day(row.since) if row.since else "",
        incident_id=row.incident_id,
        incident_anchor=name_anchor(row.incident_id) if row.incident_id else "",
        status=row.status,
        reason=check.reason if check else "",
        tonight=tell_device(row.trials) if row.trials else "",
        history=history,
        floors_us=floors_us,
        samples_us=row.measurement.samples_us if row.measurement else (),
        marks=marks,
        siblings=siblings,
        command=tell_command(run, case, row.series, kernel.defaults) if case else "",
        commit=run.git_commit,
        is_dirty=run.git_dirty,
        is_told=row.is_loud,
    )


def _tell(row: Row) -> str:
    """The median of a row, or why there is none."""
    return f"{row.median_us:.4g} us" if row.median_us else row.status.replace("_", " ")


def _tell_move(row: Row) -> str:
    """E.g. "+5.9% (+5.1% to +6.4%)"."""
    verdict = row.verdict
    if verdict is None or verdict.relative_change is None:
        return ""
    known = verdict.low is not None and verdict.high is not None
    interval = f" ({tell_change(verdict.low)} to {tell_change(verdict.high)})" if known else ""
    return f"{tell_change(verdict.relative_change)}{interval}"


def tell_command(run: Run, case: Case, series: Series, defaults: Mapping[str, str]) -> str:
    """The command line that measures a point again, out of the commit that measured it.

    Args:
        defaults: of the kernel's options: the suite may have other values of them too.
    """
    layer = case.layer
    words = ["kernel-nightly", "run", "--suite", run.suite, "--kernel", layer.kernel, "--scheme", layer.scheme]
    if layer.model != "grid":
        words += ["--model", find_model(layer.model, run), "--tp-size", str(layer.tp_size)]
        words += ["--enable-expert-parallel"] if layer.ep_size > 1 else []
    for option, names in SIZES_OF_LIMITS.items():
        words += [word for name in names if name in layer.sizes for word in (option, str(layer.sizes[name]))]
    words += ["--dtype", layer.dtype] if layer.dtype != "bfloat16" else []
    words += ["--batch-size", str(case.num_tokens)]
    options = [f"{name}={value}" for name, value in {**defaults, **case.options}.items()]
    words += ["--option", *options] if options else []
    words += ["--timer", series.timer, "--provider", series.provider, "--seed", str(run.seed)]
    words += ["--model-prefix", str(prefix)] if (prefix := run.arguments.get("model_prefix")) else []
    words += [option for option, name in PERMISSIONS.items() if run.arguments.get(name)]
    return shlex.join(words)


def find_model(model: str, run: Run) -> str:
    """What --model takes for the model of a layer: the folder or the repository that the run was given, or its name."""
    asked = run.arguments.get("models")
    words = [str(word) for word in asked] if isinstance(asked, list) else []
    return next((word for word in words if Path(word).expanduser().resolve().name == model), model)
