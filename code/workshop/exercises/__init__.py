"""Exercises: what a reader completes, and the check of it."""
