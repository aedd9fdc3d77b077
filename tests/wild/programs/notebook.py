"""A notebook, run by jupyter nbconvert --execute, that continues from its own checkpoint."""
# requires nbconvert jupyter-core ipykernel torch

import os
import subprocess
import sys
import textwrap

import nbformat

CELLS = [
    """
    import hashlib, os, torch
    from torch import nn
    terminal = open(os.environ["TERMINAL"], "a")
    torch.manual_seed(0)
    x = torch.randn(1024, 64)
    y = (x.sum(1) > 0).long()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    """,
    """
    start = 0
    if os.path.exists("checkpoint.pt"):
        checkpoint = torch.load("checkpoint.pt")
        start = checkpoint["epoch"]
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
    """,
    """
    for epoch in range(start, 40):
        for first in range(0, len(x), 32):
            loss = nn.functional.cross_entropy(model(x[first : first + 32]), y[first : first + 32])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print("step", epoch + 1, file=terminal, flush=True)
        if (epoch + 1) % 10 == 0:
            state = {"epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, "checkpoint.pt")
    """,
    """
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    print("final", hashlib.sha256(weights).hexdigest()[:12], 40, file=terminal, flush=True)
    """,
]

notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in CELLS])
nbformat.write(notebook, "training.ipynb")
# what a cell prints goes into the notebook
os.environ["TERMINAL"] = f"/proc/{os.getpid()}/fd/1"
words = ["jupyter", "nbconvert", "--to", "notebook", "--execute", "--ExecutePreprocessor.timeout=-1", "training.ipynb"]
sys.exit(subprocess.run(words, check=False).returncode)
