"""What draws: figures from records, formulas and traces."""
