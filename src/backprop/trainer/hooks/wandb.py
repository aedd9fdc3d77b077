"""Weights & Biases: the `config` that a script gives to `wandb.init` is recorded as parameters, too."""

from __future__ import annotations

import functools
from typing import Any

from ..parameters import report


def hook(module: Any) -> None:
    """Called when `wandb.sdk.wandb_init` has been imported, before wandb takes `init` from it."""
    original = module.init

    @functools.wraps(original)
    def init(*args: Any, **kwargs: Any) -> Any:
        report.configured(kwargs.get("config"), {})
        return original(*args, **kwargs)

    module.init = init
