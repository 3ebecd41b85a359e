"""Note which sources of this checkout a process really loads.

A job names a folder in `WORKSHOP_LOADED`; every process that imports the
package then keeps a file there, one path a line: each module of `code/` when
it is imported, so that a process which is killed has left its list, and at
its end every other source of the checkout that it holds, tests above all.
"""

import atexit
import os
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

FOLDER = "WORKSHOP_LOADED"


class Noter(MetaPathFinder):
    """Looks on while modules are imported, and finds none itself."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.root = root
        name = f"{os.uname().nodename}.{os.getpid()}"
        self.file = (folder / name).open("a", buffering=1)
        self.seen: set[Path] = set()
        self.note_all()
        atexit.register(self.note_all)

    def find_spec(self, name: str, path=None, target=None) -> None:
        """Note a module that lies under code/; others load it."""
        place = self.root.joinpath("code", *name.split("."))
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            self.note(file)

    def note_all(self) -> None:
        """Note every source of the checkout among the loaded modules."""
        for module in list(sys.modules.values()):
            if file := getattr(module, "__file__", None):
                self.note(Path(file))

    def note(self, file: Path) -> None:
        """Write a source of the checkout down, once."""
        if file in self.seen or file.suffix != ".py":
            return
        self.seen.add(file)
        inside = file.is_relative_to(self.root)
        if inside and ".venv" not in file.parts and file.is_file():
            self.file.write(f"{file.relative_to(self.root).as_posix()}\n")


def begin() -> None:
    """Note what this process loads, if a job asks for it."""
    folder, root = os.environ.get(FOLDER), os.environ.get("WORKSHOP_ROOT")
    if folder and root:
        sys.meta_path.insert(0, Noter(Path(folder), Path(root)))


def read(folder: Path) -> set[str]:
    """Return the paths that the processes of a job noted in its folder."""
    lines = [file.read_text().splitlines() for file in folder.glob("*")]
    return {path for each in lines for path in each}
