"""What the notebooks of the book need: recorded cells, shells, ranks."""

from workshop.notebook.ranks import start_ranks
from workshop.notebook.recorded import recorded
from workshop.notebook.shell import sh

__all__ = ["recorded", "sh", "start_ranks"]
