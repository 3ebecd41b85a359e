"""The directive `run-table`: rows are runs, columns are expressions.

    ```{run-table} What the table shows, as a conclusion.
    :name: tab-scaling

    rows:
    one GPU | lab1/gpt-1.3b-1gpu
    two GPUs | lab1/gpt-1.3b-2gpu
    columns:
    throughput | k tokens/s | row.tokens_per_s / 1e3 | .1f
    per GPU, of one | % | 100 * row.mfu / run("lab1/gpt-1.3b-1gpu").mfu | .1f
    ```

In a column's expression `row` is the run of the row.
"""

import ast

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx

from workshop.errors import UserError
from workshop_book import provenance, values
from workshop_book.roles import recorded

HEADINGS = ("rows", "columns")


class _Row(ast.NodeTransformer):
    """Replace the name `row` by the run of one row."""

    def __init__(self, name: str) -> None:
        self._call = f"run({name!r})"

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Put the call where the name stood."""
        if node.id != "row":
            return node
        return ast.parse(self._call, mode="eval").body


def of_row(expression: str, name: str) -> str:
    """Return an expression with `row` as the run called `name`."""
    try:
        tree = ast.parse(expression, mode="eval")
    except SyntaxError as error:
        raise UserError(
            f"{expression!r} is not an expression: {error.msg}"
        ) from None
    return ast.unparse(_Row(name).visit(tree))


def sections(lines: list[str]) -> dict[str, list[str]]:
    """Return the lines under `rows:` and under `columns:`."""
    by_heading: dict[str, list[str]] = {}
    under = ""
    for line in (line.strip() for line in lines):
        if line.removesuffix(":") in HEADINGS and line.endswith(":"):
            under = line[:-1]
            by_heading[under] = []
        elif line and not under:
            raise UserError(f"run-table has {line!r} before `rows:`")
        elif line:
            by_heading[under].append(line)
    for heading in HEADINGS:
        if not by_heading.get(heading):
            raise UserError(f"run-table has nothing under `{heading}:`")
    return by_heading


class RunTable(provenance.RecordDirective):
    """A numbered table whose every number is taken from records."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {  # noqa: RUF012
        "name": directives.unchanged,
        "stub": directives.unchanged,
    }

    def read(self) -> list[nodes.Node]:
        """Return the table, its caption and a banner if it is stale."""
        parts = sections(list(self.content))
        rows = [
            values.split(line, 2, 2, "label | run") for line in parts["rows"]
        ]
        columns = [
            values.split(line, 3, 4, "title | unit | expression | format")
            for line in parts["columns"]
        ]
        with self.env.app.workshop_runs.noting() as read:
            for _, name in rows:
                self.env.app.workshop_runs.load(name)
            body = [self._row(row, columns) for row in rows]
        heads = [self.options.get("stub", "")]
        heads += [
            f"{title} ({unit})" if unit else title
            for title, unit, *_ in columns
        ]
        table = self._table(heads, body)
        self.set_source_info(table)
        return [table, *provenance.stale_note(read)]

    def _row(self, row: list[str], columns: list[list[str]]) -> list:
        label, name = row
        cells: list[nodes.Node] = [nodes.Text(label)]
        for _, unit, text, *style in columns:
            value = values.number(
                self.env.app.workshop_runs, of_row(text, name), "", *style
            )
            plain = value.text.split("\N{NO-BREAK SPACE}")[0]
            cells.append(recorded("", plain, origin=value.origin))
        return cells

    def _table(self, heads: list[str], body: list[list]):
        table = nodes.table(classes=["run-table"])
        caption, messages = self.state.inline_text(
            self.arguments[0], self.lineno
        )
        table += nodes.title("", "", *caption, *messages)
        group = nodes.tgroup(cols=len(heads))
        group += [nodes.colspec(colwidth=1) for _ in heads]
        group += nodes.thead("", row_of([nodes.Text(head) for head in heads]))
        group += nodes.tbody("", *(row_of(cells) for cells in body))
        table += group
        self.add_name(table)
        return table


def row_of(cells: list[nodes.Node]) -> nodes.row:
    """Return a row; all cells but the first are aligned as numbers."""
    row = nodes.row()
    for number, cell in enumerate(cells):
        classes = ["number"] if number else []
        row += nodes.entry("", nodes.paragraph("", "", cell), classes=classes)
    return row


def register(app: Sphinx) -> None:
    """Add the directive."""
    app.add_directive("run-table", RunTable)
