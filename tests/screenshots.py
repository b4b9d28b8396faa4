"""The pictures of the site in the README: python tests/screenshots.py docs draws them out of examples/h200."""

import sys
import tempfile
from pathlib import Path

from browsers import Browser, opening

from dashboards.site import write_site
from tasks.storage.store import Store

ROOT = Path(__file__).resolve().parent.parent
WINDOW = (1200, 760)


def shoot_site(browser: Browser, site: Path, folder: Path) -> list[Path]:
    """The front page, a comparison, and the rooflines in the dark."""
    compare = max((site / "compare").glob("silu_mul_fp8-*.html"), key=lambda path: path.stat().st_size)
    pages = {
        "front": (site / "index.html", ""),
        "compare": (compare, ""),
        "rooflines": (site / "rooflines.html", "theme=dark"),
    }
    browser.resize(*WINDOW)
    written = []
    for name, (page, fragment) in pages.items():
        browser.open(page, fragment)
        written.append(folder / f"site-{name}.png")
        written[-1].write_bytes(browser.shoot())
    return written


def main() -> None:
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        with Store.from_parquet(ROOT / "examples" / "h200") as store:
            site = write_site(store.night(), Path(scratch) / "site").parent
        with opening(Path(scratch) / "profile") as browser:
            shoot_site(browser, site, folder)


if __name__ == "__main__":
    main()
