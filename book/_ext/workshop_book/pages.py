"""What every page would load for features that this book does not use."""

from docutils import nodes
from sphinx.application import Sphinx


def drop_thebe(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict,
    doctree: nodes.document | None,
) -> None:
    """Drop sphinx-thebe's scripts.

    It declares one constant twice, a syntax error on every page, and names
    a server on the internet.
    """
    context["script_files"][:] = [
        script
        for script in context["script_files"]
        if "THEBE_JS_URL" not in (script_attributes(script).get("body") or "")
        and "sphinx-thebe" not in str(getattr(script, "filename", script))
    ]
    context["css_files"][:] = [
        style
        for style in context["css_files"]
        if "sphinx-thebe" not in str(getattr(style, "filename", style))
    ]


def script_attributes(script: object) -> dict:
    """Return the attributes of a script of the page."""
    return getattr(script, "attributes", {})


def register(app: Sphinx) -> None:
    """Connect after the extensions that add scripts."""
    app.connect("html-page-context", drop_thebe, priority=900)
