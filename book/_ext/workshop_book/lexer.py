"""Colours for `%%px` cells: their body is Python, run by every rank."""

from ipython_pygments_lexers import IPython3Lexer
from pygments.lexer import bygroups, inherit, using
from pygments.lexers.python import PythonLexer
from pygments.token import Operator, Text
from sphinx.application import Sphinx


def with_px(base: type) -> type:
    """Return an IPython lexer that reads on after the line `%%px`."""
    rule = (
        r"(?s)(\s*)(%%px)([^\n]*\n)(.*)",
        bygroups(Text, Operator, Text, using(PythonLexer)),
    )
    tokens = {"root": [rule, inherit]}
    return type(f"Px{base.__name__}", (base,), {"tokens": tokens})


def register(app: Sphinx) -> None:
    """Put the lexer in the place of IPython's."""
    for name in ("ipython", "ipython3"):
        app.add_lexer(name, with_px(IPython3Lexer))
