"""Production libraries beside ours, each in a folder."""
