"""Answers over HTTP, and a page."""
