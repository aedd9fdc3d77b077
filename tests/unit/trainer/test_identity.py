"""A checkpoint continues the training that saved it, and no other, whatever is skipped, reordered or repeated."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.trainer.trainings.identity import BegunTraining, Identity, SavedTraining, TrainingMatch, decide, identify
from tests.conftest import scaled

FOLD = Identity({"framework": "f", "the argument lr": "1"}, place="p", data="d", history="none", weights="w")


def judged(
    saved: Identity,
    call: Identity,
    *others: tuple[int, Identity],
    numbers: tuple[int, int] = (1, 1),
    is_finished: bool = False,
) -> TrainingMatch:
    """Session 1 saved, session 2 calls. others: what else began, with the number of the session."""
    begun = [BegunTraining.of(1, saved), BegunTraining.of(2, call), *(BegunTraining.of(*other) for other in others)]
    return decide(SavedTraining(saved, numbers[0], is_finished), call, numbers[1], begun)


def test_the_same_training_continues():
    assert judged(FOLD, FOLD) == TrainingMatch(continues=True)


def test_other_arguments_are_another_training():
    other = FOLD._replace(parts={"framework": "f", "the argument lr": "2"})
    assert judged(FOLD, other) == TrainingMatch(continues=False, differing=("the argument lr",))


def test_what_is_unknown_equals_only_what_is_unknown():
    unknown = FOLD._replace(parts={"framework": "f"})
    assert not judged(FOLD, unknown).continues
    assert not judged(unknown, FOLD).continues
    assert judged(unknown, unknown).continues
    no_data = FOLD._replace(data=None)
    assert not judged(FOLD, no_data).continues
    assert judged(no_data, no_data).continues


def test_weights_without_a_seed_differ_in_each_session():
    decision = judged(FOLD, FOLD._replace(weights="x"))
    assert decision == TrainingMatch(continues=True, differing=("its initial weights",))


def test_data_and_weights_without_a_seed_differ_in_each_session():
    decision = judged(FOLD, FOLD._replace(data="e", weights="x"))
    assert decision.continues
    assert decision.reason == "the content of its data and its initial weights"


def test_other_data_with_equal_random_weights_are_another_training():
    """The weights show that the script sets a seed."""
    assert not judged(FOLD, FOLD._replace(data="e")).continues
    pretrained = FOLD._replace(is_pretrained=True)
    assert judged(pretrained, pretrained._replace(data="e")).continues, (
        "they show nothing when they are read from a file"
    )


def test_a_finished_training_is_given_back_to_a_loop_only_with_the_same_data():
    """The loop has had its result, and may have gone on to the next one."""
    call = FOLD._replace(data="e", weights="x")
    assert judged(FOLD, call).continues
    assert not judged(FOLD, call, is_finished=True).continues
    assert judged(FOLD, FOLD._replace(weights="x"), is_finished=True).continues


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_call_in_no_loop_has_one_training_whatever_its_data_are(is_finished):
    once = FOLD._replace(is_once=True)
    assert judged(once, once._replace(data="e", weights="x"), is_finished=is_finished).is_guess
    assert judged(once, once._replace(data="e"), is_finished=is_finished).is_guess, "a seed for weights, none for data"
    assert not judged(once, once._replace(place="q", data="e"), is_finished=is_finished).continues


@pytest.mark.parametrize("session", [1, 2])
def test_data_count_where_trainings_of_one_session_differ_in_them(session):
    other = FOLD._replace(data="e", weights="x")
    assert not judged(FOLD, other, (session, FOLD._replace(data="f", weights="y"))).continues
    assert judged(FOLD, FOLD._replace(weights="x"), (session, FOLD._replace(data="f", weights="y"))).continues


@pytest.mark.parametrize("session", [1, 2])
def test_weights_count_where_trainings_of_one_session_differ_in_nothing_else(session):
    assert not judged(FOLD, FOLD._replace(weights="x"), (session, FOLD._replace(weights="y"))).continues
    assert judged(FOLD, FOLD, (session, FOLD._replace(weights="y"))).continues


def test_the_number_decides_between_equals():
    assert judged(FOLD, FOLD, (1, FOLD), (2, FOLD), numbers=(2, 2)).continues
    decision = judged(FOLD, FOLD, (1, FOLD), numbers=(2, 1))
    assert decision == TrainingMatch(continues=False, differing=("the number among equal trainings (2 and 1)",))


def test_a_call_elsewhere_in_an_edited_script_is_the_same_training_if_all_else_is():
    elsewhere = FOLD._replace(place="q")
    assert judged(FOLD, elsewhere).continues
    assert not judged(FOLD, elsewhere, (1, elsewhere)).continues, "the script has both"
    assert not judged(FOLD, elsewhere._replace(data="e", weights="x")).continues
    assert not judged(FOLD, elsewhere._replace(weights="x")).continues


def test_the_second_training_of_a_model_is_not_its_first():
    second = FOLD._replace(history="h", weights="w2")
    assert not judged(FOLD, second, (1, second)).continues
    assert judged(second, second._replace(weights="x"), (1, FOLD), (2, FOLD._replace(weights="y"))).continues


def test_a_checkpoint_of_another_run_may_be_continued_with_other_arguments_of_the_script():
    saved = FOLD._replace(parts={**FOLD.parts, "the arguments of the script": "1", "the output folder": "1"})
    call = FOLD._replace(parts={**FOLD.parts, "the arguments of the script": "2", "the output folder": "2"})
    assert not decide(SavedTraining(saved, 1), call, 1, []).continues
    assert decide(SavedTraining(saved, 1, is_of_other_run=True), call, 1, []) == TrainingMatch(continues=True)
    other = call._replace(data="e", weights="x")
    assert not decide(SavedTraining(saved, 1, is_of_other_run=True), other, 1, []).continues, (
        "in a loop, it may be another fold"
    )


def test_a_reason_is_short():
    many = TrainingMatch(continues=False, differing=tuple("abcdefg"))
    assert many.reason == "a, b, c, d and 3 more"


def test_identify_knows_what_differs():
    def made(**changes):
        given = {"arguments": {"lr": 0.1, "epochs": 3, "seed": 1}, "output_folder": "out0", "model": "Net(p=0.1)"}
        return identify("f", "made", **{**given, "data": [[1.0] * 20, [2.0] * 20], "weights": [("w", 3.0)], **changes})

    same = made(), made(arguments={"lr": 0.1, "epochs": 30, "seed": 1})
    assert same[0].kind == same[1].kind
    assert same[0].kind != made(arguments={"lr": 0.2, "epochs": 3, "seed": 1}).kind
    assert decide(SavedTraining(same[0], 1), made(output_folder="out1"), 1, []).reason == "the output folder"
    assert decide(SavedTraining(same[0], 1), made(model="Net(p=0.2)"), 1, []).reason == "the model"
    assert decide(SavedTraining(same[0], 1), made(arguments={"lr": 0.2, "seed": 1}), 1, []).reason == "the argument lr"
    assert decide(SavedTraining(same[0], 1), made(data=[[1.0] * 20]), 1, []).reason == "the form of the data"


# -- made-up scripts: which trainings they have, which of them a session calls, and where it is cut


@dataclass(frozen=True)
class Script:
    """Trainings by what tells them apart: arguments and data. How weights come about: `weights`."""

    trainings: tuple[tuple[str, str], ...]
    weights: str  # "seeded": the same for all; "in order": from one seed at the start; "drawn": without a seed

    def identity(self, training: int, session: int, order: int) -> Identity:
        argument, data = self.trainings[training]
        weights = {"seeded": "w", "in order": f"w{order}", "drawn": f"w{session}-{order}"}[self.weights]
        return Identity({"argument": argument}, place="p", data=data, history="none", weights=weights)


@dataclass
class Record:
    """What the sessions so far have left."""

    begun: list[BegunTraining] = field(default_factory=list)
    saved: list[tuple[int, SavedTraining]] = field(default_factory=list)  # with the number of the training


def scripts() -> st.SearchStrategy[Script]:
    trainings = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("123")), min_size=1, max_size=5)
    return st.builds(Script, trainings.map(tuple), st.sampled_from(["seeded", "in order", "drawn"]))


def begin(record: Record, identity: Identity, session: int) -> int:
    """The number of a training among its equals."""
    begun = BegunTraining.of(session, identity)
    record.begun.append(begun)
    return sum(1 for each in record.begun if each == begun)


@settings(max_examples=scaled(500))
@given(scripts(), st.data())
def test_never_another_trainings_checkpoint(script: Script, data: st.DataObject):
    """Whatever is called in which order, unless nothing in the run can tell the two apart: then it is said."""
    record = Record()
    for session in range(1, 4):
        calls = data.draw(st.lists(st.integers(0, len(script.trainings) - 1), max_size=5))
        for order, training in enumerate(calls):
            identity = script.identity(training, session, order)
            number = begin(record, identity, session)
            for saver, saved in record.saved:
                decision = decide(saved, identity, number, record.begun)
                if not decision.continues:
                    assert decision.differing
                elif script.trainings[saver] != script.trainings[training]:
                    assert script.weights != "seeded"
                    assert not saved.is_finished
                    assert decision.differing == ("the content of its data", "its initial weights")
                    assert not has_told_apart(record.begun, identity.kind)
        if calls:
            cut = len(calls) - 1
            identity = script.identity(calls[cut], session, cut)
            equals = [each for each in record.begun if each == BegunTraining.of(session, identity)]
            record.saved.append((calls[cut], SavedTraining(identity, len(equals), data.draw(st.booleans()))))


def has_told_apart(begun: list[BegunTraining], kind: str) -> bool:
    """Whether a session had trainings of this kind with different data."""
    return any(
        one.session == other.session and one.data != other.data
        for one in begun
        for other in begun
        if one.kind == other.kind == kind
    )


@settings(max_examples=scaled(300))
@given(scripts(), st.data())
def test_the_cut_training_is_continued_when_it_comes_again_unchanged(script: Script, data: st.DataObject):
    """Those before it run again, or are skipped, as long as that is no other number of equals."""
    record = Record()
    calls = data.draw(st.permutations(range(len(script.trainings))))
    for order, training in enumerate(calls):
        identity = script.identity(training, 1, order)
        saved_number = begin(record, identity, 1)
    saved, cut = identity, calls[-1]
    is_unique = script.trainings.count(script.trainings[cut]) == 1
    skipped = data.draw(st.sets(st.sampled_from(calls))) - {cut} if is_unique else set()
    again = [training for training in calls if training not in skipped]
    for order, training in enumerate(again):
        identity = script.identity(training, 2, order)
        number = begin(record, identity, 2)
    assert again[-1] == cut
    decision = decide(SavedTraining(saved, saved_number), identity, number, record.begun)
    if script.weights == "drawn" and not is_unique:
        return  # repetitions of one training without a seed: nothing says which of them this is
    assert decision.continues
