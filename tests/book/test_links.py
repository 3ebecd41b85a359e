"""Every link inside the built site leads somewhere, anchors included."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ELSEWHERE = {"http", "https", "mailto", "data", "javascript"}


@dataclass
class Found(HTMLParser):
    """What a page defines, links to and loads."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """Collect the addresses of one element."""
        have = dict(attrs)
        self.ids |= {have[key] for key in ("id", "name") if have.get(key)}
        if tag == "a" and have.get("href"):
            self.links.append(have["href"])
        loads = have.get("src") or (have.get("href") if tag == "link" else "")
        if loads and have.get("rel") != "canonical":
            self.loads.append(loads)


def read(folder: Path) -> dict[Path, Found]:
    """Parse every page of a site."""
    pages = {}
    for path in sorted(folder.rglob("*.html")):
        if "_static" not in path.parts:
            pages[path] = Found()
            pages[path].feed(path.read_text())
    return pages


def ids(pages: dict[Path, Found], target: Path, anchor: str) -> set[str]:
    """Return the anchors of a page; a file that is no page has any."""
    return pages[target].ids if target in pages else {anchor}


def broken(folder: Path) -> list[str]:
    """Return what is wrong with the links of a site."""
    pages, wrong = read(folder), []
    for path, page in pages.items():
        name = path.relative_to(folder).as_posix()
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme in ELSEWHERE:
                if link in page.loads and parts.scheme.startswith("http"):
                    wrong.append(f"{name} loads {link}")
                continue
            target = path
            if parts.path:
                target = (path.parent / unquote(parts.path)).resolve()
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.exists():
                wrong.append(f"{name} links to {link}, which is not there")
            elif anchor and anchor not in ids(pages, target, anchor):
                wrong.append(f"{name} links to {link}: no such anchor")
    return wrong


def test_links_lead_somewhere(site) -> None:
    assert len(read(site.folder)) > 3
    assert not broken(site.folder.resolve())


def test_the_check_sees_bad_links(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html">gone</a><a href="#no">no anchor</a>'
        '<script src="https://example.org/x.js"></script>'
        '<p id="yes"></p><a href="#yes">good</a><a href="a.html">good</a>'
    )
    assert len(broken(tmp_path)) == 3
