"""From names to checked files in the cache."""
