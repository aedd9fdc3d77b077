"""What a script writes, understood: JSON lines, printed metrics, progress, and when a line was written."""
