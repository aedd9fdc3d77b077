"""Reports, in the journal and to the observer, whether a session resumes from the checkpoint that it is offered."""

from collections.abc import Callable, Sequence
from pathlib import Path

from backprop.store.journal.entries import CheckpointRead, CheckpointUnread
from backprop.store.output.protocol import TrainingBegan
from backprop.supervisor.checkpoint_reads import Offer, OfferFinding
from backprop.supervisor.context import SessionContext
from backprop.supervisor.control_file import ControlFile
from backprop.supervisor.environment import Resumed

_MAX_WATCHED = 16  # checkpoints of the run beside the offered one


class OfferedCheckpoint:
    """The checkpoint that one session is offered. Close it when the session is over."""

    def __init__(self, context: SessionContext, resumed: Resumed, control: ControlFile) -> None:
        """To be made before the launch: from then on a read is seen."""
        self._context = context
        self._resumed = resumed
        self._control = control
        others = _other_checkpoints(context, resumed.path)
        self._offer = Offer(resumed.path, others, can_be_elsewhere=context.spec.nodes > 1)

    def close(self) -> None:
        """Stop watching the files."""
        self._offer.close()

    def judge(
        self,
        trainings: Sequence[TrainingBegan],
        write_control: Callable[[], None],
        *,
        has_trained: bool,
        is_over: bool = False,
    ) -> None:
        """Report that the checkpoint was read, or that training began without it, as soon as either is known.

        trainings: reported by our hooks since the last call. write_control: called when the offered
        checkpoint was read. has_trained: a step or a save was seen.
        """
        for verdict in self._offer.verdicts(trainings, has_trained=has_trained, is_over=is_over):
            if verdict.resumed_from is None:
                self._report_unread(verdict)
            else:
                self._report_read(verdict, verdict.resumed_from, write_control)
            self._context.recorder.record_state(publish=False)

    def _report_unread(self, verdict: OfferFinding) -> None:
        context = self._context
        context.write(
            CheckpointUnread(at=context.clock.wall(), session=context.number, has_trained=verdict.has_trained)
        )
        if verdict.has_trained:
            option = resume_option(context)
            context.observer.message(_unread(context.spec.id, self._resumed, option, is_certain=verdict.is_certain))

    def _report_read(self, verdict: OfferFinding, path: str, write_control: Callable[[], None]) -> None:
        context, is_offered = self._context, path == self._resumed.path
        named, other = (self._resumed, None) if is_offered else (path, path)
        context.write(
            CheckpointRead(at=context.clock.wall(), session=context.number, path=other, is_late=verdict.is_late)
        )
        if verdict.is_late:
            context.observer.message(f"{named} was read after training had begun: it may have continued from there")
        else:
            context.observer.message(f"resumed from {named}")
            self._control.is_offered_read = self._offer.is_offered_read
            write_control()


def resume_option(context: SessionContext) -> str | None:
    """What --resume-arg would have to be; None where it is set already, or a hook of ours resumes the training."""
    progress = context.meter.progress
    is_driven = progress.is_listening or progress.is_paced or progress.is_finished
    return None if is_driven or context.spec.resume_arg else progress.resume_option


def _other_checkpoints(context: SessionContext, offered: str) -> list[str]:
    """The newest other checkpoints of the run that exist: a script may choose one by itself."""
    view = context.recorder.view()
    known = () if view is None else view.checkpoints
    paths = dict.fromkeys(one.path for one in reversed(known) if not one.is_emergency and one.path != offered)
    return [path for path in paths if Path(path).exists()][:_MAX_WATCHED]


def _unread(run_id: str, offered: Resumed, option: str | None, *, is_certain: bool) -> str:
    """The warning that a session trains without its checkpoint.

    option: of the script, that looks as if it took a checkpoint. is_certain: whether it starts over for sure.
    """
    begun = f"WARNING: training began without reading {offered}: it starts from the beginning"
    if is_certain:  # its hook has read it and judged it to be another training's: an option would change nothing
        return f"{begun}. A later training of the script may still continue from it"
    has_option = "If the script has an option for a checkpoint, name it"
    if option is not None:
        has_option = f"This script has {option.partition('=')[0]}"
    return (
        f"{begun}, unless it continues from something else. "
        f"{has_option}: backprop resume {run_id} --resume-arg {option or '--OPTION'}"
    )
