"""The identity of a training by Lightning, as of the call of `fit`, and its form in a checkpoint."""

from __future__ import annotations

import base64
import json
import re
from typing import Any, Mapping, Optional

from ...trainings.identity import Identity, identify

_TRAINING = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "limit_train_batches")
_OF_LOGGERS = ("_name", "_project", "_project_name", "_experiment_name", "_save_dir", "_root_dir", "_sub_dir")


def identity_of(trainer: Any, arguments: Mapping[str, Any], offered: Optional[str], *, is_first: bool) -> Identity:
    """The identity of a training. arguments: of `fit`, by name. is_first: the model was not trained before."""
    model, datamodule = arguments["model"], arguments.get("datamodule")
    given = {name: getattr(trainer, name, None) for name in _TRAINING}
    given["class"] = type(model).__qualname__
    given.update((f"of the model, {name}", value) for name, value in dict(getattr(model, "hparams", {})).items())
    attributes = {name: value for name, value in vars(model).items() if not name.startswith("_")}
    if is_first:  # training may have changed them later
        scalars = (bool, int, float, str)
        given.update((name, value) for name, value in attributes.items() if isinstance(value, scalars))
    loggers = [{name: vars(each).get(name) for name in _OF_LOGGERS} for each in trainer.loggers]
    given["loggers"] = [(type(each).__qualname__, names) for each, names in zip(trainer.loggers, loggers)]
    loaders = arguments.get("train_dataloaders")
    if loaders is None and datamodule is None:  # the model makes its own loaders
        data: Any = {name: value for name, value in attributes.items() if name not in given}
    else:
        data = loaders, datamodule
    return identify(
        "lightning",
        "fit",
        given,
        ignored=["training", "of the model, training"],
        output_folder=trainer.default_root_dir,
        model=repr(model),
        data=data,
        weights=list(model.named_parameters()),
        is_pretrained=any(getattr(module, "name_or_path", "") for module in model.modules()),
        offered=offered,
    )


def mark(stored: Optional[Mapping[str, Any]]) -> str:
    """What a checkpoint stores of its training, readable without unpickling it."""
    return f"backprop-training:{base64.b64encode(json.dumps(stored).encode()).decode()};"


def read_mark(pickled: bytes) -> Any:
    """What a checkpoint stores of its training, or None."""
    found = re.search(rb"backprop-training:([A-Za-z0-9+/=]+);", pickled)
    return None if found is None else json.loads(base64.b64decode(found[1]))
