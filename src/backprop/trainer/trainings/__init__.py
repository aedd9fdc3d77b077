"""Which training, and which process, a checkpoint belongs to, so that a script with several resumes each from its own.

identity.py      decides whether a checkpoint continues the training that begins now
fingerprint.py   short digests of data, weights, settings and source locations, for identities
registry.py      the trainings of a run over all its sessions, and the checkpoints of each
finished.py      checkpoints of finished trainings, which later sessions need not train again
savers.py        which process of a run saved a checkpoint
"""
