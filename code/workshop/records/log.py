"""The log of a run: what it printed, without this machine's folders."""

import os
import re
import sys
from pathlib import Path

_CAUSE = re.compile(r"(?:\[rank\d+\]: ?)?(error: .*|[\w.]*Error: .*)")


class Log:
    """Write lines to a file and to standard output.

    Folders of the machine are replaced by short names, so that a log says
    the same wherever the checkout lies and names no person's home.
    """

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        # The first line that names an error, for the record of a failure.
        self.cause = ""
        self._file = path.open("w", encoding="utf-8")
        folders = [
            (str(root), "."),
            (sys.prefix, "PYTHON"),
            (sys.base_prefix, "PYTHON"),
            (os.path.expanduser("~"), "~"),
        ]
        self._folders = [
            (folder, name) for folder, name in folders if len(folder) > 4
        ]

    def __call__(self, line: str, show: bool = True) -> None:
        """Write one line to the file and, unless told otherwise, show it."""
        line = self.clean(line)
        if not self.cause and (match := _CAUSE.fullmatch(line)):
            self.cause = match[1]
        self._file.write(line + "\n")
        self._file.flush()
        if show:
            print(line, flush=True)

    def clean(self, text: str) -> str:
        """Return a text without the folders of this machine."""
        for folder, name in self._folders:
            text = text.replace(folder, name)
        return text

    def close(self) -> None:
        """Close the file: what follows would not be part of the record."""
        self._file.close()
