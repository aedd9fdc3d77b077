"""One worker of an Optuna study: python -m bench.sweeps.optuna_search TASK METHOD SEED WORKER STUDY STOP.

Written as Optuna's documentation does it: the objective trains in this process, and reports to the pruner; the workers
share a study in a file. Trials that train when the file STOP appears end with the best value they have.
"""

import sys
from pathlib import Path
from typing import Any

from bench.sweeps.tasks import ETA, TASKS, suggest

NAME = "bench"


def storage(path: str) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.storages.JournalStorage(JournalFileBackend(path))


def main(task_name: str, method: str, seed: str, worker: str, path: str, stop: str) -> None:
    import optuna

    task = TASKS[task_name]
    sampler_seed = int(seed) * 100 + int(worker)  # of one seed, all workers would propose the same
    if method == "random":
        sampler: Any = optuna.samplers.RandomSampler(seed=sampler_seed)
    else:
        sampler = optuna.samplers.TPESampler(seed=sampler_seed, constant_liar=True)
    pruner: Any = optuna.pruners.NopPruner()
    if method == "optuna-asha":
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=task.rung_steps, reduction_factor=ETA)
    study = optuna.create_study(
        study_name=NAME, storage=storage(path), sampler=sampler, pruner=pruner, load_if_exists=True
    )

    class StoppedError(Exception):
        """The budget is used up."""

    def objective(trial: Any) -> float:
        values = []

        def report(step: int, val_loss: float) -> None:
            values.append(val_loss)
            trial.report(val_loss, step)
            if trial.should_prune():
                raise optuna.TrialPruned
            if Path(stop).exists():
                raise StoppedError

        try:
            task.train(suggest(trial, task.space), report, seed=int(seed), step_s=task.step_s)
        except StoppedError:
            study.stop()
        return min(values)

    study.optimize(objective)


def choice(path: str) -> dict[str, Any]:
    """What Optuna calls the best trial of the study."""
    import optuna

    study = optuna.load_study(study_name=NAME, storage=storage(path))
    return {"params": study.best_params, "val_loss": study.best_value, "trials": len(study.trials)}


if __name__ == "__main__":
    main(*sys.argv[1:])
