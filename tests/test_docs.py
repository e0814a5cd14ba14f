"""The pages under docs/: their commands parse, their links lead to files and titles, their tables equal the results."""

import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest

from actionfusion.command_line import COMMANDS, parser_and_words

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md"))


@pytest.fixture(scope="module")
def make_tables():
    sys.path.insert(0, str(DOCS))
    try:
        yield import_module("make_tables")
    finally:
        sys.path.remove(str(DOCS))


def text(page):
    return (DOCS / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(page):
    blocks = re.findall(r"```\w*\n(.*?)```", text(page), re.DOTALL)
    for line in [line for block in blocks for line in block.splitlines() if line.startswith("actionfusion ")]:
        _, name, *words = shlex.split(line)
        function = getattr(import_module(COMMANDS[name].module), name)
        parser, words, _ = parser_and_words(name, function, words)
        parser.parse_args(words)


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_titles(page):
    for link in re.findall(r"\]\(([^)]+)\)", text(page)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = DOCS / (file or page)
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_result_table_has_its_place(make_tables):
    shown = [
        name for page in make_tables.PAGES for name in re.findall(r"<!-- table: (\w+) -->", page.read_text("utf-8"))
    ]
    assert sorted(shown) == sorted(make_tables.TABLES)


def test_a_stale_table_is_found_and_rewritten(make_tables, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- table: one -->\nold\n<!-- end: one -->\nbelow\n", encoding="utf-8")
    monkeypatch.setattr(make_tables, "ROOT", tmp_path)
    monkeypatch.setattr(make_tables, "PAGES", (page,))
    monkeypatch.setattr(make_tables, "TABLES", {"one": lambda: r"| new \1 |"})
    monkeypatch.setattr(sys, "argv", ["make_tables.py", "--check"])
    assert make_tables.main() == 1
    assert "page.md" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["make_tables.py"])
    assert make_tables.main() == 0
    assert page.read_text(encoding="utf-8") == "above\n<!-- table: one -->\n| new \\1 |\n<!-- end: one -->\nbelow\n"
    monkeypatch.setattr(sys, "argv", ["make_tables.py", "--check"])
    assert make_tables.main() == 0


def test_a_mark_without_a_table_is_an_error(make_tables):
    with pytest.raises(KeyError, match="nothing"):
        make_tables.filled("<!-- table: nothing -->\n<!-- end: nothing -->")
