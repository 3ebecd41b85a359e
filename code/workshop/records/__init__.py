"""Describe, submit, record, load and check runs."""
