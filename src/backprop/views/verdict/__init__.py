"""Whether one set of runs is better than another."""
