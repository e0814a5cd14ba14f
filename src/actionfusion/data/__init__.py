"""A folder of videos becomes batches."""
