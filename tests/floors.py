"""The oldest dependencies that pyproject.toml allows, as constraints for pip: for `make floors`."""

import re
from pathlib import Path

import msgspec

_FLOOR = re.compile(r"([A-Za-z0-9-]+)>=([0-9.]+)")
_WHOLE = 3  # numbers in a version of which there is only one


def constraints(project: bytes) -> list[str]:
    """`click>=8.2` -> `click==8.2.*`: some lists have no release that is called exactly that."""
    found = (_FLOOR.match(line) for line in msgspec.toml.decode(project)["project"]["dependencies"])
    return [
        f"{name}=={version}{'' if version.count('.') >= _WHOLE - 1 else '.*'}"
        for name, version in (one.groups() for one in found if one)
    ]


if __name__ == "__main__":
    print("\n".join(constraints(Path("pyproject.toml").read_bytes())))
