"""Machines that the tests pretend to have."""
