"""Opens the page in a browser without the token on its command line, which every user of the machine can read."""

import html
from pathlib import Path
from tempfile import NamedTemporaryFile

_PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0;url={url}">
<title>Backprop</title>
<p><a href="{url}">Open the page</a></p>
"""


class LoginRedirect:
    """A file that only this user can read, and that redirects to the page."""

    def __init__(self, folder: Path, url: str) -> None:
        self._file = NamedTemporaryFile("w", dir=folder, prefix="page-", suffix=".html", encoding="utf-8")  # noqa: SIM115
        self._file.write(_PAGE.format(url=html.escape(url)))
        self._file.flush()

    @property
    def url(self) -> str:
        """The URL to open; it contains no secret."""
        return Path(self._file.name).as_uri()

    def close(self) -> None:
        """Remove the file. May be called more than once."""
        self._file.close()
