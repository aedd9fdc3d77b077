"""Sweeps: runs whose parameters a search proposes, within a budget of training time."""
