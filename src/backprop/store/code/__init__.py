"""The code that a run executed: git, hashes and patches, kept in its run directory."""
