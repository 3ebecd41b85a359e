"""What the notebooks of the book need: recorded cells, shells, ranks."""
