"""The live view in the terminal: `app` is the screen, `texts` and `chart` turn records into what stands on it."""
