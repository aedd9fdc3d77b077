"""Checkpoints that the script is about to overwrite are kept until the new one is complete.

process_keeper.py   the keeper of this process, which is made when it is first needed
keeper.py           keeps files and folders before they are written to or replaced
kept_names.py       the names that they are kept under; the supervisor knows them, too
"""
