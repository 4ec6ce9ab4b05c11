"""Hooks of mkdocs: pages from files outside of docs/, links to such files, and patterns in the navigation."""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {"index.md": ROOT / "README.md", "changelog.md": ROOT / "CHANGELOG.md"}
"""Pages of the site that lie where GitHub looks for them."""
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")
"""The path of a link or image that is no address."""


def on_config(config: MkDocsConfig) -> None:
    """List the pages that a pattern of the navigation matches, so that a new page needs no entry."""
    config.nav = [_expanded(each) for each in config.nav or []]


def _expanded(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    ((title, pages),) = entry.items()
    if isinstance(pages, list):
        pages = [page for each in pages for page in (_matches(each) if "*" in each else [each])]
    return {title: pages}


def _matches(pattern: str) -> list[str]:
    return [path.relative_to(DOCS).as_posix() for path in sorted(DOCS.glob(pattern))]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that lie outside of docs/."""
    for uri, path in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links, which hold in the repository, at the site; a file outside of docs/ becomes part of the site."""
    home = Path(page.file.abs_src_path or DOCS).parent

    def on_site(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(home / link[1]))
        uri = next((uri for uri, path in PAGES.items() if path == target), None)
        if uri is None and target.is_relative_to(DOCS):
            uri = target.relative_to(DOCS).as_posix()
        elif uri is None and target.is_file() and target.is_relative_to(ROOT):
            uri = f"repository/{target.relative_to(ROOT).as_posix()}"
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(target)))
        elif uri is None:
            return link[0]  # leads nowhere, which mkdocs reports
        return f"]({os.path.relpath(uri, Path(page.file.src_uri).parent)}"

    return LINK.sub(on_site, markdown)
