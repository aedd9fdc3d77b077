"""The time that remains, guessed from what is printed; and no guess where it could be false."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.store.output.outlook import Outlook


def bar(done: int, total: int, label: str = "") -> str:
    """As tqdm draws it."""
    shown = f"{label}: " if label else ""
    return f"\r{shown}{100 * done // total:3d}%|##   | {done}/{total} [00:{done % 60:02}<01:00,  1.00it/s]"


def remaining_s(
    *printed: str,
    whole: Sequence[int] = (),
    counted: Sequence[int] | None = None,
    params: Mapping[str, object] | None = None,
) -> float | None:
    """The estimate after one text a second.

    whole: totals of bars outside of loops. counted: optimizer steps. params: of the script.
    """
    outlook = Outlook()
    outlook.params_given(params or {})
    for total in whole:
        outlook.bar_began(total, has_optimizer=counted is not None)
    step = None
    for now, text in enumerate(printed):
        step = None if counted is None else counted[now]
        outlook.read(text.encode(), float(now), step)
    return outlook.remaining_s(float(len(printed) - 1), step)


def test_a_bar_outside_of_loops():
    """Ten a second: 970 are left."""
    assert remaining_s(bar(10, 1000), bar(20, 1000), bar(30, 1000), whole=[1000]) == pytest.approx(97.0)


def test_many_states_of_a_bar_at_once():
    """As many as tqdm draws between two looks: the rate is that of the last ones."""
    looks = ["".join(bar(done, 1000) for done in range(begin, begin + 10)) for begin in (0, 10, 20)]
    assert remaining_s(*looks, whole=[1000]) == pytest.approx(97.1)


def test_a_short_preparation_is_over():
    """However quickly: its bar is full, and the next one counts."""
    assert remaining_s(bar(0, 60) + bar(60, 60), bar(10, 1000), bar(20, 1000), whole=[60, 1000]) == pytest.approx(98.0)


def test_no_rate_is_known_before_it_moves():
    assert remaining_s(bar(0, 1000), bar(0, 1000), whole=[1000]) is None


def test_a_bar_that_may_start_again_gives_no_estimate():
    """Nothing in the output tells whether it is the bar of an epoch."""
    assert remaining_s(bar(10, 1000), bar(20, 1000)) is None


def test_the_outer_bar_counts():
    """However quickly the inner one moves."""
    texts = [bar(epoch, 10) + "\n" + bar(7 * epoch % 50, 50) + "\x1b[A" for epoch in range(4)]
    assert remaining_s(*texts, whole=[10]) == pytest.approx(7.0)


def test_two_bars_with_the_same_total_contradict():
    """One is of the training, the other of a validation: which one, nobody knows."""
    assert remaining_s(bar(1, 50) + bar(1, 50, "val"), bar(2, 50) + bar(2, 50, "val"), whole=[50]) is None


def test_a_bar_that_starts_again_is_not_believed():
    """Whatever was said of its total."""
    assert remaining_s(bar(40, 50), bar(45, 50), bar(2, 50), bar(4, 50), whole=[50]) is None


@pytest.mark.parametrize(("counted", "is_estimated"), [([0, 5, 10], True), ([5, 5, 5], False)])
def test_a_bar_without_optimizer_steps_is_of_a_preparation(counted: list[int], is_estimated: bool):
    """Or of a test afterwards; where PyTorch is there to make steps."""
    estimate = remaining_s(bar(10, 100), bar(20, 100), bar(30, 100), whole=[100], counted=counted)
    assert (estimate is not None) is is_estimated


def test_what_follows_a_full_bar_is_not_known():
    assert remaining_s(bar(98, 100), bar(99, 100), bar(100, 100), whole=[100]) is None


@pytest.mark.parametrize(
    ("lines", "estimate_s"),
    [
        (["Epoch 1/10\n", "Epoch 2/10\n", "Epoch 3/10\n"], 8.0),  # headings: two are over
        (["epoch 1/10 loss: 0.5\n", "epoch 2/10 loss: 0.4\n"], 8.0),  # what they came to: likewise
        (["Epoch [1/10], Step [50/100], Loss: 0.5\n", "Epoch [3/10], Step [50/100], Loss: 0.4\n"], 3.75),
        ([bar(2, 4, "Epoch 2 of 10"), bar(2, 4, "Epoch 3 of 10")], 7.5),
        ([f"Epoch [1/3]: [{done}/94]  67%|##   , loss=2.31 [00:4{done}<00:21]\r" for done in (0, 47)], 5.0),  # ignite
        (["Epoch 1/3 | 47/94 batches | loss 2.31\n", "Epoch 2/3 | 47/94 batches | loss 2.31\n"], 1.5),
        ([bar(0, 10, "Epochs"), bar(1, 10, "Epochs"), bar(2, 10, "Epochs")], 8.0),
    ],
)
def test_epochs(lines: list[str], estimate_s: float):
    """In headings, results, lines within, and bars."""
    assert remaining_s(*lines) == pytest.approx(estimate_s)


@pytest.mark.parametrize(
    "lines",
    [
        ["Epoch 1/10\n", "Epoch 2/10\n", "Epoch 9/10\n", "Epoch 1/10\n", "Epoch 2/10\n"],  # the next fold
        ["Epoch 1/5\n", "Epoch 2/5\n", "Epoch 1/10\n", "Epoch 2/10\n"],  # two trainings
        ["Epoch 1\nstep 1/100 loss 0.5\n", "step 2/100 loss 0.4\n"],  # steps of an epoch
        ["step 1/100 loss 0.5\n", "step 2/200 loss 0.4\n"],
        ["step 90/100 loss 0.5\n", "step 95/100 loss 0.5\n", "step 1/100 loss 0.5\n", "step 5/100 loss 0.5\n"],
        ["Step 1/7 : FROM python\n", "Step 2/7 : RUN pip install torch\n"],  # no training
        ["test batch 1/10 loss 0.5\n", "test batch 2/10 loss 0.5\n"],
        ["downloaded 1/3 files\n", "downloaded 2/3 files\n"],
        ["date 1/2/2026\n", "date 2/2/2026\n"],
    ],
)
def test_no_estimate_rather_than_a_false_one(lines: list[str]):
    assert remaining_s(*lines) is None


@pytest.mark.parametrize(
    ("lines", "estimate_s"),
    [
        # a quarter of an epoch takes a second, and half of the first is over: pytorch/examples mnist, word_language_model
        ([f"Train Epoch: 1 [{done}/60000 (1%)]\tLoss: 0.5\n" for done in (0, 15000, 30000)], 14.0),
        ([f"| epoch   1 | {done:5d}/ 2000 batches | lr 20.00 | loss  7.63\n" for done in (0, 500, 1000)], 14.0),
        ([f"Train: 0 [{done:4d}/1200 (  4%)]  Loss: 6.9 (6.9)\n" for done in (0, 300, 600)], 14.0),  # timm
        ([f"Epoch: {number}, loss: 0.5\n" for number in (0, 1, 2)], 1.0),
        ([f"Epoch: {number}, loss: 0.5\n" for number in (1, 2, 3)], 1.0),
        ([f"Epoch: {number}, loss: 0.5\n" for number in (3, 4)], None),  # resumed: counted from 0, or from 1?
        ([f"Epoch: {number}, loss: 0.5\n" for number in (1, 5, 6)], None),  # more than there should be
        ([f"Epoch: {number}\n" for number in (0, 1, 2)], None),  # headings, maybe
    ],
)
def test_epochs_whose_number_is_a_parameter(lines: list[str], estimate_s: float | None):
    """And no total is printed. Of other parameters none is a total; of two that contradict neither."""
    found = remaining_s(*lines, params={"model.epochs": 4, "epochs": True, "lr": 1, "update_epochs": 10})
    assert found == (None if estimate_s is None else pytest.approx(estimate_s))
    assert remaining_s(*lines, params={"epochs": 4, "max_epochs": 5}) is None
    assert remaining_s(*lines) is None


def test_printed_steps_with_metrics():
    """In a script that has no epochs."""
    lines = [f"step {step}/100 | loss 0.{step}\n" for step in (10, 20, 30)]
    assert remaining_s(*lines) == pytest.approx(7.0)


def test_a_line_that_is_not_complete_waits():
    """`Epoch 3/1` may become `Epoch 3/10`."""
    outlook = Outlook()
    for now, text in enumerate(["Epoch 1/10\nEpoch 2/1", "Epoch 2/10\n", "Epoch 3/10\n"]):
        outlook.read(text.encode(), float(now), None)
    assert outlook.remaining_s(2.0, None) == pytest.approx(8.0, abs=0.5)


@given(
    st.lists(st.one_of(st.binary(max_size=200), st.text(alphabet="epoch 0123/|%[]:\r\n<", max_size=60)), max_size=20)
)
def test_no_output_crashes_it(texts: list[bytes | str]):
    outlook = Outlook()
    for now, text in enumerate(texts):
        outlook.read(text if isinstance(text, bytes) else text.encode(), float(now), None)
        estimate = outlook.remaining_s(float(now), None)
        assert estimate is None or estimate >= 0


@pytest.mark.parametrize("line", [" " * 16_000, "1" * 16_000, f"epoch{' ' * 1900}/ loss", f"epoch{' ' * 1900}x/"])
def test_a_long_line_takes_time_in_proportion(line: str):
    """The supervisor reads it: without bounds it would be blocked for minutes."""
    assert remaining_s(*[f"{line}\n" * 20] * 2) is None
