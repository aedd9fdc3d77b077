"""Checkpoints that a script writes by itself, with whatever library."""
