"""Measures the numbers that the design promises: real processes, against the bare script, in one go."""
