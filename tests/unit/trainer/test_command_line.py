"""Which parameters a command line looks like."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.trainer.parameters.command_line import params_in
from tests.conftest import scaled


@pytest.mark.parametrize(
    ("argv", "params"),
    [
        ("", {}),
        ("--lr 1e-3", {"lr": 0.001}),
        ("--lr=1e-3", {"lr": 0.001}),
        ("-b 32", {"b": 32}),
        ("--layers 64 64", {"layers": [64, 64]}),
        ("--layers 64 32 16", {"layers": [64, 32, 16]}),
        ("--amp", {"amp": True}),
        ("--amp --lr 1", {"amp": True, "lr": 1}),
        ("--amp false", {"amp": False}),
        ("--amp=True", {"amp": True}),
        ("--batch-size 8", {"batch_size": 8}),
        ("--batch_size 8", {"batch_size": 8}),
        ("--shift -1", {"shift": -1}),
        ("--shift -.5", {"shift": -0.5}),
        ("--shift=-1e-3", {"shift": -0.001}),
        ("--name resnet-50", {"name": "resnet-50"}),
        ("--data a=b", {"data": True, "a": "b"}),
        ("--data=a=b", {"data": "a=b"}),
        ("--lr 1e-3 --layers 64 64 --amp seed=1", {"lr": 0.001, "layers": [64, 64], "amp": True, "seed": 1}),
        ("--config-name exp1 lr=0.1 batch=32", {"config_name": "exp1", "lr": 0.1, "batch": 32}),
        ("--layers 64 seed=1 32", {"layers": 64, "seed": 1}),
        ("-m lr=0.1,0.2 opt=adam,sgd", {"m": True, "lr": [0.1, 0.2], "opt": ["adam", "sgd"]}),
        ("layers=[64,32] none=[] amp=[true]", {"layers": [64, 32], "none": [], "amp": [True]}),
        ("lr=choice(1,2) a={b:1,c:2} d=[[1],[2]]", {"lr": "choice(1,2)", "a": "{b:1,c:2}", "d": "[[1],[2]]"}),
        ("--lr 0.1,0.2", {"lr": "0.1,0.2"}),
        ("--url http://x/?a=b", {"url": "http://x/?a=b"}),
        ("--api-key abc --max-tokens 5 hub_token=abc", {"api_key": "***", "max_tokens": 5, "hub_token": "***"}),
        ("--empty=", {"empty": ""}),
        ("--a=b=c", {"a": "b=c"}),
        ("seed=1", {"seed": 1}),
        ("model.lr=0.1 +trainer=ddp ~old=1", {"model.lr": 0.1, "trainer": "ddp", "old": 1}),
        ("in.txt out.txt", {}),
        ("in.txt --lr 1", {"lr": 1}),
        ("--lr=1 in.txt", {"lr": 1}),
        ("--version-tag 1.2.3", {"version_tag": "1.2.3"}),
        ("--id 007", {"id": 7}),
        ("--lr 1 --lr 2", {"lr": 2}),
        ("--limit inf", {"limit": math.inf}),
        ("--seed 123456789012345678901234567890", {"seed": 123456789012345678901234567890}),
    ],
)
def test_what_arguments_tell(argv: str, params: dict[str, object]):
    """Parameters are what argparse, click or Hydra would understand, with their types."""
    assert params_in(argv.split()) == params


@given(st.lists(st.text(max_size=8) | st.sampled_from(["--", "-", "--a", "1", "nan", "x=1", "--a=2"]), max_size=8))
@settings(max_examples=scaled(200), deadline=None)
def test_no_arguments_make_it_raise(argv: list[str]):
    """Whatever a script is called with, looking for parameters never fails."""
    assert all(isinstance(name, str) for name in params_in(argv))


def test_a_number_of_many_digits_is_a_number():
    """An argument with more digits than Python reads does not end the run before it began."""
    assert params_in(["--seed", "9" * 5000]) == {"seed": math.inf}
