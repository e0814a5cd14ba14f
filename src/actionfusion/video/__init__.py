"""A file becomes a clip."""
