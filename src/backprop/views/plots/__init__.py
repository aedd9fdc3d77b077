"""Plots of curves: a model, and its rendering in a terminal, a picture and a page."""
