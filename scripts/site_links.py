"""A hook of mkdocs: README and changelog are pages too, and links out of `docs/` lead to copies of the files.

Links are written as they work in the repository, relative to the file that has them. One that leads
to nothing stays as it is, and mkdocs complains of it.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "readme.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository that are pages of the site, by their place there."""
COPIES = "source"
"""The folder of the site for what else is linked to."""

_LINK = re.compile(r"(\]\()([^)\s#]+)")
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside `docs/`, and every file that a page links to."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    linked = {target for file in files.documentation_pages() for target in _copied(file)}
    for target in sorted(linked):
        files.append(File.generated(config, f"{COPIES}/{target}", abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Point the links of a page to where their targets are on the site."""
    here = posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        place = _place(_in_repository(page.file.src_uri, match[2]))
        return match[0] if place is None else f"{match[1]}{posixpath.relpath(place, here or '.')}"

    parts = _CODE.split(markdown)
    return "".join(part if n % 2 else _LINK.sub(moved, part) for n, part in enumerate(parts))


def _copied(file: File) -> set[str]:
    found = set()
    for part in _CODE.split(file.content_string)[::2]:
        for _, link in _LINK.findall(part):
            target = _in_repository(file.src_uri, link)
            if (place := _place(target)) is not None and place.startswith(f"{COPIES}/"):
                found.add(target)
    return found


def _in_repository(page: str, link: str) -> str:
    """Where a link of a page leads, from the root of the repository."""
    origin = next((source for source, name in PAGES.items() if name == page), f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def _place(target: str) -> str | None:
    """Where it is on the site; None for what is no file of the repository."""
    if target in PAGES:
        return PAGES[target]
    if target.startswith("..") or not (ROOT / target).is_file():
        return None
    return target.removeprefix("docs/") if target.startswith("docs/") else f"{COPIES}/{target}"
