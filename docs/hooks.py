"""What the site needs besides the pages: some pages of the repository's root, and links that lead out of docs/.

Loaded by MkDocs (`hooks` in mkdocs.yml). A link to a file of the repository that is no page, which is right where the
repository is read, becomes a link below `repo_url` where that is set, and the file's path where it is not.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
ROOT = DOCS.parent
# page -> the file at the root that it is made of
ROOT_PAGES = {"changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md", "contributing/index.md": "CONTRIBUTING.md"}
_LINK = re.compile(r"\[((?:[^][]|\[[^]]*\])*)\]\(([^)\s]+)\)")

_log = get_plugin_logger(__name__)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """With the pages of ROOT_PAGES whose files are there."""
    for page, name in ROOT_PAGES.items():
        if (ROOT / name).exists():
            files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """With links as the site needs them."""
    path = page.file.src_uri
    source = ROOT / ROOT_PAGES[path] if path in ROOT_PAGES else DOCS / path

    def link(match: re.Match[str]) -> str:
        text, target = match.groups()
        name, anchor = target.partition("#")[::2]
        if not name or ":" in target:
            return match[0]
        leads_to = Path(os.path.normpath(source.parent / name))
        pages = {str(ROOT / root): root_page for root_page, root in ROOT_PAGES.items()}
        is_page = str(leads_to) in pages
        if not is_page and leads_to.is_relative_to(DOCS):
            uri = leads_to.relative_to(DOCS).as_posix()
        elif is_page:
            uri = pages[str(leads_to)]
        else:
            if not leads_to.exists():
                _log.warning("%s: %s leads nowhere", path, target)
            place = leads_to.relative_to(ROOT).as_posix()
            plain = text.strip("`")
            there = plain if plain.endswith(place) or plain == place else f"{text} (`{place}`)"
            if config.repo_url:
                return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{place})"
            return f"`{there}`" if there == plain else there
        relative = os.path.relpath(uri, Path(path).parent).replace(os.sep, "/")
        return f"[{text}]({relative}{'#' * bool(anchor)}{anchor})"

    # code is left as it is
    parts = re.split(r"(^```.*?^```|`[^`\n]+`(?!\]))", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("`") else _LINK.sub(link, part) for part in parts)
