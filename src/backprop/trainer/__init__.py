"""Code that runs inside the trainer: standard library only, Python 3.9 and up.

    site/sitecustomize.py   Python runs it at its start, because the supervisor puts site/ in front of PYTHONPATH
      imports.py            waits for a framework to be imported, and only then lets its hook in
        huggingface.py ...  one hook a framework
      session.py            the link with the supervisor that all of them share
    api.py                  what a script gets that says `import backprop`
      loop.py               its loop over epochs and batches
      session_save.py       a save of a session: by rank 0, with a part of each other rank, reported
      checkpoint.py         state <-> file
      randomness.py         random states, taken and put back

In a script that Backprop runs this package goes by the name `_backprop_trainer`, and the rest of Backprop is not there:
it may live in another environment, of another Python, and a script may well have a `backprop.py` of its own. Hence
modules here import one another relatively, and nothing else of Backprop.

Nothing here may ever be why a script fails: see failsafe.py.
"""
