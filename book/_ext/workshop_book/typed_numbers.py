"""Find measured numbers that someone typed: a number with a unit in prose.

A number may come from a role, may stand in a sentence with a citation, or
may be marked: `{typed}`12 GB | why it may be typed``. Code, literal text and
formulas are not prose, except for a unit set as text in a formula.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.deflist import deflist_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.front_matter import front_matter_plugin
from mdit_py_plugins.myst_blocks import myst_block_plugin
from mdit_py_plugins.myst_role import myst_role_plugin
from sphinx.application import Sphinx

from workshop import paths
from workshop_book import problems, units

NOT_PROSE = {
    "bibliography", "code", "code-block", "code-cell", "highlight",
    "literalinclude", "raw", "run-provenance", "run-table", "runs-status",
    "sourcecode", "tableofcontents", "toctree",
}  # fmt: skip
BACKED = {"number", "claim", "typed"}
CITE = "\x01"
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9(\[`*_\x01])|\n")
OPTION = re.compile(r"^:([\w-]+):\s*(.*)$")
PROSE_OPTIONS = {"alt", "caption"}
DIRECTIVE = re.compile(r"^\{([\w:.-]+)\}\s*(.*)$")


@dataclass(frozen=True)
class Finding:
    """A typed number, or a marked one without a reason."""

    line: int
    text: str


def typed(line: int, text: str) -> Finding:
    """Return the finding for a number with a unit."""
    return Finding(
        line,
        f"{text!r} is a typed measurement: take it from a record with "
        "{number}, cite its source in the same sentence, or mark it "
        "with {typed}`... | reason`",
    )


@cache
def _parser() -> MarkdownIt:
    return (
        MarkdownIt("commonmark")
        .enable(["table", "strikethrough"])
        .use(front_matter_plugin)
        .use(myst_block_plugin)
        .use(myst_role_plugin)
        .use(dollarmath_plugin)
        .use(colon_fence_plugin)
        .use(deflist_plugin)
    )


def find(text: str) -> list[Finding]:
    """Return the typed numbers of a Markdown text, by line."""
    return sorted(_blocks(text, 0), key=lambda finding: finding.line)


def _blocks(text: str, offset: int) -> Iterator[Finding]:
    tokens = _parser().parse(text)
    row: list[Token] = []
    in_row = False
    for token in tokens:
        if token.type == "tr_open":
            row, in_row = [], True
        elif token.type == "tr_close":
            in_row = False
            cited = any(CITE in _visible(cell)[0] for cell in row)
            for cell in row:
                yield from _inline(cell, offset, cited)
        elif token.type == "inline" and in_row:
            row.append(token)
        elif token.type == "inline":
            yield from _inline(token, offset, False)
        elif token.type in ("fence", "colon_fence"):
            yield from _fence(token, offset)
        elif token.type in ("math_block", "math_block_label", "amsmath"):
            yield from _math(token.content, _line(token, offset))


def _line(token: Token, offset: int) -> int:
    return offset + (token.map[0] if token.map else 0) + 1


def _fence(token: Token, offset: int) -> Iterator[Finding]:
    directive = DIRECTIVE.match(token.info.strip())
    if not directive:
        return
    name, argument = directive.groups()
    line = _line(token, offset)
    if name == "math":
        yield from _math(token.content, line)
        return
    yield from _blocks(argument, line - 1)
    if name in NOT_PROSE:
        return
    body, kept = token.content.split("\n"), []
    heading = True
    for number, text in enumerate(body):
        option = OPTION.match(text) if heading else None
        if option and option[1] in PROSE_OPTIONS:
            yield from _blocks(option[2], line + number)
        heading = heading and (bool(option) or not text.strip())
        kept.append("" if option else text)
    yield from _blocks("\n".join(kept), line)


def _visible(token: Token) -> tuple[str, list[str]]:
    """Return the prose of an inline token, and its formulas."""
    out: list[str] = []
    formulas: list[str] = []
    for child in token.children or []:
        if child.type in ("text", "text_special"):
            out.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            out.append("\n")
        elif child.type == "myst_role":
            name = child.meta["name"]
            if name.startswith("cite"):
                out.append(CITE)
            elif name == "typed":
                out.append(_reasonless(child.content))
            elif name not in BACKED:
                out.append("\x02" + "\n" * child.content.count("\n"))
        elif child.type == "math_inline":
            formulas.append(child.content)
            out.append("\x02")
        elif child.type == "image":
            out.append(f" {child.content} ")
        elif child.type == "code_inline":
            out.append("\x02")
    return "".join(out), formulas


def _reasonless(content: str) -> str:
    """Return the number of an exception that gives no reason."""
    number, _, reason = content.partition("|")
    return "" if len(reason.strip()) > 3 else f"\x03{number.strip()}\x03"


def _inline(token: Token, offset: int, cited: bool) -> Iterator[Finding]:
    line = _line(token, offset)
    text, formulas = _visible(token)
    for number in re.findall("\x03([^\x03]*)\x03", text):
        yield Finding(
            line + text[: text.index(f"\x03{number}\x03")].count("\n"),
            f"{{typed}}`{number}` gives no reason: write "
            f"{{typed}}`{number} | why it may be typed`",
        )
    text = re.sub("\x03[^\x03]*\x03", "", text)
    begin = 0
    for end in [m.end() for m in SENTENCE.finditer(text)] + [len(text)]:
        sentence = text[begin:end]
        if not cited and CITE not in sentence:
            for match in units.MEASURED.finditer(sentence):
                breaks = text[: begin + match.start()].count("\n")
                yield typed(line + breaks, match[0])
        begin = end
    if not cited and CITE not in text:
        for formula in formulas:
            yield from _math(formula, line)


def _math(text: str, line: int) -> Iterator[Finding]:
    for match in units.IN_MATH.finditer(text):
        yield typed(line + text[: match.start()].count("\n"), match[0])


def check_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Report the typed numbers of a page that is about to be read."""
    for finding in find(source[0]):
        problems.report(app.env, docname, finding.line, finding.text)


def check_readme(app: Sphinx) -> None:
    """Report the typed numbers of the README, at every build."""
    readme = paths.root() / "README.md"
    if not readme.is_file():
        return
    for finding in find(readme.read_text()):
        problems.say(app, f"README.md:{finding.line}", finding.text)


def register(app: Sphinx) -> None:
    """Connect to the events of a build."""
    app.connect("builder-inited", check_readme)
    app.connect("source-read", check_page)
