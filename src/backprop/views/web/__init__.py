"""The page: a server for one user's browser, on this machine. See app.py for what it answers."""
