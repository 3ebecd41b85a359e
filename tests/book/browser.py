"""Serve a built site on this machine and open it in the system's browser."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def executable() -> str | None:
    """Return the path of the system's Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Print nothing for each request."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on localhost and yield its address."""
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def launched(path: str) -> Iterator[Browser]:
    """Start the browser, headless, and close it at the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, headless=True, args=FLAGS
        )
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page of the browser and everything that went wrong on it."""

    page: Page
    address: str
    wrong: list[str] = field(default_factory=list)

    def open(self, name: str) -> None:
        """Load a page of the site and wait until it has settled."""
        self.page.goto(f"{self.address}/{name}", wait_until="load")
        self.page.wait_for_function(
            "!window.MathJax || !MathJax.startup || !MathJax.startup.promise"
            " || MathJax.startup.promise.then(() => true)"
        )


@contextmanager
def watched(
    browser: Browser, address: str, width: int, scheme: str
) -> Iterator[Watched]:
    """Open a tab of a width in a colour scheme and note what goes wrong."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    page = context.new_page()
    tab = Watched(page, address)
    page.on(
        "console",
        lambda message: (
            message.type == "error"
            and tab.wrong.append(f"console: {message.text}")
        ),
    )
    page.on("pageerror", lambda error: tab.wrong.append(f"error: {error}"))
    page.on(
        "requestfailed",
        # Leaving a page aborts what it still loads, its icon for one.
        lambda request: (
            request.failure != "net::ERR_ABORTED"
            and tab.wrong.append(f"failed request: {request.url}")
        ),
    )
    page.on(
        "response",
        lambda response: (
            response.status >= 400
            and tab.wrong.append(f"{response.status}: {response.url}")
        ),
    )
    page.on(
        "request",
        lambda request: tab.wrong.extend(external(request.url, address)),
    )
    yield tab
    context.close()


def external(url: str, address: str) -> list[str]:
    """Return a request that leaves this machine, as a list of one."""
    inside = url.startswith((f"{address}/", "data:", "blob:", "about:"))
    return [] if inside else [f"external request: {url}"]
