"""What happens when in a video that is not cut to one action."""
