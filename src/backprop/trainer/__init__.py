"""Code that runs inside the training process: standard library only, Python 3.9 and up.

    site/sitecustomize.py   Python runs it when an interpreter starts: the supervisor puts site/ first in PYTHONPATH
      import_hooks.py       waits for frameworks to be imported, and loads the hook of each that is
      file_events.py        which files the script opens and renames
      module_sources.py     which of the user's modules are imported; imports from a run's snapshot
      failsafe.py           a failure of ours never fails the script
    hooks/                  a package for each framework: drives its loop for the supervisor
    api.py, loop.py         what a script gets that says `import backprop`
      checkpoints.py        their checkpoints; checkpoint_io.py has the file format
    link.py                 the link with the supervisor that all of them share; its files are in channel.py
      step_reports.py       metrics, and how far training has got
      pace.py               how long steps and saves take
      deferred_signals.py   signals wait for the end of a step or a save
      distributed.py        the rank of this process
      step_agreement.py     all ranks save and stop at the same step
    parameters/             what the script's parsers parsed, without secrets
    tracked.py              what it logs to other trackers; tracker_runs.py lets a resumed session continue their runs
      save_marks.py         from where a resumed session counts on
    trainings/              which training, and which process, a checkpoint belongs to
    overwrites/             checkpoints that are about to be overwritten are kept
    rng_state.py            states of random number generators
    atomic_files.py         files that are complete or not there; plain_files.py opens those of a run's directory

In a script that Backprop runs, this package is called `_backprop_trainer`, and the rest of Backprop is not there: it
may be installed in another environment, for another Python, and the script may have a `backprop.py` of its own. So
modules here import one another relatively, and nothing else of Backprop.
"""
