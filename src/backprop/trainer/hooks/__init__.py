"""A package for each framework: import_hooks.py calls its `hook(module)` right after the framework was imported.

A hook drives the framework's training loop for the supervisor (`link.training`, `at_step_end`): through callbacks, and
by wrapping functions where the framework calls none. Comments say what is wrapped, and which line of the framework's
source makes it necessary.
"""
