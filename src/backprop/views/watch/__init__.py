"""The live view in the terminal: `app` is the screen, `texts` and `chart` render records."""
