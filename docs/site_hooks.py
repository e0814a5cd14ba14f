"""Hooks of mkdocs: pages that are files of the repository outside docs/, no requests to others, and llms.txt."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent

# Files outside docs/, and where they are in the site.
OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "RELEASING.md": "releasing.md",
    "SECURITY.md": "security.md",
    "examples/node/README.md": "how-to/node.md",
    "benchmarks/results/mechanisms.svg": "mechanisms.svg",
}
_SOURCES = {page: source for source, page in OUTSIDE.items()}
_summaries: dict[str, tuple[str, str]] = {}


def on_files(files: Any, config: Any) -> Any:
    """Add the files of the repository that stand outside docs/."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001
    """Turn links between files of the repository into links between pages of the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(_SOURCES.get(here, f"docs/{here}"))

    def moved(match: re.Match[str]) -> str:
        link, mark, anchor = match["link"].partition("#")
        if "://" in link or not link:
            return match[0]
        target = posixpath.normpath(posixpath.join(folder, link))
        inside = OUTSIDE.get(target) or target.removeprefix("docs/")
        return f"]({posixpath.relpath(inside, posixpath.dirname(here) or '.')}{mark}{anchor})"

    _summaries[here] = _summary(markdown)
    return re.sub(r"\]\((?P<link>[^)\s]+)\)", moved, markdown)


def _summary(markdown: str) -> tuple[str, str]:
    """Find a page's title and its first paragraph's first sentence."""
    blocks = [" ".join(block.split()) for block in markdown.split("\n\n") if block.strip()]
    title = next((block.removeprefix("# ") for block in blocks if block.startswith("# ")), "")
    text = next((block for block in blocks if block[0].isalpha() or block[0] in "`*["), "")
    plain = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)
    return title, re.split(r"(?<=\.)\s", plain)[0]


def on_post_page(output: str, page: Any, config: Any) -> str:  # noqa: ARG001
    """Refuse a page that asks another server for anything.

    Raises:
        PluginError: it does.
    """
    if found := re.search(
        r"<(?:script|link|img|iframe|source|video)\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^>]*>", output
    ):
        raise PluginError(f"{page.file.src_uri} asks another server: {found[0]}")
    return output


def on_post_build(config: Any) -> None:
    """Write llms.txt, an index of the site for language models."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    for entry in config.nav:
        ((title, pages),) = entry.items()
        pages = [{title: pages}] if isinstance(pages, str) else pages
        lines += ["", f"## {title}", ""]
        for item in pages:
            ((name, page),) = item.items()
            about = _summaries[page][1]
            lines.append(f"- [{name}]({page.removesuffix('.md')}.html){': ' if about else ''}{about}")
    (Path(config.site_dir) / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
