"""What the notebooks of the book need: recorded cells, shells, ranks."""

from workshop.notebook.ranks import start_ranks
from workshop.notebook.shell import sh

__all__ = ["sh", "start_ranks"]
