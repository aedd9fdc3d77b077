"""Where runs are kept: a directory each, which is the truth, and an index over all, which can be rebuilt."""
