"""The trainer's processes: started, found, signalled, measured and ended."""
