"""The parsers of many libraries: options and keys that take the checkpoint to resume from, and what was parsed."""
