"""The small book, and the site that the browser tests open."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import book_inputs
import browser as browsing
import pytest
import sample_pages
import small_book
from playwright.sync_api import Browser


@dataclass(frozen=True)
class Site:
    """A built site, and a word that stands on one page of it alone."""

    folder: Path
    word: str
    page: str

    def pages(self) -> list[str]:
        """Return the addresses of its pages within the site."""
        return sorted(
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*.html")
            if not path.relative_to(self.folder).parts[0].startswith("_")
        )


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workshop of toy experiments with their records."""
    return small_book.make_root(tmp_path_factory.mktemp("small") / "root")


@pytest.fixture(scope="session")
def small_built(small_root: Path) -> small_book.Built:
    """The small book, built without a fault."""
    built = small_book.build(small_root, sample_pages.GOOD)
    assert built.returncode == 0, built.output
    return built


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Site:
    """The small book; with `WORKSHOP_SITE=built` the book itself.

    What happens to lie in `_build` never decides it.
    """
    if os.environ.get("WORKSHOP_SITE") == "built":
        if not book_inputs.fresh():
            pytest.fail("the built book is not current: run `make book`")
        folder = book_inputs.ROOT / "_build" / "html"
        return Site(folder, "sinfo", "lab1/01_cluster.html")
    built = request.getfixturevalue("small_built")
    return Site(built.root / "_build/html", "quokka", "lab1/toy.html")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's Chromium, headless."""
    path = browsing.executable()
    if path is None:
        pytest.skip("no Chromium on this machine: browser tests left out")
    with browsing.launched(path) as browser:
        yield browser


@pytest.fixture(scope="session")
def address(site: Site) -> Iterator[str]:
    """The address at which the site is served."""
    with browsing.served(site.folder) as address:
        yield address
