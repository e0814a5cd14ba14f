"""Answers become figures."""
