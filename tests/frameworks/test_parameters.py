"""Parameters are what the parsers of libraries parsed: a test each with the real library."""

import textwrap

import pytest

from tests.frameworks.conftest import FrameworkRuns

# a script, its arguments, the parameters that were given and those that have their defaults
CASES = {
    "click": (
        """
        import click

        @click.group()
        @click.option("--seed", default=1)
        def main(seed):
            pass

        @main.command()
        @click.argument("data")
        @click.option("--lr", "learning_rate", default=0.1)
        @click.option("--layers", multiple=True, type=int)
        @click.option("--amp/--no-amp", default=False)
        @click.option("--pin", hide_input=True, default="1234")
        def train(**options):
            pass

        main()
        """,
        "--seed 3 train --layers 1 --layers 2 digits.csv",
        {"seed": 3, "data": "digits.csv", "layers": [1, 2]},
        {"learning_rate": 0.1, "amp": False},
    ),
    "typer": (
        """
        from enum import Enum
        from typing import List, Optional
        import typer

        class Colour(str, Enum):
            RED = "red"
            BLUE = "blue"

        def main(lr: float = 0.1, colour: Colour = Colour.RED, sizes: List[int] = [1, 2], token: Optional[str] = None):
            pass

        typer.run(main)
        """,
        "--lr 0.5 --colour blue --token abc",
        {"lr": 0.5, "colour": "blue", "token": "***"},
        {"sizes": [1, 2]},
    ),
    "fire": (
        """
        import fire

        class Trainer:
            def __init__(self, lr=0.1, decay=0.0):
                pass

            def train(self, data, epochs=3, **others):
                return None

        fire.Fire(Trainer)
        """,
        "--lr 0.5 train digits.csv --extra 3",
        {"lr": 0.5, "data": "digits.csv", "extra": 3},
        {"decay": 0.0, "epochs": 3},
    ),
    "tyro": (
        """
        from dataclasses import dataclass, field
        from typing import Literal, Tuple, Union
        import tyro

        @dataclass
        class Adam:
            lr: float = 0.001
            betas: Tuple[float, float] = (0.9, 0.99)

        @dataclass
        class Sgd:
            lr: float = 0.1
            nesterov: bool = False

        @dataclass
        class Options:
            optimizer: Union[Adam, Sgd] = field(default_factory=Adam)
            batch_size: int = 32
            mode: Literal["fast", "slow"] = "fast"

        tyro.cli(Options)
        """,
        "--batch-size 8 optimizer:sgd --optimizer.lr 0.5",
        {"batch_size": 8, "optimizer.lr": 0.5},
        {"mode": "fast", "optimizer.nesterov": False},
    ),
    "absl": (
        """
        from absl import app, flags

        flags.DEFINE_float("lr", 0.1, "")
        flags.DEFINE_multi_integer("layers", [64], "")
        flags.DEFINE_bool("amp", False, "")
        app.run(lambda _: None)
        """,
        "--lr=0.5 --layers=3 --layers=4",
        {"lr": 0.5, "layers": [3, 4]},
        {"amp": False},
    ),
    "jsonargparse": (
        """
        from dataclasses import dataclass
        from jsonargparse import CLI

        @dataclass
        class Model:
            width: int = 8
            act: str = "relu"

        def train(model: Model, lr: float = 0.1):
            pass

        def evaluate(count: int = 1):
            pass

        CLI([train, evaluate])
        """,
        "train --model.width 3 --lr 0.5",
        {"subcommand": "train", "model.width": 3, "lr": 0.5},
        {"config": None, "model.act": "relu"},
    ),
    "HfArgumentParser": (
        """
        from dataclasses import dataclass, field
        from typing import List, Optional
        from transformers import HfArgumentParser

        @dataclass
        class Options:
            lr: float = 0.1
            layers: List[int] = field(default_factory=lambda: [64])
            hub_token: Optional[str] = None

        HfArgumentParser(Options).parse_args_into_dataclasses()
        """,
        "--lr 0.5",
        {"lr": 0.5},
        {"layers": [64], "hub_token": None},
    ),
    "Hydra": (
        """
        import os, pathlib, hydra

        pathlib.Path("conf/model").mkdir(parents=True)
        pathlib.Path("conf/main.yaml").write_text('''
            defaults: [{model: small}, _self_]
            lr: 0.1
            optimizer: {name: sgd, betas: [0.9, 0.99]}
            home: ${oc.env:SECRET_HOME}
            wandb_key: ${oc.env:SECRET_HOME}
        ''')
        pathlib.Path("conf/model/small.yaml").write_text("width: 8")
        pathlib.Path("conf/model/big.yaml").write_text("width: 64")
        os.environ["SECRET_HOME"] = "hidden"

        @hydra.main(config_path="conf", config_name="main", version_base=None)
        def main(config):
            assert config.home == "hidden"

        main()
        """,
        "lr=0.5 model=big",
        {"lr": 0.5, "model": "big", "model.width": 64},
        {
            "optimizer.name": "sgd",
            "optimizer.betas": [0.9, 0.99],
            "home": "${oc.env:SECRET_HOME}",
            "wandb_key": "***",
        },
    ),
    "Hydra, multirun": (
        """
        import pathlib, hydra

        pathlib.Path("conf").mkdir(exist_ok=True)
        pathlib.Path("conf/main.yaml").write_text("{lr: 0.1, width: 8, act: relu}")

        @hydra.main(config_path="conf", config_name="main", version_base=None)
        def main(config):
            pass

        main()
        """,
        "-m lr=0.1,0.2 width=16",
        {"lr": [0.1, 0.2], "width": 16},
        {"act": "relu"},
    ),
    "OmegaConf": (
        """
        from omegaconf import OmegaConf

        OmegaConf.merge(OmegaConf.create({"lr": 0.1, "model": {"width": 8}}), OmegaConf.from_cli())
        """,
        "lr=0.5",
        {"lr": 0.5},
        {"model.width": 8},
    ),
}


@pytest.mark.parametrize("library", CASES)
def test_what_a_parser_parsed_is_recorded(library: str, framework_runs: FrameworkRuns):
    """With types and defaults; the parser's own options, and what the arguments look like, are not."""
    script, words, given, defaults = CASES[library]
    runs = framework_runs
    done = runs.call("run", "--run-id", "r", runs.script(textwrap.dedent(script)), "--", *words.split())
    assert done.returncode == 0, done.stderr
    assert "backprop: the hook" not in done.stderr
    document = runs.document("r")
    assert document["params"] == {**given, **defaults}
    assert document["default_params"] == sorted(defaults)
