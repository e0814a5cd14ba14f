"""Turn a folder of videos into batches."""
