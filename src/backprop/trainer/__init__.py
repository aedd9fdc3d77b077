"""Code that runs inside the trainer: standard library only, Python 3.9 and up.

    site/sitecustomize.py   Python runs it at its start, because the supervisor puts site/ in front of PYTHONPATH
      import_hooks.py       waits for a framework to be imported, and only then lets its hook in
        hooks/              a package a framework: drives its loop as the supervisor wishes
    api.py, loop.py         what a script gets that says `import backprop`
    link.py                 the link with the supervisor that all of them share; its files are in channel.py
      deferred_signals.py   signals wait for the end of a step or a save
      distributed.py        all processes of a training do the same at the same step
      pace.py               how long steps and saves take
    checkpoints.py          the API's checkpoints: checkpoint_io.py is what is in them
    rng_state.py            random states
    atomic_files.py         files that are whole or not there

In a script that Backprop runs this package goes by the name `_backprop_trainer`, and the rest of Backprop is not there:
it may live in another environment, of another Python, and a script may well have a `backprop.py` of its own. Hence
modules here import one another relatively, and nothing else of Backprop.

Nothing here may ever be why a script fails: see failsafe.py.
"""
