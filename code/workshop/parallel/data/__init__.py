"""Data parallelism: a copy of the model on every rank."""
