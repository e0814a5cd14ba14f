"""The README is true: its commands parse, its tables equal the results, its links lead to files."""

import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from actionfusion.command_line import COMMANDS, parser_and_words
from actionfusion.models import MODELS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", README, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.startswith("actionfusion ")]


def test_there_are_commands_to_check():
    assert len(LINES) >= 4


def test_every_model_is_named():
    assert [name for name in MODELS if f"`{name}`" not in README] == []


@pytest.mark.parametrize("line", LINES)
def test_every_command_parses(line, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "my_clips").symlink_to(ROOT / "tests" / "earlier_versions" / "v0_1" / "run_unfinished")
    monkeypatch.chdir(tmp_path)  # a training is resumed by the recipe of its run
    _, name, *words = shlex.split(line)
    function = getattr(import_module(COMMANDS[name].module), name)
    parser, words, _ = parser_and_words(name, function, words)
    parser.parse_args(words)


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_tables_are_those_of_the_results():
    subprocess.run([sys.executable, str(ROOT / "docs" / "make_tables.py"), "--check"], check=True)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/model_card.md"])
def test_links_lead_to_files(page):
    path = ROOT / page
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert "://" in link or (path.parent / link).exists(), link
