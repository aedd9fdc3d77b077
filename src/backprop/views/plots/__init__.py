"""Curves as a plot: what to draw, and how a terminal, a file and a page draw it."""
