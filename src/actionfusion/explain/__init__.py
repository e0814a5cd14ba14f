"""Answers become reasons: what the network saw, where, when, and in which stream."""
