"""Measures the numbers that the design promises."""
