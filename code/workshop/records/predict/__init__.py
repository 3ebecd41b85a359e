"""Predictions of runs from records of other runs; nothing here draws."""
