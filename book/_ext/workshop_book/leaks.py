"""What no page may show: a terminal's controls, or where it was built.

Cells are told that nobody watches a terminal, though IPython gives the
programs of a `!` line one. The checkout's path is cut from the pages; what
else slips through fails the build, and the cells run again at the next.
"""

import html
import os
import re
import shutil
import tempfile
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

from workshop import paths
from workshop_book import problems

NO_TERMINAL = {
    "NO_COLOR": "1",
    "TERM": "dumb",
    "TTY_COMPATIBLE": "0",  # Rich's own switch
    "TTY_INTERACTIVE": "0",
}
TAG = re.compile(r"<[^>]*>")
# `?25h` and its like are what is left of a sequence without its ESC [.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]|\?25[hl]")
BAR = re.compile(
    r"[█▉▊▋▌▍▎▏░▒▓]{3,}"  # tqdm, tokenizers
    r"|[━╸╺]{5,} +\d"  # Rich, pip
    r"|\d+%\|"
    r"|\[[=#]{3,}[>.\- ]*\] *\d"
)


def prepare(app: Sphinx, config: Config) -> None:
    """Tell what the cells start that it is on no terminal."""
    os.environ.update(NO_TERMINAL)


def without_root(page: str, root: Path) -> str:
    """Return a page that names files of the checkout from its root."""
    written = re.escape(html.escape(str(root), quote=False))
    page = re.sub(rf"(?<![\w./-]){written}/", "", page)
    return re.sub(rf"(?<![\w./-]){written}(?![\w-])", ".", page)


def private(root: Path) -> re.Pattern[str]:
    """Return what matches a path that only the building machine has."""
    folders = {root, root.resolve(), Path.home()} - {Path("/")}
    exact = "|".join(re.escape(str(path)) for path in sorted(folders))
    drawn = re.escape(tempfile.gettempdir()) + r"/tmp\w{8}"
    return re.compile(rf"(?:{exact})(?![\w-])|{drawn}(?!\w)")


def leaks(page: str, root: Path) -> list[str]:
    """Return a sentence for each kind of thing that a page must not show."""
    text = html.unescape(TAG.sub("", page))
    wrong = []
    for what, pattern in (
        ("a terminal's control character", CONTROL),
        ("a progress bar", BAR),
        ("a path of the building machine", private(root)),
    ):
        # In the attributes as well, where paths hide.
        if match := pattern.search(text) or pattern.search(page):
            around = match.string[max(0, match.start() - 40) : match.end()]
            wrong.append(f"the page shows {what}: {around[-80:]!a}")
    return wrong


def inspect(app: Sphinx, exception: Exception | None) -> None:
    """Clean and check every page of the site, the old ones too."""
    if exception or app.builder.format != "html":
        return
    root, leaking = paths.root(), False
    for path in sorted(Path(app.outdir).rglob("*.html")):
        name = path.relative_to(app.outdir)
        if name.parts[0].startswith("_"):
            continue
        # Bytes, for reading text would turn carriage returns into lines.
        before = path.read_bytes().decode()
        page = without_root(before, root)
        if page != before:
            path.write_bytes(page.encode())
        for sentence in leaks(page, root):
            leaking = True
            problems.say(app, str(name), sentence)
    if leaking:
        cells = app.config.nb_execution_cache_path
        shutil.rmtree(cells, ignore_errors=True)


def register(app: Sphinx) -> None:
    """Connect after what rewrites pages and before what fails builds."""
    app.connect("config-inited", prepare)
    app.connect("build-finished", inspect, priority=850)
