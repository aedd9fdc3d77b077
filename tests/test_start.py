"""The package imports."""

import backprop


def test_the_package_has_a_version():
    """`backprop.__version__` is what the distribution is built from."""
    assert backprop.__version__.count(".") == 2
