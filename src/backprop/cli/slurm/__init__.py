"""Runs on a Slurm cluster as the command line sees them: submitted, followed, and the job itself."""
