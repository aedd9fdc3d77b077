"""The sampler of sweeps that needs PyTorch."""

import json
import sysconfig
from pathlib import Path

import pytest

from tests.frameworks.conftest import FrameworkRuns

ROOT = Path(__file__).parents[2]


@pytest.mark.nightly  # Optuna is installed for these only
def test_gp_learns_and_repeats(framework_runs: FrameworkRuns):
    """Its proposals are nearer than those at random before; the same journal gives the same; lists of words, too."""
    program = """
        import json, sys
        sys.path += sys.argv[1:]  # what this environment has comes first: Optuna, PyTorch, SciPy
        import optuna
        from tests.exports.test_sweep_samplers import SPACE, search
        words = (*SPACE, "n=1..64:log", "act=relu,gelu")
        print(json.dumps([search("gp", 18)[1], search("gp", 18)[1], search("gp", 12, *words)[1]]))
    """
    paths = (ROOT, ROOT / "src", sysconfig.get_path("purelib"))
    first, again, mixed = json.loads(framework_runs.evaluate(program, *paths))
    assert again == first
    assert sum(first[10:]) / 8 < sum(first[:10]) / 10
    assert len(mixed) == 12
