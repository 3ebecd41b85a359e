"""Dense models for one device: the reference of every test."""
