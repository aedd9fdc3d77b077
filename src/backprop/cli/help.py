"""What `--help` has besides summaries and options: what RUN may be, and examples."""

import click

_RUN = "RUN is an id, a unique prefix of one, a unique name, or 'last'."
_SCRIPT = """\b
A script may print, as a line each, {"step": 12, "loss": 0.31},
{"event": "checkpoint_saved", "path": "out/12.pt", "step": 12} and
{"event": "metric", "name": "elo", "goal": "max"}; on resume it finds its
checkpoint in $BACKPROP_RESUME_FROM. More: the guide 'JSON lines'."""
# of each command
EXAMPLES = {
    "run": ("run train.py -m 30 -n baseline -- --lr 1e-3", "run -d -- torchrun --nproc-per-node 2 train.py"),
    "resume": ("resume last -m 60", "resume baseline -- --lr 1e-4"),
    "list": (
        "list --filter 'status=completed lr>1e-4' --sort loss",
        "list --groups",
    ),
    "status": ("status", "status last"),
    "compare": ("compare baseline last", "compare 3kf9 7hq2 --diff"),
    "best": ("best val_accuracy --filter group=lr", "best elo --goal max:elo --limit 3"),
    "verdict": ("verdict baseline tuned --metric val_accuracy", "verdict 'group=lr lr=0.1' 'group=lr lr=0.03' --json"),
    "plot": ("plot -y loss,val_loss --log", "plot baseline last -o curves.html"),
    "report": ("report baseline last -o report.html", "report last -o last.html"),
    "diagnose": ("diagnose last", "diagnose baseline --json"),
    "logs": ("logs -f", "logs --filter 'status=failed age<1d' --stderr"),
    "wait": ("wait baseline && ./evaluate.sh", "wait --all --timeout 120"),
    "sweep": (
        "sweep train.py --goal max:val_accuracy --param lr=1e-3..0.3:log --budget 20",
        "sweep status last",
    ),
    "watch": ("watch", "watch baseline"),
    "ui": ("ui", "ui --port 8000 --no-open"),
    "stop": ("stop last", "stop --filter 'name~sweep step<1000'"),
    "pause": ("pause baseline", "pause --all"),
    "queue": ("queue move baseline --first", "queue move 3kf9 7hq2 --first"),
    "rename": ("rename last baseline", "rename 3kf9 'lr 1e-3, warm'"),
    "tag": ("tag last +baseline -draft", "tag --filter 'group=lr loss>1' +diverged"),
    "note": ("note last 'loss spikes at step 400'", "note baseline --decide keep"),
    "archive": ("archive 3kf9 7hq2", "archive --filter 'decision=discard age>7d' --yes"),
    "unarchive": ("unarchive 3kf9", "unarchive --all"),
    "rm": ("rm 3kf9 7hq2 --checkpoints", "rm --filter 'status=refused' --yes"),
    "reindex": ("reindex", "--verbose reindex"),
    "export": ("export last --to csv points.csv", "export baseline last --to tensorboard board"),
    "parse": ("parse train.log", "parse train.log --json"),
    "import": ("import train.log", "import -n baseline old/train.log --json"),
    "init": ("init", "init --user"),
    "doctor": ("doctor", "doctor --python .venv/bin/python"),
    "mcp": ("mcp", "mcp --allow run --root ."),
    "guide": ("guide", "guide --write AGENTS.md"),
    "completion": ("completion bash", "completion fish > ~/.config/fish/completions/backprop.fish"),
}


def explain(name: str, command: click.Command) -> None:
    """Give a command what its help ends with."""
    takes_runs = any(isinstance(param, click.Argument) and param.name in {"run", "runs"} for param in command.params)
    examples = "\n".join(f"  backprop {words}" for words in EXAMPLES.get(name, ()))
    ending = f"\n\n{_SCRIPT}" if name == "run" else ""
    command.epilog = (f"{_RUN}\n\n" if takes_runs else "") + f"\b\nExamples:\n{examples}{ending}"
