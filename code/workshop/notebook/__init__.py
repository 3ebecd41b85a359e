"""What the notebooks of the book need: recorded cells, shells, ranks."""

from workshop.notebook.recorded import recorded

__all__ = ["recorded"]
