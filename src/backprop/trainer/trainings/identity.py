"""Decides whether a checkpoint belongs to the training that begins now, from the identities of the run's trainings.

The rules and their reasons: docs/decisions/0028-training-identity.md.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Iterable, Mapping, NamedTuple, Optional

from .fingerprint import (
    Fingerprint,
    combined,
    command_line,
    digest,
    fingerprint,
    folder,
    is_called_once,
    lasting,
    named_arguments,
    place,
    weights_fingerprint,
)

VERSION = 1  # of what a checkpoint stores; a checkpoint of another version is matched by the number of the call

# compared in this order, each among the trainings that agree in those before
_SOFT = {
    "place": "the place of the call in the script",
    "data": "the content of its data",
    "history": "what its model was trained on before",
    "weights": "its initial weights",
}


# parts that may differ between runs of the same training
_OF_A_RUN = {"the arguments of the script", "the output folder"}


class Identity(NamedTuple):
    """What identifies a training. None means unknown, and equals only unknown.

    parts: digests, by name, of what is the same whenever a script runs unchanged; all must be equal. The other fields
    may differ between two sessions of a training in a script without a random seed. They count only if they distinguish
    trainings of one session.
    """

    parts: Mapping[str, str]
    place: Optional[str] = None
    data: Optional[str] = None
    history: Optional[str] = None
    weights: Optional[str] = None
    is_pretrained: bool = False  # its initial weights come from a file, and may be equal in many trainings
    is_once: bool = False  # not called in a loop of the script or a library: the only one at its place

    @property
    def kind(self) -> str:
        """A digest of the parts."""
        return combined(*sorted(self.parts.items()))


class SavedTraining(NamedTuple):
    """A training as a checkpoint stores it.

    number: 1-based, among the equal trainings of its session. is_finished: whether it had ended. is_of_other_run:
    whether another run saved it, whose trainings are not known here; the user has passed its path.
    """

    identity: Identity
    number: int
    is_finished: bool = False
    is_of_other_run: bool = False


class BegunTraining(NamedTuple):
    """A training that began in a session of the run, with what `decide` compares."""

    session: int
    kind: str
    place: Optional[str]
    data: Optional[str]
    history: Optional[str]
    weights: Optional[str]

    @staticmethod
    def of(session: int, identity: Identity) -> BegunTraining:
        """session: 1-based."""
        return BegunTraining(session, identity.kind, *identity[1:5])


class TrainingMatch(NamedTuple):
    """Whether a checkpoint continues a training.

    differing: what differs, in words. If the checkpoint continues the training nevertheless, these probably differ in
    each session because the script sets no random seed.
    """

    continues: bool
    differing: tuple[str, ...] = ()

    @property
    def is_guess(self) -> bool:
        """Whether it may be another training. Initial weights alone differ in every script without a random seed."""
        return self.continues and any(words != _SOFT["weights"] for words in self.differing)

    @property
    def reason(self) -> str:
        """What differs, as the end of a sentence."""
        shown = list(self.differing[:4])
        if len(self.differing) > 4:
            shown.append(f"{len(self.differing) - 4} more")
        return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "nothing"


def identify(  # noqa: PLR0913  one for each thing that identifies a training
    framework: str,
    called: str,
    arguments: Mapping[str, Any],
    *,
    ignored: Iterable[str] = (),
    output_folder: Any = None,
    model: Optional[str] = None,
    data: Any = None,
    weights: Optional[Iterable[tuple[str, Any]]] = None,
    is_pretrained: bool = False,
    offered: Optional[str] = None,
) -> Identity:
    """The identity of the training that begins now.

    called: the name of the function that the user calls, without its module. arguments: hyperparameters; `ignored`
    names those that may change between sessions, in addition to `fingerprint.may_change`. model: its class and
    configuration, as text. data: the training data; no iterator is consumed. weights: name and array of each. offered:
    path of the checkpoint to resume from, which may be among the script's arguments.
    """
    parts = {"framework": framework, "the arguments of the script": command_line(sys.argv[1:], offered)}
    parts.update((f"the argument {name}", value) for name, value in named_arguments(arguments, ignored))
    if output_folder is not None:
        parts["the output folder"] = digest(folder(output_folder))
    if model is not None:
        parts["the model"] = digest(lasting(model))
    data_print = _or_unknown(fingerprint, data)
    parts["the form of the data"] = data_print.form
    weights_print = _or_unknown(weights_fingerprint, weights)
    parts["the shapes of the weights"] = weights_print.form
    return Identity(
        parts,
        place=place(called),
        is_once=is_called_once(),
        data=data_print.content,
        weights=weights_print.content,
        is_pretrained=is_pretrained,
    )


def _or_unknown(read: Callable[[Any], Fingerprint], value: Any) -> Fingerprint:
    try:
        return Fingerprint("unknown", None) if value is None else read(value)
    except Exception:  # noqa: BLE001  an object that cannot be read: the rest of the identity must do
        return Fingerprint("unknown", None)


def decide(checkpoint: SavedTraining, call: Identity, number: int, begun: Iterable[BegunTraining]) -> TrainingMatch:
    """Whether a checkpoint belongs to the training that begins.

    number: 1-based, of this training among the equal ones of its session. begun: all trainings that began in the run so
    far, including this one and the one that saved.
    """
    saved = checkpoint.identity
    if checkpoint.is_of_other_run:
        saved, call = (_without(identity, _OF_A_RUN) for identity in (saved, call))
    differing = [name for name in {**saved.parts, **call.parts} if saved.parts.get(name) != call.parts.get(name)]
    if differing:
        return TrainingMatch(continues=False, differing=tuple(differing))
    alike = [each for each in begun if each.kind == call.kind]
    tolerated: list[str] = []
    for part, words in _SOFT.items():
        if getattr(saved, part) == getattr(call, part):
            alike = [each for each in alike if getattr(each, part) == getattr(call, part)]
        elif _tells_apart(part, alike):
            return TrainingMatch(continues=False, differing=(*tolerated, words))
        else:
            tolerated.append(words)
    if checkpoint.number != number:
        words = f"the number among equal trainings ({checkpoint.number} and {number})"
        return TrainingMatch(continues=False, differing=(*tolerated, words))
    return TrainingMatch(_may_be_chance(checkpoint, call), tuple(tolerated))


def _without(identity: Identity, names: set[str]) -> Identity:
    return identity._replace(parts={name: part for name, part in identity.parts.items() if name not in names})


def _tells_apart(part: str, alike: Iterable[BegunTraining]) -> bool:
    """Whether this part distinguishes trainings of one session, all of which agree in the parts before."""
    values: dict[int, Optional[str]] = {}
    return any(values.setdefault(each.session, getattr(each, part)) != getattr(each, part) for each in alike)


def _may_be_chance(checkpoint: SavedTraining, call: Identity) -> bool:
    """Whether the differences may come from a script without a random seed, in two sessions of one training."""
    saved = checkpoint.identity
    if saved.data == call.data and saved.weights == call.weights:
        return True
    if saved.place != call.place or saved.history != call.history:
        return False
    if saved.data == call.data or (saved.is_once and call.is_once):
        return True
    # in a loop: a script that has continued with the next training had the result of this one, and skips it
    if checkpoint.is_finished or checkpoint.is_of_other_run:
        return False
    # equal random weights come from a seed, and with a seed shuffled data would be equal, too
    are_weights_drawn = saved.weights is not None and not call.is_pretrained
    return not (are_weights_drawn and saved.weights == call.weights)
