"""What becomes of a run, from its submission to its last session."""
