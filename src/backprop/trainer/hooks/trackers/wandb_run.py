"""W&B: a resumed session continues the W&B run of the session before; its `config` is recorded as parameters.

Written against wandb 0.31.
"""

from __future__ import annotations

import functools
import os
from typing import Any, Callable, Mapping, Optional

from ... import tracker_runs
from ...failsafe import guarded, notify_user
from ...parameters import report
from .wandb import tap_disabled

_HOOK = "wandb_run"
_NAMES_ONE = ("id", "resume_from", "fork_from")  # arguments of `init`


def hook(module: Any) -> None:
    """Called when `wandb.sdk.wandb_init` has been imported, before wandb takes `init` from it."""
    module.init = _around_init(module.init, tracker_runs.withdraw(tracker_runs.WANDB))


def _around_init(original: Callable[..., Any], handed: Optional[str]) -> Callable[..., Any]:
    @functools.wraps(original)
    def init(*args: Any, **kwargs: Any) -> Any:
        report.configured(kwargs.get("config"), {})
        if handed is not None and not _names_one(kwargs) and tracker_runs.is_to_continue(tracker_runs.WANDB):
            run = _continued(original, args, kwargs, handed)
        else:
            run = original(*args, **kwargs)
        _begun(run)
        return run

    return init


@guarded(_HOOK)
def _begun(run: Any) -> None:
    if run.disabled:
        tap_disabled(run)
    else:
        tracker_runs.remember(tracker_runs.WANDB, run.id)


def _names_one(kwargs: Mapping[str, Any]) -> bool:
    """Whether the script says which run it is, or is part of a sweep, which does."""
    settings = kwargs.get("settings") or {}
    is_set = settings.get("run_id") if isinstance(settings, Mapping) else getattr(settings, "run_id", None)
    is_named = any(kwargs.get(name) is not None for name in _NAMES_ONE)
    return bool(is_named or is_set or kwargs.get("resume") == "never" or "WANDB_SWEEP_ID" in os.environ)


def _continued(original: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], run_id: str) -> Any:
    try:
        run = original(*args, **{**kwargs, "id": run_id, "resume": kwargs.get("resume") or "allow"})
    except Exception as error:  # noqa: BLE001  it was deleted, for example: without us, the script would run
        notify_user(f"the W&B run {run_id} cannot be continued, a new one begins: {type(error).__name__}: {error}")
        return original(*args, **kwargs)
    _allow_other_values(run.config)
    return run


@guarded(_HOOK)
def _allow_other_values(config: Any) -> None:
    """The run brings its configuration along, and W&B refuses other values: without us, the script may set them."""
    sanitize = config._sanitize  # noqa: SLF001
    object.__setattr__(config, "_sanitize", lambda key, value, allow_val_change=None: sanitize(key, value, True))  # noqa: ARG005, FBT003
