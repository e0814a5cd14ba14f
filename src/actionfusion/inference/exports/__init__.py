"""A run as a model for other programs."""
