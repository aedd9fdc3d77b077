"""TensorBoard: `SummaryWriter` of torch.utils.tensorboard and of tensorboardX.

Written against torch 2.13 and tensorboardX 2.6.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Mapping

from ...failsafe import after
from ...tracked import tracked

_HOOK = "tensorboard"


def hook(module: Any) -> None:
    """Called when the module of SummaryWriter has been imported."""
    writer = module.SummaryWriter
    add = tracked().add
    # scripts have a writer each for training and validation, and log the same tags to both
    folder = attrgetter("logdir" if module.__name__.startswith("tensorboardX") else "log_dir")

    def scalar(writer: Any, tag: str, scalar_value: Any, global_step: Any = None, *_: Any, **__: Any) -> None:
        add(_HOOK, folder(writer), tag, scalar_value, global_step)

    def scalars(
        writer: Any, main_tag: str, tag_scalar_dict: Mapping[str, Any], global_step: Any = None, *_: Any, **__: Any
    ) -> None:
        for tag, value in tag_scalar_dict.items():
            add(_HOOK, folder(writer), f"{main_tag}/{tag}", value, global_step)

    writer.add_scalar = after(writer.add_scalar, scalar, _HOOK)
    writer.add_scalars = after(writer.add_scalars, scalars, _HOOK)
