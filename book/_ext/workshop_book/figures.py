"""The directive `run-figure`: an SVG that a function draws from runs.

    ```{run-figure} lab1/bandwidth-one-node lab1/bandwidth-two-nodes
    :draw: workshop.figures.charts.bandwidth_curve
    :alt: What the picture shows, for those who do not see it.
    :name: fig-bandwidth

    The caption states the conclusion.
    ```

The function gets the runs in order and returns a matplotlib figure. The SVG
stands in the page itself; its text and axes take the page's own colour.
"""

import hashlib
import importlib
import re
from html import escape

from docutils import nodes
from docutils.parsers.rst import directives
from matplotlib.figure import Figure
from sphinx.application import Sphinx

from workshop.errors import UserError
from workshop.figures import style
from workshop_book import provenance


def function(path: str):
    """Import the function that `package.module.name` stands for."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f":draw: {path!r} cannot be imported: {error}"
        ) from None


def svg(figure: Figure, alt: str, key: str) -> str:
    """Return a figure as SVG to stand in a page, in light and in dark.

    Identifiers get a prefix of their own, since a page holds several SVGs.
    """
    text = style.svg(figure)
    text = text[text.index("<svg") :].replace(style.TEXT, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    own = "f" + hashlib.sha256(key.encode()).hexdigest()[:8]
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{own}-", text)
    label = escape(alt, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


class RunFigure(provenance.RecordDirective):
    """A numbered figure drawn from records when the page is read."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {  # noqa: RUF012
        "draw": directives.unchanged_required,
        "alt": directives.unchanged_required,
        "name": directives.unchanged,
    }

    def read(self) -> list[nodes.Node]:
        """Return the figure, its caption and a banner if it is stale."""
        caption = " ".join(line.strip() for line in self.content).strip()
        for what, given in (
            ("a :draw: function", self.options.get("draw")),
            ("an :alt: text", self.options.get("alt")),
            ("a caption", caption),
        ):
            if not given:
                raise UserError(f"run-figure needs {what}")
        runs = self.runs(self.arguments[0])
        draw = function(self.options["draw"])
        figure = draw(*runs)
        if not isinstance(figure, Figure):
            raise UserError(
                f"{self.options['draw']} returned {figure!r} and not a "
                "matplotlib figure"
            )
        key = f"{self.options['draw']} {self.arguments[0]}"
        picture = svg(figure, self.options["alt"], key)
        return self._nodes(picture, caption, runs)

    def _nodes(self, picture: str, caption: str, runs: list) -> list:
        text, messages = self.state.inline_text(caption, self.lineno)
        figure = nodes.figure(classes=["run-figure"])
        figure += nodes.raw(
            "",
            f'<div class="drawing" tabindex="0">{picture}</div>',
            format="html",
        )
        figure += nodes.caption("", "", *text, *messages)
        self.set_source_info(figure)
        self.add_name(figure)
        return [figure, *provenance.stale_note(runs)]


def register(app: Sphinx) -> None:
    """Add the directive."""
    app.add_directive("run-figure", RunFigure)
