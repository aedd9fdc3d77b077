"""The link of a process to its supervisor, in a folder of a test."""

from pathlib import Path

from backprop.trainer.link import SupervisorLink


def link_in(folder: Path, session: int = 1, *, offered: str | None = None, **environment: str) -> SupervisorLink:
    """offered: the checkpoint to resume from. environment: further variables that the supervisor has set."""
    if offered is not None:
        environment["BACKPROP_RESUME_FROM"] = offered
    return SupervisorLink(
        {
            "BACKPROP_EVENTS": str(folder / f"session-{session}.events"),
            "BACKPROP_CONTROL": str(folder / "control.json"),
            "BACKPROP_RUN_ID": "r",
            "BACKPROP_RUN_DIR": str(folder),
            "BACKPROP_SESSION": str(session),
            "BACKPROP_TIMEBOX_S": "600",
            **environment,
        }
    )
