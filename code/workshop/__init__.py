"""Model Parallelism Workshop: the code that the book explains and runs."""

__version__ = "0.1.0"
