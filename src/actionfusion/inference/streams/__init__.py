"""Answers while a video runs."""
