"""Mechanisms for answering for one trainer: start it, read what it writes, end it and all its descendants."""
