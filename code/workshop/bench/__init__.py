"""Measurements that entry points share: contestants, turns, links."""
