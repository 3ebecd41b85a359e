"""The entry points of Lab 1."""
