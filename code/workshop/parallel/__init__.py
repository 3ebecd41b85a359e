"""The parallel strategies, one file each."""
