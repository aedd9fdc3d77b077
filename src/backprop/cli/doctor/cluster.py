"""The Slurm cluster that this machine submits to, where it does."""

import shutil
from collections.abc import Iterator, Mapping

from backprop import host
from backprop.cli.doctor.findings import note, ok
from backprop.engines.base import Phase
from backprop.engines.slurm import client as slurm_client
from backprop.engines.slurm.client import Job, JobIsOverError, SlurmError
from backprop.records import Finding
from backprop.store import filesystem
from backprop.store.home import Home

_QUESTIONS = 20  # about single jobs, at most


def slurm() -> Iterator[Finding]:
    """Whether `--on slurm` has what it takes. No problem if not: many machines have its commands and no cluster."""
    missing = [program for program in slurm_client.PROGRAMS if shutil.which(program) is None]
    if len(missing) == len(slurm_client.PROGRAMS):
        yield ok("slurm", "not found: runs stay on this machine")
        return
    if missing:
        yield note(
            "slurm",
            f"{', '.join(missing)} not found on PATH: --on slurm needs them",
            "Install Slurm's client commands (Debian: slurm-client), or load the module that has them.",
        )
        return
    try:
        version = slurm_client.version()
        jobs = slurm_client.jobs(host.user())
    except SlurmError as error:
        yield note("slurm", str(error), "Ask the controller yourself: scontrol ping. Runs on this machine need none.")
        return
    count = sum(job.phase is not Phase.ENDED for job in jobs.values())
    yield ok("slurm", f"{version} answers; {count} Backprop {'job' if count == 1 else 'jobs'}")
    yield from _home()
    yield from _forgotten(jobs)


def _forgotten(jobs: Mapping[str, Job]) -> Iterator[Finding]:
    """Jobs are submitted held, and released a moment later, unless the submitting process is killed in between."""
    held = [job.id for job in jobs.values() if job.phase is Phase.PENDING and job.reason == slurm_client.HELD]
    forgotten = []
    for job_id in held[:_QUESTIONS]:
        try:
            forgotten += [] if slurm_client.was_ever_released(job_id) else [job_id]
        except JobIsOverError:  # meanwhile
            continue
        except SlurmError:  # Slurm does not answer any more
            return
    if forgotten:
        more = f" (of {len(held)} that are held, {_QUESTIONS} were looked at)" if len(held) > _QUESTIONS else ""
        yield note(
            "slurm",
            f"held, and never released: {', '.join(forgotten)}{more}. Who submitted them was killed, or is at work",
            "In a minute `backprop list` releases jobs that belong to a run. Cancel what is still held after that: "
            f"scancel {' '.join(forgotten)}",
        )


def _home() -> Iterator[Finding]:
    """The nodes must find the runs where this machine puts them."""
    path = Home.from_environment().path
    mount = filesystem.mount_of(path, filesystem.mounts())
    if mount is not None and not filesystem.is_shared(mount.kind):
        yield note(
            "slurm",
            f"{path} is on a disk of this machine ({mount.kind}): a job on another machine does not find its run there",
            "Set BACKPROP_HOME to a folder that login machine and nodes share, unless this is the only node.",
        )
