"""The identity of a training by the Hugging Face Trainer, as of the call of `train`."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from ...trainings.identity import Identity, identify

TRIAL = "the argument trial"  # part of the identity of a trial in a hyperparameter search

# arguments about how a training is observed, evaluated, saved or distributed, not what is trained
_WATCHING = (
    "accelerator_config",
    "auto_find_batch_size",
    "average_tokens_across_devices",
    "batch_eval_metrics",
    "bf16",
    "ddp_",
    "deepspeed",
    "disable_",
    "distributed_",
    "do_",
    "eval_",
    "fp16",
    "fsdp",
    "full_determinism",
    "greater_is_better",
    "half_precision",
    "hub_",
    "ignore_data_skip",
    "include_",
    "jit_mode",
    "load_best_model_at_end",
    "log_",
    "logging_",
    "metric_for_best_model",
    "mp_parameters",
    "output_dir",
    "overwrite_output_dir",
    "parallelism_config",
    "past_index",
    "per_device_eval",
    "per_gpu_eval",
    "prediction_loss_only",
    "project",
    "push_to_hub",
    "ray_",
    "report_to",
    "run_name",
    "save_",
    "skip_memory_metrics",
    "torch_empty_cache",
    "torchdynamo",
    "tpu",
    "trackio",
    "use_",
)


def identity_of(trainer: Any, trial: Any, offered: Optional[str]) -> Identity:
    """The identity. trial: of a hyperparameter search, not yet applied to the arguments. offered: see `identify`."""
    args, model = trainer.args, trainer.model
    arguments = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(args)}
    arguments["class"] = type(trainer).__qualname__
    optimizer = trainer.optimizer
    if optimizer is not None and trainer.state.global_step == 0:  # passed by the script: `train` has not made one yet
        arguments["optimizer"] = (type(optimizer).__qualname__, optimizer.defaults)
    if trial is not None:
        arguments["trial"] = getattr(trial, "number", str(trial))
    return identify(
        "transformers",
        "train",
        arguments,
        ignored=[name for name in arguments if name.startswith(_WATCHING)],
        output_folder=args.output_dir,
        model=f"{model} {_configuration(model)}",
        data=trainer.train_dataset,
        weights=None
        if model is None
        else list(model.named_parameters()),  # a search has released that of its last trial
        is_pretrained=bool(getattr(model, "name_or_path", "")),
        offered=offered,
    )


def _configuration(model: Any) -> str:
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        return ""
    known = config.to_dict()
    known.pop("transformers_version", None)
    return repr(sorted(known.items()))
