"""Find every launch command of the repository: pages, README, docstrings."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(
    r"^(?P<fence>`{3,}|:{3,})(?:bash|sh|shell|console"
    r"|\{code-block\}\s*(?:bash|sh|shell|console))\s*$"
)
LAUNCHERS = ("torchrun", "sbatch", "python -m workshop", "workshop ", "make ")
QUOTED = re.compile(
    r"`((?:torchrun|python -m workshop|workshop|make) [^`]*)`"
)
SUBSTITUTION = re.compile(r"\[[^\]]*\]")


@dataclass(frozen=True)
class Command:
    """A command line and where it stands."""

    text: str
    place: str

    @property
    def words(self) -> list[str]:
        """The command's words, without what stands in brackets."""
        words = shlex.split(SUBSTITUTION.sub("", self.text), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        return words


def joined(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the lines with continuations put together."""
    begin, text = 0, ""
    for number, line in lines:
        begin = begin if text else number
        text += line.strip().removeprefix("$ ")
        if text.endswith("\\"):
            text = text[:-1]
            continue
        if text and not text.startswith("#"):
            yield begin, text
        text = ""


def fenced(text: str) -> Iterator[tuple[int, str]]:
    """Yield the commands of the shell blocks of a Markdown text."""
    fence, block = "", []
    for number, line in enumerate(text.splitlines(), 1):
        if fence and line.strip() == fence:
            yield from joined(block)
            fence, block = "", []
        elif fence:
            if not re.match(r"^:[\w-]+:", line):
                block.append((number, line))
        elif match := FENCE.match(line.strip()):
            fence = match["fence"]


def documented(source: str) -> Iterator[tuple[int, str]]:
    """Yield the commands that open a line of a module's docstring."""
    text = ast.get_docstring(ast.parse(source), clean=False) or ""
    wanted, kept = False, []
    for number, line in enumerate(text.splitlines(), 1):
        shown = number == 1 or line.startswith("  ")
        bare = LAUNCHERS if shown else LAUNCHERS[:3]
        line = line.strip()
        if quoted := QUOTED.match(line):
            line = quoted[1]
        elif "`" in line or not (wanted or line.startswith(bare)):
            continue
        kept.append((number, line))
        wanted = line.endswith("\\")
    yield from joined(kept)


def commented(script: str) -> Iterator[tuple[int, str]]:
    """Yield the commands that the comments of a shell script show."""
    for number, line in enumerate(script.splitlines(), 1):
        text = line.lstrip("# ").strip()
        if line.startswith("#   ") and text.startswith(LAUNCHERS):
            yield number, text


def all_of(root: Path) -> list[Command]:
    """Return every command of the repository, each text once."""
    sources = [
        (fenced, [root / "README.md", *(root / "book").rglob("*.md")]),
        (documented, [*(root / "code").rglob("*.py")]),
        (documented, [*(root / "benchmarks").rglob("*.py")]),
        (commented, [*(root / "slurm").glob("*.sbatch")]),
    ]
    commands: dict[str, Command] = {}
    for read, paths in sources:
        for path in sorted(paths):
            for line, text in read(path.read_text()):
                place = f"{path.relative_to(root)}:{line}"
                commands.setdefault(text, Command(text, place))
    return list(commands.values())
