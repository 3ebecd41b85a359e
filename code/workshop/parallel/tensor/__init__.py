"""Tensor parallelism: every layer split over the ranks of a group."""
