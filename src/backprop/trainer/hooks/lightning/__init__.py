"""The hook for Lightning 2.x, under both its names."""
