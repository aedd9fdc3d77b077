"""What held a run back: the evidence of its record, and rules that read it."""
