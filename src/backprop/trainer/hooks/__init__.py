"""One hook a framework: import_hooks.py calls its `hook(module)` when the framework has been imported.

A hook drives the framework's loop on behalf of the supervisor (`link.training`, `at_step_end`), through callbacks
where there are some and by wrapping functions where there are none. What it wraps it names, with the place in the
framework's source that made it necessary.
"""
