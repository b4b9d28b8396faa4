"""The site as a reader has it, in a real headless Chromium: filters, values under the pointer, themes, no network."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browsers import CHROMIUM, Browser, opening
from nights import H200, find_made_up_kernel, make_incidents, make_measurement, make_measurements, make_night
from screenshots import shoot_site

from dashboards.site import write_site

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two timers, eight nights, incidents."""
    graph = [m for m in make_measurements(H200) if m.check.case.num_tokens in (1, 16, 64, 256)]
    cold = [make_measurement(m.check.case, m.check.provider, m.status, timer="cold") for m in graph]
    night = make_night(8, measurements=graph + cold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dashboards.comparisons.find_kernel", find_made_up_kernel)
        told = replace(night, incidents=make_incidents(night)[1:])
        return write_site(told, tmp_path_factory.mktemp("site") / "out").parent


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with opening(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def test_the_rows_of_a_kernel_are_filtered_by_the_address_and_write_it(site: Path, browser: Browser) -> None:
    page = site / "kernel-fused_moe.html"
    shown = (
        "[...document.querySelectorAll('tr.row:not([hidden])')].map((row) => row.dataset.timer + row.dataset.status)"
    )
    browser.open(page)
    assert set(browser.ask(shown)) == {"graphok", "graphunsupported", "graphwrong", "graphcrashed", "graphmissing"}
    browser.open(page, "timer=cold&status=wrong")
    assert browser.ask(shown) == ["coldwrong"]
    assert browser.ask("document.querySelector('.filter output').textContent").startswith("1 of ")
    browser.ask("form.elements.timer.value = 'any'; form.dispatchEvent(new Event('input'))")
    assert browser.ask("location.hash") == "#timer=any&status=wrong"
    assert sorted(browser.ask(shown)) == ["coldwrong", "graphwrong"]
    cold = browser.ask("document.querySelector('tr.row[data-timer=cold]').id")
    browser.open(page, cold)
    assert not browser.ask(f"document.getElementById({cold!r}).hidden")


def test_a_series_is_found_by_kernel_model_provider_device_and_state(site: Path, browser: Browser) -> None:
    browser.open(site / "series.html", "state=SLOW&kernel=fused_moe&timer=cold")
    rows = "[...document.querySelectorAll('#found tbody tr')].map((row) => row.innerText)"
    found = browser.ask(rows)
    assert found
    assert all("SLOW" in row and "triton" in row and "cold" in row for row in found)
    href = browser.ask("document.querySelector('#found a').href")
    assert href.startswith((site / "series").as_uri())
    browser.open(site / "series.html", "text=no%20such%20case")
    assert browser.ask(rows) == []


def open_series(site: Path, browser: Browser) -> None:
    browser.open(site / "series.html", "state=SLOW")
    address = browser.ask("document.querySelector('#found a').href")
    browser.open(Path(address.removeprefix("file://")))


def test_a_night_tells_its_values_under_the_pointer_and_by_the_arrow_keys(site: Path, browser: Browser) -> None:
    open_series(site, browser)
    tip = "document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent"
    assert browser.ask(tip) == ""
    browser.point_at(".nights .chart", 0.97, 0.3)
    last = browser.ask(tip)
    assert last.startswith("2026-11-20 02:00 UTC: ")
    assert "run run-3, commit 252e9d4c0ffe" in last
    browser.point_at(".nights .chart", 0.1, 0.3)
    assert browser.ask(tip).startswith("2026-11-13 02:00 UTC: ")
    browser.press(".nights .chart", "ArrowRight")
    assert browser.ask(tip).startswith("2026-11-14")
    line = "document.querySelector('.here').hidden"
    assert not browser.ask(line)
    browser.press(".nights .chart", "Escape")
    assert browser.ask(tip) == ""
    assert browser.ask(line)


def test_the_numbers_of_a_series_are_handed_out_whole(site: Path, browser: Browser) -> None:
    open_series(site, browser)
    told = browser.ask("""(() => { let kept; const made = URL.createObjectURL;
        URL.createObjectURL = (blob) => { kept = blob; return made(blob); };
        [...document.querySelectorAll('.saves button')].find((button) => button.textContent === 'CSV').click();
        return kept.text(); })()""")
    header, *lines = told.splitlines()
    assert header == "run,started,commit,median_us,p20_us,p80_us,relative_error,share"
    assert len(lines) == 8
    for line in lines:
        *_, median_us, low_us, high_us, _, share = line.split(",")
        assert 0 < float(low_us) <= float(median_us) <= float(high_us)
        assert not share or 0 < float(share) <= 1
    label = browser.ask("document.querySelector('.nights .chart').getAttribute('aria-label')")
    assert f"last {float(median_us):.4g} us." in label


def test_a_point_of_a_comparison_tells_its_value(site: Path, browser: Browser) -> None:
    [page, *_] = sorted((site / "compare").glob("fused_moe-*.html"))
    browser.open(page, "provider=torch")
    browser.point_at('.chart [data-provider="torch"] .point')
    assert browser.ask("document.getElementById('tip').textContent").startswith("torch, M=")
    assert browser.ask("document.querySelectorAll('.legend .dim').length") == 3


def test_the_theme_follows_the_address_and_the_button(site: Path, browser: Browser) -> None:
    page = site / "index.html"
    colour = "getComputedStyle(document.body).backgroundColor"
    browser.open(page, "theme=light")
    light = browser.ask(colour)
    browser.open(page, "theme=dark")
    assert browser.ask(colour) != light
    browser.ask("document.getElementById('theme').click()")
    assert browser.ask(colour) == light


def test_pages_fit_a_phone_and_ask_the_network_for_nothing(site: Path, browser: Browser) -> None:
    browser.resize(390, 800)
    pages = [*sorted(site.glob("*.html")), *sorted(site.glob("*/*.html"))[:2], *sorted(site.glob("*/*.html"))[-2:]]
    for page in pages:
        browser.open(page)
        assert browser.ask("document.documentElement.scrollWidth") <= 390, page.name
    browser.resize(1200, 760)
    assert browser.requests
    assert [
        address for address in browser.requests if not address.startswith(("file://", "data:", "about:", "blob:"))
    ] == []


def test_the_pictures_of_the_readme_are_made_of_a_site(site: Path, browser: Browser, tmp_path: Path) -> None:
    written = shoot_site(browser, site, tmp_path)
    docs = Path(__file__).resolve().parent.parent / "docs"
    readme = (docs.parent / "README.md").read_text()
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert (docs / path.name).is_file()
        assert f"docs/{path.name}" in readme
