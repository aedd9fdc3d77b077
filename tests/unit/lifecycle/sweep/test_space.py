"""Parameters and goals of a sweep, as people write them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.errors import UsageError
from backprop.lifecycle.sweep.space import (
    MAX_GRID,
    Parameter,
    grid,
    option_words,
    parse_parameter,
    parse_parameters,
)


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ("lr=1e-3..0.3:log", Parameter(name="lr", low=1e-3, high=0.3, is_log=True)),
        ("--lr=0.1..1", Parameter(name="lr", low=0.1, high=1)),
        ("layers=1..4", Parameter(name="layers", low=1, high=4, is_integer=True)),
        ("width=8..512:log", Parameter(name="width", low=8, high=512, is_integer=True, is_log=True)),
        ("shift=-2..-1", Parameter(name="shift", low=-2, high=-1, is_integer=True)),
        ("hidden=32,64,128", Parameter(name="hidden", choices=("32", "64", "128"))),
        ("data=../a,../b", Parameter(name="data", choices=("../a", "../b"))),
        ("optim.lr=a:1,b:2", Parameter(name="optim.lr", choices=("a:1", "b:2"))),
    ],
)
def test_what_people_write_is_understood(text: str, parameter: Parameter):
    """Ranges of numbers and integers, on either scale, and lists of anything."""
    assert parse_parameter(text) == parameter


@pytest.mark.parametrize(
    "text",
    [
        *("lr", "lr=", "=1..2", "lr=1", "lr=2..1", "lr=1..1", "lr=0..1:log", "lr=-1..1:log", "lr=1..inf", "lr=a..b"),
        *("n=1..1000000000000", "lr=1,,2", "lr=1,1", "lr=1..2:exp", "lr=1_0..2_0"),
    ],
)
def test_what_is_no_parameter_is_refused(text: str):
    """With the words that were given."""
    with pytest.raises(UsageError, match="invalid --param"):
        parse_parameter(text)


def test_a_name_occurs_once():
    """Else one of the two would be ignored."""
    with pytest.raises(UsageError, match="--param lr is given twice"):
        parse_parameters(["lr=1..2", "h=1,2", "--lr=3..4"])


RANGES = st.tuples(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9), st.booleans(), st.booleans()).filter(
    lambda ends: ends[0] < ends[1]
)


@given(ends=RANGES, seed=st.integers(0, 1000))
def test_a_sample_is_one_of_the_range(ends: tuple[float, float, bool, bool], seed: int):
    """Also after it was shortened to a few digits."""
    low, high, is_integer, is_log = ends
    if is_integer:
        low, high = float(int(low) + 1), float(int(high) + 2)
    parameter = Parameter(name="p", low=low, high=high, is_integer=is_integer, is_log=is_log)
    assert parameter.problem(parameter.sample(random.Random(seed))) is None


def test_integers_are_drawn_with_both_ends():
    """On either scale."""
    for text in ("n=1..4", "n=1..4:log"):
        parameter, rng = parse_parameter(text), random.Random(1)
        assert {parameter.sample(rng) for _ in range(200)} == {"1", "2", "3", "4"}


def test_a_logarithmic_range_gives_each_decade_its_share():
    """Of a thousand samples of three decades each gets about a third."""
    parameter, rng = parse_parameter("lr=0.001..1:log"), random.Random(1)
    values = [float(parameter.sample(rng)) for _ in range(1000)]
    assert all(250 < sum(low <= value < low * 10 for value in values) < 420 for low in (0.001, 0.01, 0.1))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lr=0.1..1", "2"),
        ("lr=0.1..1", "x"),
        ("n=1..4", "1.5"),
        ("n=1..4", "3.0"),
        ("n=1..4", "5"),
        ("h=32,64", "48"),
        ("n=1..4", "nan"),
    ],
)
def test_a_proposal_outside_of_the_space_is_refused(text: str, value: str):
    """It says what is expected."""
    assert "expected" in (parse_parameter(text).problem(value) or "")


@pytest.mark.parametrize(
    ("text", "words"),
    [("0.1", ("--lr", "0.1")), ("a b", ("--lr", "a b")), ("-1e-05", ("--lr=-1e-05",)), ("--x", ("--lr=--x",))],
)
def test_a_value_is_never_taken_for_an_option(text: str, words: tuple[str, ...]):
    """argparse takes -1e-05 for one."""
    assert option_words("lr", text) == words


def test_a_grid_has_every_combination():
    """In the order of the parameters."""
    found = grid(parse_parameters(["a=x,y", "n=1..2"]))
    assert found == [{"a": "x", "n": "1"}, {"a": "x", "n": "2"}, {"a": "y", "n": "1"}, {"a": "y", "n": "2"}]


def test_a_grid_of_fractions_is_refused():
    """They have no end; the message shows a list."""
    with pytest.raises(UsageError, match=r"such as lr=0\.1,0\.3"):
        grid(parse_parameters(["lr=0.1..0.3"]))


@pytest.mark.parametrize("texts", [["n=1..1000000000"], ["a=1..1000", "b=1..1000"]])
def test_a_grid_is_bounded(texts: list[str]):
    """Before it is built."""
    with pytest.raises(UsageError, match=f"limit {MAX_GRID:,}"):
        grid(parse_parameters(texts))
