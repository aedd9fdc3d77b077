"""Make the pictures in docs/images anew: `make screenshots`, or `python -m docs.screenshots VIEW...` for some of them.

A view is a function that gets the demonstration and the folder for its pictures. To show another one, write it beside
`page.py` and name it here.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from docs.screenshots import page, terminal, watch
from docs.screenshots.demonstration import Demonstration

IMAGES = Path(__file__).parents[1] / "images"
VIEWS: dict[str, Callable[[Demonstration, Path], None]] = {
    "ui": page.take,
    "terminal": terminal.take,
    "watch": watch.take,
}


def main(names: list[str]) -> None:
    unknown = set(names) - set(VIEWS)
    if unknown:
        sys.exit(f"there is no view {', '.join(sorted(unknown))}; there are {', '.join(VIEWS)}")
    IMAGES.mkdir(exist_ok=True)
    demonstration = Demonstration()
    try:
        demonstration.make()
        for name in names or VIEWS:
            VIEWS[name](demonstration, IMAGES)
    finally:
        demonstration.end()


if __name__ == "__main__":
    main(sys.argv[1:])
