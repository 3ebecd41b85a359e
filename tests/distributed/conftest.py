"""The rank pools for every distributed test."""

from pool import pool2, pool4, pool8

__all__ = ["pool2", "pool4", "pool8"]
