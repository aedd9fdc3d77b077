"""How the trainers on several nodes find one another: what torchrun and most launchers read from the environment."""

from collections.abc import Mapping

from backprop.engines.slurm import client as slurm_client

_FIRST_PORT, _PORT_COUNT = 20_000, 10_000  # below the ephemeral ports of Linux, above the well-known ones


def launcher(environment: Mapping[str, str], nodes: int) -> tuple[str, ...]:
    """The arguments before a command that start it once on each node of this job, with all that the job has there.

    SIGINT is passed on at once (without -X srun only reports its tasks). No task's end ends the others, whatever the
    cluster is configured for: one that was asked to stop exits, with 130, while another still saves. The
    supervisor detects a failed task. All variables are exported, not only those passed to sbatch. Since Slurm
    22.05 srun does not take the number of CPUs from the job: a task would have one.
    """
    cpus = environment.get("SLURM_CPUS_PER_TASK")
    return (
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        "--disable-status",
        "--kill-on-bad-exit=0",
        "--wait=0",
        "--export=ALL",
        *([f"--cpus-per-task={cpus}"] if cpus else []),
    )


def variables(environment: Mapping[str, str], nodes: int) -> dict[str, str]:
    """MASTER_ADDR and its kin, and what torchrun takes instead of options. Raises SlurmError."""
    job_id = environment.get("SLURM_JOB_ID", "0")
    first = slurm_client.address(slurm_client.host_names(environment.get("SLURM_JOB_NODELIST", ""))[0])
    port = _FIRST_PORT + int(job_id) % _PORT_COUNT
    return {
        "MASTER_ADDR": first,
        "MASTER_PORT": str(port),
        "NNODES": str(nodes),
        "PET_NNODES": str(nodes),
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"{first}:{port}",
        "PET_RDZV_ID": job_id,
    }
