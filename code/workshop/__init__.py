"""Model Parallelism Workshop: the code that the book explains and runs."""

import os

__version__ = "0.1.0"

if "WORKSHOP_LOADED" in os.environ:
    from workshop import loaded

    loaded.begin()
