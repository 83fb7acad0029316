"""Chat templates that nobody has read."""
