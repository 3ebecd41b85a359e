"""What cells hold is coloured as what it is."""

import pytest
from pygments.token import Error, Keyword, Name, Token
from workshop_book.lexer import CellLexer

PX = "%%px\nimport torch\nx = 1\n"
LONG = "x = 1\n!OMP_NUM_THREADS=1 torchrun \\\n    -m a.b --steps 2\ny = 2\n"
SHORT = "!ls -l\nimport os\n"


@pytest.mark.parametrize("source", [PX, LONG, SHORT, "%time f()\n", "a!=b\n"])
def test_nothing_is_an_error_or_lost(source: str) -> None:
    tokens = list(CellLexer().get_tokens(source))
    assert Error not in [kind for kind, _ in tokens]
    assert "".join(text for _, text in tokens) == source


def test_python_after_px_and_after_a_shell_line() -> None:
    for source, word in ((PX, "import"), (SHORT, "import")):
        tokens = list(CellLexer().get_tokens(source))
        assert (Keyword.Namespace, word) in tokens
    kinds = {text: kind for kind, text in CellLexer().get_tokens(LONG)}
    assert kinds["y"] in (Name, Token.Name)
