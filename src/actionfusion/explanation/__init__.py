"""Predictions are explained: what the model saw, where, when, and in which stream."""
