"""Runs as documents for programs: JSON and CSV."""
