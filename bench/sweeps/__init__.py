"""Compares `backprop sweep` with random search, Optuna and Ray Tune: same scripts, search spaces, budget and cores."""
