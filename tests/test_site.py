"""The site is read back as a reader gets it: pages, links, CSV, and a real browser where there is one."""

import csv
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from nights import (
    CPU,
    H200,
    HOSTILE,
    find_made_up_kernel,
    make_histories,
    make_incidents,
    make_measurement,
    make_measurements,
    make_night,
    moe_layer,
    silu_layer,
)
from test_listed import LISTED

from dashboards.arrangement import arrange_night
from dashboards.pages import render_index
from dashboards.series.views import make_background
from dashboards.site import write_site
from kernels.spec import Case
from tasks.errors import UsageError
from tasks.nights import Night
from tasks.records import State

KERNELS = ("fused_moe", "silu_mul_fp8")
VOID = {"meta", "link", "input", "br", "img", "hr"}
CHROMIUM = shutil.which("chromium")
CHROMIUM_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class Page(HTMLParser):
    """Tags of a page with their attributes, checked for balance, and its text by tag."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: list[tuple[str, str]] = []
        self.incident_links: list[str] = []
        """Out of the lists of incidents' series."""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == [], f"{path.name} leaves {self.open} open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "a" and "article" in self.open:
            self.incident_links.append(self.tags[-1][1]["href"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.text.append((self.open[-1], " ".join(data.split())))

    def values(self, attribute: str, tag: str | None = None) -> list[str]:
        return [attrs[attribute] for name, attrs in self.tags if attribute in attrs and tag in (None, name)]

    @property
    def words(self) -> str:
        return " ".join(text for tag, text in self.text if tag not in ("style", "script"))


@pytest.fixture(autouse=True)
def _made_up_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboards.comparisons.find_kernel", find_made_up_kernel)


def make_small_night(num_nights: int) -> Night:
    """Of one number of tokens, at which a time and an error move: drawn in a fraction of the time of a whole one."""
    return make_night(num_nights, measurements=[m for m in make_measurements(H200) if m.check.case.num_tokens == 64])


@pytest.fixture(scope="module")
def night() -> Night:
    quiet = make_night(3, (H200, CPU))
    return replace(quiet, incidents=make_incidents(quiet))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, night: Night) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dashboards.comparisons.find_kernel", find_made_up_kernel)
        return write_site(night, tmp_path_factory.mktemp("site") / "out").parent


def copy_site(site: Path, folder: Path) -> Path:
    """An older site in the folder, of which only what differs is drawn anew."""
    return shutil.copytree(site, folder)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    kept = [next(iter(sorted((site / place).glob("*.html")))) for place in ("compare", "series")]
    told = [site / href for href in Page(site / "index.html").values("href", "a") if href.startswith("series/")]
    return {os.path.relpath(path, site): Page(path) for path in {*site.glob("*.html"), *kept, *told}}


def test_a_night_is_its_pages_its_lists_and_a_page_for_every_series(site: Path, night: Night) -> None:
    names = {path.name for path in site.iterdir()}
    kernels = {
        f"{kind}-{kernel}.{ending}" for kind, ending in (("kernel", "html"), ("data", "csv")) for kernel in KERNELS
    }
    lists = {
        "series.js",
        "nights.js",
        "data-heat.csv",
        "data-references.csv",
        "manifest.json",
        "style.css",
        "script.js",
    }
    assert names == {"index.html", "series.html", "rooflines.html", "series", "compare", "figures"} | kernels | lists
    assert len(list((site / "series").glob("*.html"))) == len(night.trends)
    assert len(list((site / "compare").glob("*.html"))) == 3


def test_every_link_leads_to_a_file_and_an_anchor_that_exist(site: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        for attribute, tag in (("href", "a"), ("src", "img"), ("src", "script"), ("href", "link")):
            for href in page.values(attribute, tag):
                target, _, anchor = href.partition("#")
                path = (site / name).parent / target if target else site / name
                assert target.startswith("data:") or path.is_file(), href
                if anchor and "=" not in anchor:
                    assert anchor in pages[os.path.relpath(path, site)].values("id"), href


def test_ids_are_unique_in_a_page(pages: dict[str, Page]) -> None:
    for page in pages.values():
        assert [found for found, times in Counter(page.values("id")).items() if times > 1] == []


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        for attribute in ("href", "src", "srcset", "data", "action", "poster", "style"):
            assert [value for value in page.values(attribute) if "//" in value] == []
        text = (site / name).read_text(encoding="utf-8") + (site / "script.js").read_text(encoding="utf-8")
        assert "http://" not in text
        assert "https://" not in text
        assert "@import" not in text


def articles(index: Page) -> list[str]:
    """The words of each incident, in order."""
    words = index.words.partition(" Incidents ")[2].partition(" Against ")[0]
    return re.split(r" (?=[A-Z]+ [a-z]+-3f9a1c )", words)[1:]


def test_incidents_come_first_the_open_ones_before_the_acknowledged_and_the_over(pages: dict[str, Page]) -> None:
    index = pages["index.html"]
    assert [text for tag, text in index.text if tag == "h2"][:2] == ["Incidents", "Against 2 nights ago"]
    assert "Incidents 2 open, 1 acknowledged, 1 over" in index.words
    told = articles(index)
    places = ["SLOW slow-3f9a1c open", "WRONG wrong-3f9a1c open", "MISSING missing-3f9a1c acknowledged"]
    assert [words[: len(place)] for words, place in zip(told, places, strict=False)] == places
    assert told[3].startswith("FAST fast-3f9a1c over")
    assert "A quiet night" not in index.words


def test_an_incident_is_told_with_its_date_causes_evidence_and_command(night: Night, pages: dict[str, Page]) -> None:
    told = articles(pages["index.html"])
    by_state = {incident.state: incident for incident in night.incidents}
    for words, state in zip(told, (State.SLOW, State.WRONG, State.MISSING, State.FAST), strict=True):
        incident = by_state[state]
        for part in (incident.headline, *incident.causes, incident.evidence, incident.acknowledgement):
            assert part in words
    assert "since run run-2 (2026-11-19 02:00 UTC)" in told[0]
    assert 'kernel-nightly acknowledge slow-3f9a1c --reason "why it is expected"' in told[0]
    assert "Acknowledged no longer built" in told[2]
    assert "Over since run run-3" in told[3]
    assert ["kernel-nightly acknowledge" in words for words in told] == [True, True, False, False]


def test_an_incident_and_the_rows_of_its_series_link_to_each_other(night: Night, pages: dict[str, Page]) -> None:
    index, page = pages["index.html"], pages["kernel-fused_moe.html"]
    rows = {attrs["id"]: attrs for tag, attrs in page.tags if tag == "tr" and "id" in attrs}
    pattern = r"(?:series/|#row-)([0-9a-f]{12})"
    linked = [f"row-{found}" for href in index.incident_links for found in re.findall(pattern, href)]
    of_moe = [i for i in night.incidents for series in i.series if series.case_key.startswith("fused_moe")]
    assert Counter(rows[anchor]["data-state"] for anchor in linked if anchor in rows) == Counter(
        i.state for i in of_moe
    )
    back = [href for href in page.values("href", "a") if href.startswith("index.html#")]
    assert Counter(back) == Counter(f"index.html#incident-{incident.incident_id}" for incident in of_moe)
    assert "+10.9% to +12.9% confirmed since 2026-11-19 slow-3f9a1c" in page.words
    assert "+2.9% to +4.9% not seen again" in page.words


def test_what_comes_from_outside_cannot_become_markup_in_an_incident(site: Path, night: Night) -> None:
    attack = '"><img src=x onerror=alert(1)><script>alert(2)</script>{{ 7 * 7 }}'
    [slow, *_] = [incident for incident in night.incidents if incident.state is State.SLOW]
    hostile = replace(slow, incident_id=attack, subject=attack, causes=(attack,), evidence=attack, since_run=attack)
    expected = replace(hostile, incident_id=f"{attack}2", acknowledgement=attack, opened_run=attack)
    index = write_site(replace(night, incidents=(hostile, expected)), copy_site(site, site.with_name("hostile")))
    for path in (index, index.with_name("kernel-fused_moe.html")):
        page = Page(path)
        assert [attrs for tag, attrs in page.tags if tag == "img" or "onerror" in attrs] == []
        assert [tag for tag, _ in page.tags].count("script") == 1
        assert attack in page.words
    assert f"kernel-nightly acknowledge '{attack}' --reason" in Page(index).words


def test_a_quiet_night_says_so_and_an_expected_incident_does_not_disturb_it(
    tmp_path: Path, night: Night, site: Path
) -> None:
    assert "A quiet night: no incident is open." in Page(write_site(make_small_night(2), tmp_path / "quiet")).words
    expected = tuple(incident for incident in night.incidents if incident.acknowledgement)
    words = Page(write_site(replace(night, incidents=expected), copy_site(site, tmp_path / "expected"))).words
    assert "A quiet night: no incident is open." in words
    assert "Incidents 1 acknowledged MISSING missing-3f9a1c" in words


def test_a_series_of_an_incident_that_is_on_no_page_is_named_without_a_link(tmp_path: Path) -> None:
    night = make_night(2)
    [missing] = [incident for incident in make_incidents(night) if incident.state is State.MISSING]
    elsewhere = replace(missing, series=(replace(missing.series[0], timer="cold"),), since_run="long-ago")
    index = Page(write_site(replace(night, incidents=(elsewhere,)), tmp_path / "site"))
    assert f"1 series {missing.series[0].case_key}, vllm-deepgemm, cold" in index.words
    assert index.incident_links == []
    assert "since run long-ago Acknowledged" in index.words


def test_the_csv_tells_how_sure_a_verdict_is_and_which_incident_has_it(site: Path) -> None:
    with (site / "data-fused_moe.csv").open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["device"] == H200.name]
    slow = [line for line in lines if line["state"] == "SLOW"]
    assert slow
    for line in slow:
        assert float(line["change_low"]) < float(line["relative_change"]) < float(line["change_high"])
        told = [line[name] for name in ("p_value", "since_run", "is_confirmed", "is_machine", "incident_id")]
        assert told == ["0.0002", "run-2", "True", "False", "slow-3f9a1c"]
    same = next(line for line in lines if line["state"] == "SAME")
    assert [same[name] for name in ("since_run", "is_confirmed", "incident_id")] == ["", "", ""]


def test_the_verdicts_are_counted_worst_first(night: Night, pages: dict[str, Page]) -> None:
    expected = Counter(verdict.state for verdict in night.verdicts)
    told = re.findall(r"(\d+) ((?!UTC)[A-Z]+)\b", pages["index.html"].words.partition(" Without a time ")[0])
    assert {state: int(times) for times, state in told} == expected
    assert [state for _, state in told][:4] == ["SLOW", "WRONG", "FAILED", "MISSING"]


def test_everything_that_needs_a_look_is_listed_with_its_evidence(night: Night, pages: dict[str, Page]) -> None:
    quiet = (State.SAME, State.NEW, State.UNSUPPORTED)
    loud = [verdict for verdict in night.verdicts if verdict.state not in quiet]
    index = pages["index.html"]
    listed = [attrs for tag, attrs in index.tags if tag == "tr" and "data-state" in attrs]
    assert Counter(attrs["data-state"] for attrs in listed) == Counter(verdict.state for verdict in loud)
    for verdict in loud:
        assert verdict.evidence in index.words


def test_the_run_is_told_from_commit_to_weights(pages: dict[str, Page]) -> None:
    words = pages["index.html"].words
    for part in (
        *("run-3", "nightly-h200", "252e9d4c0f", "with uncommitted changes", "2026-11-20 02:00 UTC"),
        *("measure", "2210.7", "NVIDIA H200", "580.159.04", "2.11.0", "3.6.0", "0.26.0", "AMD EPYC"),
        *("Took 41 min 12 s", "640.00 MB", "3.21", "ab12ab12ab12", "Fused mixture of experts"),
    ):
        assert part in words, part


@pytest.mark.parametrize(("seconds", "told"), [(59, "59 s"), (145, "2 min 25 s"), (3600, "1 h 0 min 0 s")])
def test_how_long_a_run_took_is_told_without_what_is_zero_before_it(seconds: int, told: str, night: Night) -> None:
    run = replace(night.run, finished_at=night.run.started_at + timedelta(seconds=seconds))
    kernels = arrange_night(night)
    page = render_index(replace(night, run=run), kernels, [], make_background(night, kernels, ""))
    assert f"<dd>{told}, complete</dd>" in page


def test_the_front_page_lists_the_sets_that_are_not_fresh(night: Night, pages: dict[str, Page]) -> None:
    kernels = arrange_night(night)
    page = render_index(replace(night, tuned_sets=LISTED), kernels, [], make_background(night, kernels, ""))
    section = page.partition('<h2 id="tuning">')[2].partition("<h2")[0]
    assert "1 fresh, 1 stale, 0 unknown, 1 missing" in section
    assert section.count("<tr><td>") == 2
    for listed in LISTED[:2]:
        assert listed.key.label in section
        assert "; ".join(listed.reasons) in section
    assert '<td class="number">1.5</td>' in section
    assert "Tuned configurations" not in pages["index.html"].words


def test_every_row_tells_status_reason_and_verdict(night: Night, pages: dict[str, Page]) -> None:
    page = pages["kernel-fused_moe.html"]
    rows = [attrs for tag, attrs in page.tags if tag == "tr" and "data-status" in attrs]
    expected = Counter(m.status.value for m in night.measurements if m.check.case.layer.kernel == "fused_moe")
    assert Counter(attrs["data-status"] for attrs in rows) == expected + Counter(missing=1)
    for part in ("needs sm_100 (this is sm_90)", "relative error 0.31 is above 0.02", "no answer within 120 s"):
        assert part in page.words
    assert "+12.0% against the 8 earlier nights, p = 0.0002" in page.values("title")


def test_cases_that_differ_by_an_option_have_charts_of_their_own(site: Path) -> None:
    [path] = (site / "compare").glob("silu*.html")
    page = Page(path)
    told = [text for tag, text in page.text if tag == "h2"]
    for strategy in ("uniform", "max_t", "first_t"):
        assert f"{strategy}, NVIDIA H200, graph" in told
        assert f"{strategy}, {CPU.name}, graph" in told
    assert "Bandwidth" in page.words
    assert [
        label for label in page.values("aria-label", "svg") if label.startswith("Bar chart: share of the copy rate")
    ]
    assert all((path.parent / picture).is_file() for picture in page.values("href", "a") if picture.endswith(".png"))


def test_a_model_name_cannot_become_markup(site: Path, pages: dict[str, Page]) -> None:
    for name in ("index.html", "kernel-fused_moe.html"):
        text = (site / name).read_text(encoding="utf-8")
        assert HOSTILE not in text
        assert text.count("<script") == 1
        assert HOSTILE in pages[name].words


def test_every_chart_has_a_label_and_every_heading_a_scope(pages: dict[str, Page]) -> None:
    for page in pages.values():
        charts = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("class") == "chart"]
        assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in charts)
        assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
    assert sum(len(page.values("aria-label", "svg")) for page in pages.values()) > 20


def test_the_csv_holds_the_same_medians_to_the_last_digit(site: Path, night: Night) -> None:
    read = {}
    for path in site.glob("data-*_*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                read[line["case_key"], line["provider"], line["device"]] = line
    assert len(read) == len(night.measurements) + 1  # the missing series is in it too
    for measurement in night.measurements:
        series = measurement.series
        line = read[series.case_key, series.provider, series.device_name]
        assert line["status"] == measurement.status.value
        assert (float(line["median_us"]) if line["median_us"] else None) == measurement.median_us
        assert line["reason"] == measurement.check.reason


def test_charts_that_are_kept_as_pictures_too_follow_the_theme(site: Path) -> None:
    pictures = sorted((site / "figures").glob("*-nights.png"))
    assert pictures
    for picture in pictures:
        page = (site / "series" / f"{picture.name.removesuffix('-nights.png')}.html").read_text(encoding="utf-8")
        assert "var(--series-0)" in page
        assert "#0066b3" not in page


def test_the_csv_tells_rates_shares_and_errors(site: Path, night: Night) -> None:
    with (site / "data-fused_moe.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len({line["case_key"] for line in lines}) > 5
    timed = [line for line in lines if line["median_us"]]
    for line in timed:
        on_gpu = line["device"] == H200.name
        assert bool(line["share_of_floor"]) is on_gpu
        if on_gpu:
            assert float(line["floor_us"]) / float(line["median_us"]) == float(line["share_of_floor"])
        assert float(line["relative_error"]) / float(line["earlier_error"]) == float(line["error_ratio"])
    jumped = {(line["num_tokens"], line["provider"]) for line in timed if float(line["error_ratio"]) > 1.5}
    assert jumped == {("64", "vllm-triton-shipped")}


def test_the_csv_tells_how_samples_were_taken_and_what_they_are_worth(site: Path, night: Night) -> None:
    with (site / "data-fused_moe.csv").open(encoding="utf-8", newline="") as file:
        lines = {
            (line["case_key"], line["provider"]): line for line in csv.DictReader(file) if line["device"] == H200.name
        }
    slow = lines[Case(moe_layer(), 4096).key, "triton"]
    assert [slow[name] for name in ("num_samples", "num_trials", "num_slow", "num_set_aside")] == ["30", "8", "3", "2"]
    assert [slow[name] for name in ("lowest_clock_mhz", "highest_clock_mhz")] == ["1785", "1980"]
    assert slow["throttle_reasons"] == "sw_power_cap"
    assert float(slow["speedup_low"]) < float(slow["speedup"]) < float(slow["speedup_high"])
    assert slow["timed_alone"] == "False"
    assert 0 < float(slow["half_width"]) < 0.02
    beside_slow = lines[Case(moe_layer(), 1024).key, "torch"]
    assert beside_slow["machine_kernel"] == "copy"
    assert float(beside_slow["machine_change"]) == pytest.approx(0.031, abs=0.002)


def test_a_row_tells_its_reservations_in_a_word_and_in_a_sentence(pages: dict[str, Page]) -> None:
    page = pages["kernel-fused_moe.html"]
    assert "clock 3/8" in page.words
    assert "slow clock in 3 of 8 trials, 2 set aside; 1785-1980 MHz; sw_power_cap" in page.values("title", "span")
    assert "reference slow +3." in page.words
    assert any(title.startswith("copy, which no commit changes, took 3.") for title in page.values("title", "span"))
    sampled = [
        title for title in page.values("title", "td") if "30 samples in 6 trials, 1980 MHz, 660 W, 51 C" in title
    ]
    assert sampled


def test_the_front_page_tells_a_slow_machine_from_a_slow_kernel(pages: dict[str, Page]) -> None:
    index = pages["index.html"]
    assert "Reference kernels" in index.words
    trends = [label for label in index.values("aria-label", "svg") if "Trend of the reference kernels" in label]
    assert len(trends) == 2  # a GPU and a CPU
    assert "where they are slower than the night before, the machine is" in index.words
    assert all("copy +3." in label for label in trends)
    attention = index.words.partition("Errors that moved")[0]
    assert "reference slow +3." in attention


def test_a_night_without_references_says_nothing_of_them(tmp_path: Path) -> None:
    night = replace(make_small_night(2), references=(), reference_trends={})
    index = Page(write_site(night, tmp_path / "site"))
    assert "Reference kernels" not in index.words


@pytest.fixture(scope="module")
def two_timers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of a night that timed everything in two ways."""
    graph = make_measurements(H200)
    cold = [make_measurement(m.check.case, m.check.provider, m.status, timer="cold") for m in graph]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dashboards.comparisons.find_kernel", find_made_up_kernel)
        return write_site(make_night(2, measurements=graph + cold), tmp_path_factory.mktemp("timers") / "out").parent


def test_each_timer_has_its_charts_and_the_graph_comes_first(two_timers: Path) -> None:
    [path, *_] = sorted((two_timers / "compare").glob("fused_moe-*.html"))
    page = Page(path)
    panels = [attrs["data-timer"] for tag, attrs in page.tags if tag == "div" and attrs.get("class") == "panel"]
    assert panels[:2] == ["graph", "cold"]
    selected = [attrs for tag, attrs in page.tags if tag == "option" and "selected" in attrs]
    assert len(selected) == 1
    assert page.values("data-default", "select").count("graph") == 1


def test_an_error_that_moved_is_told_once_whatever_the_timers(two_timers: Path) -> None:
    index = Page(two_timers / "index.html")
    assert [text for tag, text in index.text if tag == "b" and text.endswith("\u00d7")] == ["1.8\u00d7"] * 2


def test_the_front_page_links_to_the_series_of_each_timer(two_timers: Path) -> None:
    index = Page(two_timers / "index.html")
    linked = {href for href in index.values("href", "a") if href.startswith("series/")}
    timers = {re.findall(r"timer (\w+)", Page(two_timers / href).words)[0] for href in linked}
    assert timers == {"graph", "cold"}


def test_a_jump_of_an_error_is_on_the_front_page_and_in_the_table(pages: dict[str, Page]) -> None:
    index, page = pages["index.html"], pages["kernel-fused_moe.html"]
    assert "Errors that moved" in index.words
    assert [text for tag, text in index.text if tag == "b" and text.endswith("\u00d7")] == ["1.8\u00d7"] * 4
    assert [text for tag, text in page.text if tag == "b" and text.endswith("\u00d7")] == ["1.8\u00d7"] * 4


def test_without_a_jump_the_front_page_says_nothing_of_errors(tmp_path: Path) -> None:
    index = Page(write_site(make_small_night(1), tmp_path / "site"))
    assert "Errors that moved" not in index.words


def test_ceilings_and_the_memory_of_weights_are_told(pages: dict[str, Page]) -> None:
    (line,) = [text for tag, text in pages["index.html"].text if tag == "p" and f"at best on {H200.name}" in text]
    assert "copy 4,000 GB/s, bfloat16 gemm 700 TFLOP/s" in line
    assert re.search(r"Weights: \d+ sets, [\d.]+ GB drawn in [\d.]+ s", pages["index.html"].words)
    assert "640.00 MB, 1.89\u00d7 smaller than with 16 bits each" in pages["kernel-fused_moe.html"].words
    assert "smaller than" not in pages["kernel-silu_mul_fp8.html"].words


def test_the_first_night_says_that_it_has_no_history(tmp_path: Path) -> None:
    page = Page(write_site(make_small_night(1), tmp_path / "site").with_name("kernel-fused_moe.html"))
    assert "First night: no history yet" in page.words


def test_what_needs_a_look_is_told_with_its_card_where_there_are_several(tmp_path: Path) -> None:
    night = make_small_night(3)
    other = replace(night.hosts[0], host_id="other", device_uuid="GPU-77aa0000-1111")
    slow = next(verdict.series for verdict in night.verdicts if verdict.state is State.SLOW)
    moved = tuple(replace(point, device_uuid=other.device_uuid) for point in night.trends[slow])
    swapped = replace(night, trends=make_histories({**night.trends, slow: moved}))
    for name, several in (("several", replace(swapped, hosts=(*night.hosts, other))), ("swapped", swapped)):
        cells = [text for tag, text in Page(write_site(several, tmp_path / "site")).text if tag == "small"]
        assert cells.count("GPU-4f2c, before GPU-77aa0000") == 1
        assert (cells.count("GPU-4f2c") > 1) == (name == "several")
    cells = [text for tag, text in Page(write_site(night, tmp_path / "site")).text if tag == "td"]
    assert cells.count("GPU-4f2c") == 1  # in the table of machines


def test_a_night_that_nobody_judged_is_not_called_quiet(tmp_path: Path) -> None:
    night = replace(make_small_night(1), verdicts=(), incidents=())
    index = Page(write_site(night, tmp_path / "site"))
    assert index.words.count("Nothing was judged in this run.") == 2
    assert "quiet night" not in index.words
    assert "Nothing: every series" not in index.words


def test_an_empty_night_and_a_kernel_no_longer_in_the_code_are_told(tmp_path: Path) -> None:
    empty = Page(write_site(make_night(1, measurements=()), tmp_path / "empty"))
    assert "No kernel was measured" in empty.words
    assert "Nothing was judged in this run." in empty.words
    gone = make_measurement(Case(moe_layer(), 1), "triton")
    case = gone.check.case
    layer = type(case.layer)("old/kernel", case.layer.model, 1, 1, "fp8", "bfloat16", case.layer.sizes)
    index = write_site(make_night(1, measurements=[make_measurement(Case(layer, 1), "triton")]), tmp_path / "gone")
    page = Page(index)
    assert "no longer in the code" in page.words
    assert all((index.parent / href.partition("#")[0]).is_file() for href in page.values("href", "a"))


def test_the_same_night_gives_the_same_bytes(tmp_path: Path, site: Path, night: Night) -> None:
    again = write_site(night, tmp_path / "again").parent
    for path in site.rglob("*.*"):
        assert path.read_bytes() == (again / path.relative_to(site)).read_bytes(), path.name


def test_a_new_site_replaces_the_old_one_whole(tmp_path: Path) -> None:
    write_site(make_small_night(1), tmp_path / "site")
    only = [make_measurement(Case(silu_layer(), 64, {"token_strategy": "uniform"}), "torch")]
    write_site(make_night(1, measurements=only), tmp_path / "site")
    names = {path.name for path in (tmp_path / "site").iterdir()}
    assert {"index.html", "kernel-silu_mul_fp8.html", "data-silu_mul_fp8.csv"} <= names
    assert not [name for name in names if "fused_moe" in name]
    assert len(list((tmp_path / "site" / "series").iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_crash_while_writing_leaves_the_old_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write_site(make_small_night(1), tmp_path / "site")
    before = index.read_bytes()

    rename = Path.rename

    def fail(self: Path, target: Path) -> None:
        if self.name.endswith(".new"):
            raise OSError(28, os.strerror(28))
        rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UsageError, match=f"{tmp_path / 'site'}: No space left on device"):
        write_site(make_small_night(3), tmp_path / "site")
    assert index.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_folder_that_cannot_be_written_is_named_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"cannot write the site to .*file/site: .*; choose a folder") as caught:
        write_site(make_night(1), tmp_path / "file" / "site")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="it is a file"):
        write_site(make_night(1), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        write_site(make_night(1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def browse(page: Path, fragment: str, tmp_path: Path) -> str:
    """The page as the browser has it after the script ran."""
    assert CHROMIUM is not None
    address = f"{page.as_uri()}#{fragment}"
    command = [CHROMIUM, *CHROMIUM_FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(
    ("fragment", "timers"),
    [("", {"graph"}), ("timer=cold", {"cold"}), ("timer=any", {"graph", "cold"})],
)
def test_a_browser_shows_one_timer_unless_asked(
    two_timers: Path, tmp_path: Path, fragment: str, timers: set[str]
) -> None:
    page = two_timers / "kernel-fused_moe.html"
    dom = browse(page, fragment, tmp_path)
    tags = re.findall(r'<(?:tr|div) [^>]*data-timer="(\w+)"([^>]*)>', dom)
    assert {timer for timer, rest in tags if "hidden" not in rest} == timers
    assert len({timer for timer, _ in tags}) == 2


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_the_row_that_an_incident_links_to_whatever_its_timer(two_timers: Path, tmp_path: Path) -> None:
    page = two_timers / "kernel-fused_moe.html"
    rows = [attrs for tag, attrs in Page(page).tags if tag == "tr" and "id" in attrs]
    cold = next(attrs["id"] for attrs in rows if attrs["data-timer"] == "cold")
    dom = browse(page, cold, tmp_path)
    [shown] = re.findall(rf'<tr [^>]*id="{cold}"[^>]*>', dom)
    assert "hidden" not in shown


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(
    ("fragment", "shown", "total"),
    [("", 97, 97), ("provider=triton&status=crashed", 2, 97), ("state=MISSING", 1, 97), ("text=no%20answer", 2, 97)],
)
def test_a_browser_filters_by_the_hash_of_the_address(
    site: Path, tmp_path: Path, fragment: str, shown: int, total: int
) -> None:
    dom = browse(site / "kernel-fused_moe.html", fragment, tmp_path)
    assert f"{shown} of {total} rows" in dom
    visible = [row for row in re.findall(r"<tr [^>]*data-provider[^>]*>", dom) if "hidden" not in row]
    assert len(visible) == shown
