"""Parsers of libraries give the checkpoint to the script's resume option, too: a test each with the real library."""

import textwrap

import pytest

from tests.frameworks.conftest import FrameworkRuns

SAVES = """
def save():
    open("my state.bin", "w").write("state")
    print(json.dumps({"event": "checkpoint_saved", "path": "my state.bin", "step": 1}))
"""

# Each prints the checkpoint that it was given, or a word that says nothing, and saves.
SCRIPTS = {
    "HfArgumentParser": """
        from dataclasses import dataclass, field
        from typing import Optional
        from transformers import HfArgumentParser

        @dataclass
        class Options:
            lr: float = 0.1
            resume_from_checkpoint: Optional[str] = None

        (options,) = HfArgumentParser(Options).parse_args_into_dataclasses()
        print(options.lr, options.resume_from_checkpoint)
        save()
    """,
    "click": """
        import click

        @click.group()
        @click.option("--lr", default=0.1)
        @click.pass_context
        def main(context, lr):
            context.obj = lr

        @main.command()
        @click.option("-r", "--resume", type=click.Path(exists=True))
        @click.option("--resume-training", is_flag=True)
        @click.option("--resume-ckpt", type=int)
        @click.pass_obj
        def train(lr, resume, resume_training, resume_ckpt):
            assert resume_training is (resume is not None) and resume_ckpt is None
            print(lr, resume)
            save()

        main()
    """,
    "typer": """
        from pathlib import Path
        from typing import Optional
        import typer

        def main(lr: float = 0.1, resume_from: Optional[Path] = None, resume: bool = False):
            assert resume is (resume_from is not None)
            print(lr, resume_from)
            save()

        typer.run(main)
    """,
    "fire": """
        import fire

        class Trainer:
            def __init__(self, lr=0.1, resume=False):
                self.lr, self.resume = lr, resume

            def train(self, data="", continue_from=None):
                assert self.resume is (continue_from is not None)
                print(self.lr, continue_from)
                save()

        fire.Fire(Trainer)
    """,
    "tyro": """
        from dataclasses import dataclass, field
        from pathlib import Path
        import tyro

        @dataclass
        class Model:
            width: int = 3
            resume: bool = True

        @dataclass
        class Options:
            lr: float = 0.1
            resume_path: Path | None = None
            resume: bool = False
            model: Model = field(default_factory=Model)

        options = tyro.cli(Options)
        assert options.resume is (options.resume_path is not None)
        print(options.lr, options.resume_path)
        save()
    """,
    "absl": """
        from absl import app, flags

        flags.DEFINE_float("lr", 0.1, "")
        flags.DEFINE_string("resume_from", None, "")
        flags.DEFINE_bool("resume", False, "")
        flags.DEFINE_integer("resume_training", None, "")

        def main(argv):
            options = flags.FLAGS
            assert options.resume is (options.resume_from is not None) and options.resume_training is None
            print(options.lr, options.resume_from)
            save()

        app.run(main)
    """,
    "jsonargparse": """
        from typing import Optional
        from jsonargparse import CLI

        def train(lr: float = 0.1, resume: Optional[str] = None, continue_from: Optional[int] = None):
            assert continue_from is None
            print(lr, resume)
            save()

        def evaluate():
            pass

        CLI([train, evaluate])
    """,
    "Hydra": """
        import hydra

        open("conf.yaml", "w").write('''
            lr: 0.1
            resume: false
            trainer: {resume_from_checkpoint: null}
            logger: {resume: null}
            load_ckpt: null
            link: ${trainer.resume_from_checkpoint}
        ''')

        @hydra.main(config_path=".", config_name="conf", version_base=None)
        def main(config):
            assert config.logger.resume is None and config.load_ckpt is None
            assert config.resume is (config.link is not None)
            print(config.lr, config.trainer.resume_from_checkpoint)
            save()

        main()
    """,
    "OmegaConf": """
        from omegaconf import OmegaConf

        base = OmegaConf.create({"lr": 0.1, "ckpt_path": None, "wandb": {"resume": None}})
        config = OmegaConf.merge(base, OmegaConf.from_cli())
        assert config.wandb.resume is None
        print(config.lr, config.ckpt_path)
        save()
    """,
}

# How each is told another learning rate, a checkpoint of the user's own; and what its option is called.
WORDS = {
    "HfArgumentParser": (["--lr", "0.5"], ["--resume_from_checkpoint", "mine"], "--resume_from_checkpoint"),
    "click": (["--lr", "0.5", "train"], ["-r", "train.py", "--resume-training"], "--resume"),
    "typer": (["--lr", "0.5"], ["--resume-from=mine", "--resume"], "--resume-from"),
    "fire": (["--lr", "0.5", "train"], ["--continue_from=mine", "--resume=True"], "--continue_from"),
    "tyro": (["--lr", "0.5"], ["--resume-path", "mine", "--resume"], "--resume-path"),
    "absl": (["--lr=0.5"], ["-resume_from=mine", "--resume"], "--resume_from"),
    "jsonargparse": (["train", "--lr", "0.5"], ["--resume", "mine"], "--resume"),
    "Hydra": (["lr=0.5"], ["trainer.resume_from_checkpoint=mine", "resume=true"], "trainer.resume_from_checkpoint"),
    "OmegaConf": (["lr=0.5"], ["ckpt_path=mine"], "ckpt_path"),
}


@pytest.mark.parametrize("library", SCRIPTS)
def test_a_parser_gives_the_checkpoint_to_its_option(library: str, framework_runs: FrameworkRuns):
    """As if it had been typed, on resume only, and never in the place of what was typed; it is no parameter."""
    runs, (words, own, name) = framework_runs, WORDS[library]
    script = runs.script(SAVES + textwrap.dedent(SCRIPTS[library]))
    first = runs.call("run", "--run-id", "r", script, "--", *words)
    assert first.stdout.startswith("0.5 None\n"), first.stderr
    assert "backprop: the hook" not in first.stderr
    second = runs.call("resume", "r", "--again")
    path = runs.work / "my state.bin"
    assert second.stdout.startswith(f"0.5 {path}\n"), second.stderr
    assert f"backprop: {name} gets {path}\n" in second.stderr
    assert runs.document("r")["params"]["lr"] == 0.5
    assert str(path) not in runs.document("r")["params"].values()
    third = runs.call("resume", "r", "--again", "--only-once", "--", *own)
    assert third.stdout.startswith(f"0.5 {own[0].rpartition('=')[2] if '=' in own[0] else own[1]}\n"), third.stderr
    assert " gets /" not in third.stderr


@pytest.mark.nightly
def test_lightnings_command_line_needs_no_flag(framework_runs: FrameworkRuns):
    """LightningCLI has --ckpt_path: Lightning's own hook resumes fit() without it, and nothing is said of it."""
    runs = framework_runs
    script = runs.script("""
        import torch
        from lightning.pytorch import LightningModule
        from lightning.pytorch.cli import LightningCLI

        class Model(LightningModule):
            def __init__(self, width: int = 1):
                super().__init__()
                self.layer = torch.nn.Linear(width, 1)
            def on_train_epoch_start(self):
                print("at step", self.global_step, flush=True)
                if self.global_step and not os.environ.get("BACKPROP_RESUME_FROM"):
                    sys.exit(3)
            def training_step(self, batch, _):
                return self.layer(batch).pow(2).mean()
            def train_dataloader(self):
                return torch.utils.data.DataLoader(torch.ones(4, 1), batch_size=2)
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        LightningCLI(Model)
    """)
    words = ["fit", "--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    first = runs.call("run", "--run-id", "r", script, "--", *words)
    assert first.returncode == 3, first.stderr
    assert "resume with" in first.stderr
    assert "--ckpt_path" not in first.stderr
    second = runs.call("resume", "r", "--again")
    assert second.returncode == 0, second.stderr
    assert [line for line in second.stdout.splitlines() if line.startswith("at step")] == ["at step 2"]
    assert "--ckpt_path" not in second.stderr
