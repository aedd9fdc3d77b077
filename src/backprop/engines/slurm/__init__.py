"""Slurm as an engine: its programs, what they answer, and how the nodes of a job find one another."""
