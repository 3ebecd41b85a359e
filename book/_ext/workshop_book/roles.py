"""Roles: a number from records, and a claim about them.

`{number}`EXPRESSION | UNIT | FORMAT`` shows a value; unit and format may be
left out. `{claim}`TEXT | EXPRESSION`` shows the text and fails the build
unless the expression is true. `{typed}`TEXT | REASON`` marks a number that
was not measured here and says why it may be typed.
"""

import re
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from workshop.errors import UserError
from workshop.records import expression
from workshop_book import problems, used, values


class recorded(nodes.inline):
    """Inline text that stands for a recorded number."""


class RecordRole(SphinxRole):
    """A role that reads records and reports what is wrong with them."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the text with its origin, or report and show the source."""
        try:
            text, origin, runs = self.read()
        except UserError as error:
            problems.report(
                self.env, self.env.docname, self.line(), str(error)
            )
            return [nodes.literal(self.rawtext, self.text)], []
        used.note(self.env, self.env.docname, list(runs))
        return [recorded(self.rawtext, text, origin=origin)], []

    def read(self) -> tuple[str, str, tuple]:
        """Return what to show, its origin, and the runs it came from."""
        raise NotImplementedError

    def line(self) -> int:
        """Return the line of the role, which may not open its paragraph."""
        source = Path(self.env.doc2path(self.env.docname)).read_text()
        words = r"\s+".join(map(re.escape, self.text.split()))
        marked = [
            source.count("\n", 0, match.start()) + 1
            for match in re.finditer(words, source)
        ]
        after = [number for number in marked if number >= self.lineno]
        return (after or marked or [self.lineno])[0]


class NumberRole(RecordRole):
    """Show the value of an expression over records."""

    def read(self) -> tuple[str, str, tuple]:
        """Evaluate and format."""
        parts = values.split(self.text, 1, 3, "expression | unit | format")
        value = values.number(self.env.app.workshop_runs, *parts)
        return value.text, value.origin, value.runs


class ClaimRole(RecordRole):
    """Show a text for as long as an expression over records is true."""

    def read(self) -> tuple[str, str, tuple]:
        """Evaluate and insist on the truth."""
        shape = "text | expression"
        text, claim = values.split(self.text, 2, 2, shape)
        runs = self.env.app.workshop_runs
        with runs.noting() as read:
            value = expression.evaluate(claim, runs.load)
            if not isinstance(value, bool):
                raise UserError(
                    f"the claim {text!r} rests on {claim!r}, which is "
                    f"{value!r}: a claim needs a comparison"
                )
            if not value:
                raise UserError(
                    f"the claim {text!r} is false: {claim!r} with "
                    f"{values.steps(claim, runs)}"
                )
            return text, values.origin(claim, "", read), tuple(read)


class TypedRole(SphinxRole):
    """Show a typed number, and its reason on hovering."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the text; `typed_numbers` has checked its shape."""
        text, _, reason = self.text.partition("|")
        return [
            recorded(
                self.rawtext,
                text.strip(),
                origin=f"typed: {reason.strip()}",
                classes=["typed"],
            )
        ], []


def visit_html(translator, node: recorded) -> None:
    """Open a span whose tooltip says where the number comes from."""
    classes = " ".join(["recorded", *node["classes"]])
    title = escape(node["origin"], quote=True).replace("\n", "&#10;")
    translator.body.append(f'<span class="{classes}" title="{title}">')


def depart_html(translator, node: recorded) -> None:
    """Close the span."""
    translator.body.append("</span>")


def pass_through(translator, node: recorded) -> None:
    """Show the text alone where there are no tooltips."""


def register(app: Sphinx) -> None:
    """Add the roles and their node."""
    plain = (pass_through, pass_through)
    app.add_node(
        recorded,
        html=(visit_html, depart_html),
        latex=plain,
        text=plain,
        man=plain,
        texinfo=plain,
    )
    app.add_role("number", NumberRole())
    app.add_role("claim", ClaimRole())
    app.add_role("typed", TypedRole())
