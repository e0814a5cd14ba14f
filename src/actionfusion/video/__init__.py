"""Turn a file into a clip."""
