"""Expressions that are compiled at their first use."""

import re
import subprocess
import sys

import pytest

from backprop.store.output.expressions import later


def test_it_is_the_expression_from_its_first_use_on():
    """With its flags, and each time."""
    word = later(r"(\w+)!", re.IGNORECASE | re.ASCII)
    assert [word.findall("Ja! né!"), word.findall("no!")] == [["Ja"], ["no"]]
    assert (word.pattern, word.flags) == (r"(\w+)!", re.compile(r"(\w+)!", re.IGNORECASE | re.ASCII).flags)


def test_a_wrong_one_is_told_at_its_first_use():
    """Not where it stands."""
    wrong = later("(")
    with pytest.raises(re.error):
        wrong.search("a")


def test_a_session_compiles_no_parser_before_something_is_printed():
    """But loads its modules: those on the disk may be of another version by then."""
    program = (
        "import re._compiler; seen = []; whole = re._compiler.compile; "
        "re._compiler.compile = lambda pattern, *rest: (seen.append(str(pattern)), whole(pattern, *rest))[1]; "
        "from backprop.store.output import outlook, printed, printed_metrics; print(*('terations' in one for one in seen)); "
        "printed.parse('epoch 1 loss: 0.5'); print(*('terations' in one for one in seen))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = done.stdout.splitlines()
    assert ("True" in before, "True" in after) == (False, True)
