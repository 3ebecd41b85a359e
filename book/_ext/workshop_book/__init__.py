"""The book's own Sphinx extension: numbers, tables and figures from records.

Nothing measured is typed into a page. Roles and directives read the records
under `book/runs`; a claim is an expression over them and its falsehood fails
the build, as a missing, failed or altered record does.
"""

from sphinx.application import Sphinx

from workshop_book import (
    accessible,
    cache,
    figures,
    leaks,
    lexer,
    mathjax,
    notebooks,
    pages,
    problems,
    provenance,
    roles,
    stale,
    status,
    tables,
    typed_numbers,
    used,
)


def setup(app: Sphinx) -> dict[str, object]:
    """Register everything with Sphinx."""
    for part in (
        problems,
        used,
        cache,
        roles,
        provenance,
        tables,
        figures,
        status,
        stale,
        typed_numbers,
        lexer,
        mathjax,
        notebooks,
        pages,
        accessible,
        leaks,
    ):
        part.register(app)
    return {
        "version": "1",
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
