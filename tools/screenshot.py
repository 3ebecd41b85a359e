"""Write a picture of a built page: `tools/screenshot.py PAGE OUT.png`.

Runs under `.venv/bin/python` with the system's Chromium; `make book` first.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "book"))

import browser as browsing


def main() -> None:
    """Open one page of the site and save what a reader sees."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", help="for example lab1/01_cluster.html#id")
    parser.add_argument("out", type=Path)
    parser.add_argument("--site", type=Path, default=ROOT / "_build/html")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--whole", action="store_true", help="the whole page")
    given = parser.parse_args()
    path = browsing.executable()
    if path is None:
        parser.error("there is no Chromium on this machine: install it")
    if not (given.site / given.page.split("#")[0]).is_file():
        parser.error(f"{given.site} has no page {given.page}: `make book`")
    scheme = "dark" if given.dark else "light"
    with (
        browsing.served(given.site) as address,
        browsing.launched(path) as browser,
        browsing.watched(browser, address, given.width, scheme) as tab,
    ):
        tab.page.set_viewport_size(
            {"width": given.width, "height": given.height}
        )
        page, _, place = given.page.partition("#")
        tab.open(page)
        # Formulas change heights after loading: go to the place afterwards.
        tab.page.wait_for_timeout(1500)
        if place:
            tab.page.evaluate(
                "id => document.getElementById(id).scrollIntoView("
                "{behavior: 'instant'})",
                place,
            )
        tab.page.wait_for_timeout(300)
        tab.page.screenshot(path=given.out, full_page=given.whole)
    size = given.out.stat().st_size
    print(f"{given.out}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
