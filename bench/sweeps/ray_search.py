"""Ray Tune's ASHA: python -m bench.sweeps.ray_search TASK SEED FOLDER STOP. Prints its choice as JSON.

Written as Ray's documentation does it: a function that trains and reports, sampled at random, stopped by the scheduler.
"""

import json
import sys
from pathlib import Path
from typing import Any

from bench.sweeps.tasks import ETA, TASKS, WORKERS, ray_space


def main(task_name: str, seed: str, folder: str, stop: str) -> None:
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    task = TASKS[task_name]

    class BudgetUsedUp(tune.Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
            return False

        def stop_all(self) -> bool:
            return Path(stop).exists()

    def trainable(config: dict[str, float]) -> None:
        TASKS[task_name].train(
            config,
            lambda step, val_loss: tune.report({"step": step, "val_loss": val_loss}),
            seed=int(seed),
            step_s=task.step_s,
        )

    ray.init("local", num_cpus=WORKERS, _temp_dir=f"{folder}/ray", include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        trainable,
        param_space=ray_space(task.space),
        tune_config=tune.TuneConfig(
            metric="val_loss",
            mode="min",
            num_samples=-1,
            search_alg=BasicVariantGenerator(random_state=int(seed), max_concurrent=WORKERS),
            scheduler=ASHAScheduler(
                time_attr="step", max_t=task.steps, grace_period=task.rung_steps, reduction_factor=ETA
            ),
        ),
        run_config=tune.RunConfig(name="bench", storage_path=folder, stop=BudgetUsedUp(), verbose=0),
    )
    results = tuner.fit()
    best = results.get_best_result(metric="val_loss", mode="min", scope="all")
    lowest = float(best.metrics_dataframe["val_loss"].min())
    found = {"params": best.config, "val_loss": lowest, "trials": len(results), "ray": ray.__version__}
    print(json.dumps(found), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
