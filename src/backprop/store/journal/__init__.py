"""The journal of a run: its entries, the run that they add up to, and the file."""
