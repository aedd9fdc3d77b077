"""TensorBoard: `SummaryWriter` of torch.utils.tensorboard and of tensorboardX.

Written against torch 2.13 and tensorboardX 2.6.
"""

from __future__ import annotations

from typing import Any, Mapping

from ...tracked import after, tracked

_HOOK = "tensorboard"


def hook(module: Any) -> None:
    """Called when the module of SummaryWriter has been imported."""
    writer = module.SummaryWriter
    writer.add_scalar = after(writer.add_scalar, _scalar, _HOOK)
    writer.add_scalars = after(writer.add_scalars, _scalars, _HOOK)


def _scalar(writer: Any, tag: str, scalar_value: Any, global_step: Any = None, *_: Any, **__: Any) -> None:
    tracked().add(_HOOK, _folder(writer), tag, scalar_value, global_step)


def _scalars(
    writer: Any, main_tag: str, tag_scalar_dict: Mapping[str, Any], global_step: Any = None, *_: Any, **__: Any
) -> None:
    for tag, value in tag_scalar_dict.items():
        tracked().add(_HOOK, _folder(writer), f"{main_tag}/{tag}", value, global_step)


def _folder(writer: Any) -> Any:
    """Scripts have a writer each for training and validation, and log the same tags to both."""
    return writer.log_dir if hasattr(writer, "log_dir") else writer.logdir
