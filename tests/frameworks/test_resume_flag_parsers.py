"""Parsers of frameworks give the checkpoint to the script's resume flag, too."""

from tests.frameworks.conftest import FrameworkRuns


def test_a_hugging_face_parser_fills_its_dataclass(framework_runs: FrameworkRuns):
    runs = framework_runs
    script = runs.script("""
        from dataclasses import dataclass, field
        from typing import Optional
        from transformers import HfArgumentParser

        @dataclass
        class Options:
            lr: float = 0.1
            resume_from_checkpoint: Optional[str] = None

        (options,) = HfArgumentParser(Options).parse_args_into_dataclasses()
        print(options.lr, options.resume_from_checkpoint)
        open("state.bin", "w").write("state")
        print(json.dumps({"event": "checkpoint_saved", "path": "state.bin", "step": 1}))
    """)
    first = runs.call("run", "--run-id", "r", script, "--", "--lr", 0.5)
    assert first.stdout.startswith("0.5 None\n"), first.stderr
    second = runs.call("resume", "r")
    assert second.stdout.startswith(f"0.5 {runs.work / 'state.bin'}\n"), second.stderr
    assert f"backprop: --resume_from_checkpoint gets {runs.work / 'state.bin'}\n" in second.stderr
