"""What `run --dry-run` and `resume --dry-run` print: the command, the limits, and whether the run would start now."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from backprop import host
from backprop.cli.context import print_json, write_lines
from backprop.engines.base import Submission
from backprop.errors import ExitCode
from backprop.governor.run_queue import RunQueue
from backprop.governor.start_policy import AdmissionDecision
from backprop.records import RunSpec, in_minutes
from backprop.store.home import Home
from backprop.supervisor import command as commands

if TYPE_CHECKING:
    from backprop.lifecycle.owned_run import Request


def print_plan(
    home: Home, specs: Sequence[RunSpec], request: "Request", *, step: int | None = None, as_json: bool
) -> None:
    """What `run` or `resume` would do; exits with 75 when the governor of this machine would refuse it.

    specs: of the runs that would be started together, and differ in their arguments only. step: of the checkpoint.
    """
    from backprop.lifecycle.driver import resume_args

    spec, checkpoint = specs[0], request.checkpoint
    templates = resume_args(spec) if checkpoint is not None else ()
    argvs = [commands.with_checkpoint((*one.command, *request.only_once), templates, checkpoint, step) for one in specs]
    decision = _foreseen(home, spec, request) if spec.slurm is None else None
    sbatch = [] if spec.slurm is None else _sbatch_options(home, specs, request)
    if as_json:
        plan: dict[str, Any] = {
            "command": argvs[0],
            "cwd": spec.cwd,
            "python": spec.python,
            "params": spec.params,
            "limits": spec.limits,
            "resumed_from": checkpoint,
            "home": str(home.path),
        }
        if len(specs) > 1:
            together = zip(argvs, specs, strict=True)
            plan["runs"] = [{"command": argv, "params": one.params} for argv, one in together]
        if decision is None:
            plan["sbatch"] = sbatch
        else:
            plan["admitted"] = decision.is_admitted
            plan["reason"] = decision.reason
            plan["gpus"] = None if decision.gpus is None else [gpu.uuid for gpu in decision.gpus]
            plan["figures"] = decision.figures
        print_json(msgspec.to_builtins(plan))
    else:
        lines = [f"command  {' '.join(argv)}" for argv in argvs]
        lines.append(f"folder   {spec.cwd}")
        lines.append(f"python   {spec.python or '-'}")
        if len(specs) == 1:
            lines.append(f"params   {'  '.join(f'{key}={value}' for key, value in spec.params.items()) or '-'}")
        lines.append(f"timebox  {in_minutes(spec.limits.timebox_s)}, then {spec.limits.grace_s:g} s of grace")
        lines.append(f"home     {home.path}")
        if decision is None:
            lines.append(f"slurm    sbatch {shlex.join(sbatch)}")
        else:
            lines.append(f"gpus     {', '.join(f'{gpu.index} ({gpu.name})' for gpu in decision.gpus or ()) or '-'}")
            lines.append(f"start    {decision.reason or 'now'}")
        write_lines(f"{line}\n" for line in lines)
    if decision is not None and not decision.is_admitted:
        raise click.exceptions.Exit(ExitCode.REFUSED)


def _foreseen(home: Home, spec: RunSpec, request: "Request") -> AdmissionDecision:
    """What the governor of this machine would say."""
    from backprop.lifecycle import admission

    application = admission.Application(
        spec=spec,
        session=1,
        limits=request.limits,
        folders=(str(home.path), spec.cwd),
        gpu_probe=request.gpu_probe,
        within=admission.surrounding_run(home),
    )
    return admission.foresee(RunQueue(home.line_path, host.name()), application)


def _sbatch_options(home: Home, specs: Sequence[RunSpec], request: "Request") -> list[str]:
    from backprop.engines.slurm import engine as slurm

    return slurm.options(Submission(home.rundir(specs[0].id), specs[0], request.limits.timebox_s), len(specs))
