"""Slurm as an engine: its commands, their answers, and how the nodes of a job find one another."""
