"""Colours for cells: Python after `%%px`, shell after `!`, line by line.

The lexer that comes with IPython takes the body of `%%px` for plain text and
calls a shell command over several lines an error.
"""

from ipython_pygments_lexers import IPython3Lexer
from pygments.lexer import bygroups, inherit, using
from pygments.lexers.python import PythonLexer
from pygments.lexers.shell import BashLexer
from pygments.token import Operator, Text
from sphinx.application import Sphinx

PX = (
    r"(?s)(\s*)(%%px)([^\n]*\n)(.*)",
    bygroups(Text, Operator, Text, using(PythonLexer)),
)
SHELL = (
    r"(?m)^([ \t]*)(!)((?:[^\n]*\\\n)*[^\n]*\n)",
    bygroups(Text, Operator, using(BashLexer)),
)


class CellLexer(IPython3Lexer):
    """IPython's, and it reads on after `%%px` and after `!... \\`."""

    tokens = {"root": [PX, SHELL, inherit]}  # noqa: RUF012


def register(app: Sphinx) -> None:
    """Put the lexer in the place of IPython's."""
    for name in ("ipython", "ipython3"):
        app.add_lexer(name, CellLexer)
