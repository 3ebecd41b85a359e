"""A page's text as the plain Markdown of a notebook.

It is written from the page as built, in which every role has its value,
every citation its authors and every listing its code: a notebook that is
opened elsewhere knows none of them.
"""

from docutils import nodes
from sphinx import addnodes

SILENT = (
    nodes.comment,
    nodes.raw,
    nodes.system_message,
    nodes.target,
    nodes.substitution_definition,
    addnodes.toctree,
    addnodes.index,
)
MARKS = ((nodes.strong, "**"), (nodes.emphasis, "*"), (nodes.math, "$"))


def inline(node: nodes.Node) -> str:
    """Return text inside a line."""
    if isinstance(node, nodes.Text):
        return node.astext()
    if isinstance(node, SILENT):
        return ""
    if isinstance(node, nodes.literal):
        text = node.astext()
        return f"`` {text} ``" if "`" in text else f"`{text}`"
    if isinstance(node, nodes.image):
        return f"(picture: {node['alt']})" if node.get("alt") else ""
    inside = "".join(map(inline, node.children))
    for kind, mark in MARKS:
        if isinstance(node, kind):
            return f"{mark}{inside}{mark}"
    if isinstance(node, nodes.footnote_reference):
        return f"[{inside}]"
    address = node.get("refuri", "")
    if isinstance(node, nodes.reference) and address.startswith("http"):
        return f"[{inside}]({address})"
    return inside


def block(node: nodes.Node, level: int = 1) -> str:
    """Return a block and what it holds; `level` is that of its heading."""
    if isinstance(node, SILENT) or "cell_output" in node.get("classes", ()):
        return ""
    if isinstance(node, nodes.section):
        return blocks(node.children, level + 1)
    if isinstance(node, nodes.title):
        return f"{'#' * max(level - 1, 1)} {inline(node)}"
    if isinstance(node, nodes.literal_block):
        language = node.get("language", "")
        language = {"default": "", "ipython3": "python"}.get(
            language, language
        )
        fence = "````" if "```" in node.astext() else "```"
        return f"{fence}{language}\n{node.astext()}\n{fence}"
    if isinstance(node, nodes.math_block):
        return f"$$\n{node.astext().strip()}\n$$"
    if isinstance(node, nodes.Admonition):
        return quoted(node, level)
    if isinstance(node, nodes.bullet_list | nodes.enumerated_list):
        return listed(node, level)
    if isinstance(node, nodes.table):
        return table(node)
    if isinstance(node, nodes.caption):
        return f"*{inline(node).replace('*', '')}*"
    if isinstance(node, nodes.TextElement | nodes.image):
        return inline(node)
    return blocks(node.children, level)


def blocks(children: list[nodes.Node], level: int = 1) -> str:
    """Return blocks with an empty line between them."""
    texts = (block(child, level) for child in children)
    return "\n\n".join(text for text in texts if text.strip())


def quoted(node: nodes.Admonition, level: int) -> str:
    """Return a box as a quotation, its title in bold."""
    rest = list(node.children)
    title = ""
    if rest and isinstance(rest[0], nodes.title):
        title = f"**{inline(rest.pop(0))}**"
    elif type(node).__name__ in ("note", "tip", "warning", "important"):
        title = f"**{type(node).__name__.title()}**"
    text = "\n\n".join(filter(None, (title, blocks(rest, level))))
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def listed(node: nodes.Element, level: int) -> str:
    """Return a list, each item's later lines under its first."""
    items = []
    for number, item in enumerate(node.children, start=1):
        numbered = isinstance(node, nodes.enumerated_list)
        mark = f"{number}. " if numbered else "- "
        indent = "\n" + " " * len(mark)
        text = blocks(item.children, level)
        items.append(mark + indent.join(text.splitlines()))
    return "\n".join(items)


def table(node: nodes.table) -> str:
    """Return a table, its caption above it."""
    rows = [
        [
            " ".join(block(entry).split()).replace("|", "\\|")
            for entry in row.children
        ]
        for row in node.findall(nodes.row)
    ]
    if not rows:
        return ""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    titles = [inline(title) for title in node.findall(nodes.title)]
    return "\n\n".join([*titles, "\n".join(lines)])
