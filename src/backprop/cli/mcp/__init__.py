"""The server that coding agents talk to: tools, each of them a command line."""
