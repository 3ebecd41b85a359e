"""Every page of the built site in a real browser, wide, narrow, dark."""

import json
from pathlib import Path

import browser as browsing
import pytest
from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
VIEWS = ((390, "light"), (390, "dark"), (1280, "light"), (1280, "dark"))
RATED = VIEWS[1:3]  # contrast depends on the scheme, reading order on width
TOO_WIDE = """() => {
  const limit = document.documentElement.clientWidth;
  const over = document.documentElement.scrollWidth - limit;
  if (over <= 0) return [];
  const elements = [...document.querySelectorAll('article *')].filter(
    e => e.getBoundingClientRect().right > limit + 1);
  return [over + ' px'].concat(elements.slice(0, 5).map(
    e => e.tagName + '.' + e.className));
}"""
CODE_SCROLLS = """() => [...document.querySelectorAll(
    '.cell_input pre, div.highlight pre')].filter(
  e => e.scrollWidth > e.clientWidth + 1
    && e.innerText.split('\\n').every(l => l.length <= 78)
).map(e => e.innerText.slice(0, 60))"""
SERIOUS = """async () => (await axe.run(document, {
  runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'],
})).violations.filter(v => ['serious', 'critical'].includes(v.impact))
  .map(v => v.id + ': ' + v.nodes.slice(0, 4).map(
    n => n.target.join(' ') + ' (' + (n.any[0]?.message ?? '') + ')')
  .join('; '))"""


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        # Of the sample book; `make test-site` takes all of the built one.
        pytest.param(*view, marks=() if view in RATED else pytest.mark.long)
        for view in VIEWS
    ],
)
def test_every_page(chromium, site, address, width, scheme) -> None:
    pages = site.pages()
    assert "index.html" in pages
    wrong = {}
    with browsing.watched(chromium, address, width, scheme) as tab:
        for name in pages:
            tab.wrong.clear()
            tab.open(name)
            tab.wrong += look(tab.page, width, scheme)
            if tab.wrong:
                wrong[name] = list(tab.wrong)
    assert not wrong, json.dumps(wrong, indent=1)


def look(page: Page, width: int, scheme: str) -> list[str]:
    """Return what is wrong with an open page."""
    theme = page.evaluate("document.documentElement.dataset.theme")
    wrong = [] if theme == scheme else [f"the theme is {theme}"]
    wrong += [f"too wide: {what}" for what in page.evaluate(TOO_WIDE)]
    if width == 1280:
        scrolling = page.evaluate(CODE_SCROLLS)
        wrong += [f"code scrolls: {code}" for code in scrolling]
    if (width, scheme) in RATED:
        page.add_script_tag(path=str(AXE))
        wrong += page.evaluate(SERIOUS)
    return wrong


def test_search_finds_a_word(chromium, site, address) -> None:
    with browsing.watched(chromium, address, 1280, "light") as tab:
        tab.open(f"search.html?q={site.word}")
        first = tab.page.locator("#search-results ul.search li a").first
        first.wait_for(timeout=20_000)
        links = tab.page.locator("#search-results ul.search li a")
        targets = [link.get_attribute("href") for link in links.all()]
        assert any(site.page in target for target in targets), targets
        assert not tab.wrong


def test_the_checks_see_a_bad_page(chromium, tmp_path) -> None:
    (tmp_path / "index.html").write_text(
        "<!doctype html><title>bad</title><article>"
        "<p style='width:2000px;color:#ddd;background:#fff'>faint</p>"
        "<div class='highlight' style='width:99px;overflow:hidden'>"
        "<pre style='overflow:auto'>one long line of code</pre></div>"
        "<img src='missing.png'></article>"
        "<script src='http://localhost:9/elsewhere.js'></script>"
        "<script>throw new Error('planted')</script>"
    )
    with (
        browsing.served(tmp_path) as address,
        browsing.watched(chromium, address, 390, "light") as tab,
    ):
        tab.open("index.html")
        tab.page.add_script_tag(path=str(AXE))
        said = "\n".join(tab.wrong + tab.page.evaluate(SERIOUS))
        wide = tab.page.evaluate(TOO_WIDE)
        scrolls = tab.page.evaluate(CODE_SCROLLS)
    for word in (
        "planted",
        "404",
        "external",
        "failed request",
        "console",
        "color-contrast",
        "image-alt",
        "html-has-lang",
    ):
        assert word in said, word
    assert wide and scrolls
