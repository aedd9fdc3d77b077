"""Options and configuration keys that take the checkpoint to resume from, in the parsers of many libraries."""
