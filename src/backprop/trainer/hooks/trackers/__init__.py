"""Trackers: what a script logs to them is recorded as metrics, and a resumed session continues their runs.

Each hook adds a tap after the function that takes a scalar. The tracker has converted tensors by then, so that no
conversion of ours waits for a GPU.
"""
