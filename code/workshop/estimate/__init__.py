"""Formulas in pure Python, no torch: parameters, FLOPs, hardware."""
