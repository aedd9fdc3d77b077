"""Parameters of the run: what parsers in the trainer have parsed, or else what the command line looks like."""
