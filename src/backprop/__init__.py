"""Backprop: run training scripts in short, safe sessions.

Training scripts may import this package, so it loads nothing but itself.
"""

__version__ = "0.1.0"
