"""README and every page are true: their commands parse, their code imports, their links lead somewhere, their tables
equal the results, and the site builds."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import actionfusion
from actionfusion.__main__ import main
from actionfusion.command_line import COMMANDS, parser_and_words
from actionfusion.models import MODELS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "RELEASING.md", "SECURITY.md", "examples/node/README.md")
PAGES = [*OUTSIDE, *sorted(page.relative_to(ROOT).as_posix() for page in DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
OTHER_LANGUAGES = {"python", "json", "yaml"}
SHELL_WORDS = {"|", ">", "<", "&&"}


@pytest.fixture(scope="module")
def make_tables():
    sys.path.insert(0, str(DOCS))
    try:
        yield import_module("make_tables")
    finally:
        sys.path.remove(str(DOCS))


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def shell_lines(page):
    """The lines of a page's shell blocks, and what stands between backticks in its prose."""
    blocks = [found for found in BLOCK.finditer(text(page)) if found["language"] not in OTHER_LANGUAGES]
    prose = " ".join(BLOCK.sub("", text(page)).split())
    return [line for block in blocks for line in block["text"].splitlines()] + re.findall(r"`([^`]+)`", prose)


def commands(page):
    """The words of each command line of ours on a page, after ``actionfusion``."""
    for line in shell_lines(page):
        found = re.search(r"(?:^|\| |-m |\.whl )actionfusion (?P<words>[a-z_]+( .*)?)$", line)
        if found is None:
            continue
        words = shlex.split(found["words"], comments=True)
        end = next((at for at, word in enumerate(words) if word in SHELL_WORDS), len(words))
        yield [word.rstrip(",") for word in words[:end]]


def test_commands_are_found_wherever_they_stand(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "Say `actionfusion\nstream RUN 0`.\n\n```\nactionfusion check a b  # why\nffmpeg - | actionfusion stream r -\n"
        "torchrun -m actionfusion train clips\n```\n```python\nactionfusion none\n```\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert list(commands("page.md")) == [
        ["check", "a", "b"], ["stream", "r", "-"], ["train", "clips"], ["stream", "RUN", "0"]
    ]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(page, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "my_clips").symlink_to(ROOT / "tests" / "earlier_versions" / "v0_1" / "run_unfinished")
    monkeypatch.chdir(tmp_path)  # a training is resumed by the recipe of its run
    for name, *words in commands(page):
        function = getattr(import_module(COMMANDS[name].module), name)
        if not words or words == ["--help"]:  # a mention of the command
            continue
        parser, rest, _ = parser_and_words(name, function, words)
        parser.parse_args(rest)


def test_a_wrong_command_on_a_page_is_found(tmp_path, monkeypatch):
    (tmp_path / "page.md").write_text("```\nactionfusion predict run clip.mp4 --topk 3\n```\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    ((name, *words),) = commands("page.md")
    function = getattr(import_module(COMMANDS[name].module), name)
    with pytest.raises(Exception, match="topk"):
        parser_and_words(name, function, words)


def test_the_readme_s_commands_run_on_a_run(tiny_run, shapes_root, tmp_path, monkeypatch, capsys):
    """All but the training and the server, which ends by a signal, literally, on a run of the same name."""
    shutil.copytree(tiny_run, tmp_path / "runs" / "my_clips")
    (tmp_path / "my_clips").symlink_to(shapes_root)
    clips = sorted((shapes_root / "test").rglob("*.mp4"))
    for name, clip in zip(("holiday.mp4", "other clip.avi"), clips, strict=False):
        shutil.copy(clip, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    lines = [words for words in commands("README.md") if len(words) > 1 and words[0] not in {"train", "serve"}]
    assert [words[0] for words in lines] == ["evaluate", "predict", "report", "explain"]
    assert [main(words) for words in lines] == [0, 0, 0, 0]
    assert "holiday.mp4" in capsys.readouterr().out
    assert (tmp_path / "runs/my_clips/report_test.html").is_file()
    assert list((tmp_path / "why").rglob("*.html"))


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_compiles_and_its_names_are_there(page):
    for block in BLOCK.finditer(text(page)):
        if block["language"] == "python":
            for node in ast.walk(ast.parse(block["text"])):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("actionfusion"):
                    module = import_module(node.module)
                    assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_scripts_and_extras_that_a_page_names_exist(page):
    lines = shell_lines(page)
    makefile = text("Makefile")
    targets = [target for line in lines for target in re.findall(r"^(?:\w+=\w+ )?make (\w+)", line)]
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
    scripts = [name for line in lines for name in re.findall(r"(?:^|\s)python[\d.]* (\S+\.py)", line)]
    assert [name for name in scripts if not (ROOT / name).is_file()] == []
    known = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"].keys() | {"NAME"}
    named = {
        name for found in re.findall(r"'actionfusion[^\s'\[]*\[([\w,]+)\]'", text(page)) for name in found.split(",")
    }
    assert named - known == set()


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_titles(page):
    path = ROOT / page
    for link in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_model_is_named_in_the_readme():
    assert [name for name in MODELS if f"`{name}`" not in text("README.md")] == []


def test_every_public_name_is_on_the_page_of_python():
    shown = re.findall(r"^::: actionfusion[\w.]*\.(\w+)$", text("docs/reference/python.md"), re.MULTILINE)
    assert sorted(shown) == sorted(set(actionfusion.__all__) - {"__version__"})


def test_every_page_is_in_the_navigation_and_the_index_for_language_models():
    built = text("mkdocs.yml").partition("nav:")[2]
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    assert [page for page in pages if f": {page}\n" not in built] == []


@pytest.mark.parametrize(
    ("link", "rc"), [("other.md#here", 0), ("missing.md", 1), ("other.md#nowhere", 1), ("/other.md", 1)]
)
def test_a_broken_link_fails_the_site(link, rc, tmp_path):
    """By the settings of the real site, on one of two pages."""
    rules = yaml.safe_load(text("mkdocs.yml"))
    site = {name: rules[name] for name in ("strict", "validation", "use_directory_urls")}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(site | {"site_name": "two", "plugins": []}))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# One\n\n[link]({link})\n")
    (tmp_path / "docs" / "other.md").write_text("# Other\n\n## Here\n")
    command = [sys.executable, "-m", "mkdocs", "build"]
    assert subprocess.run(command, check=False, capture_output=True, cwd=tmp_path).returncode == rc


@pytest.fixture
def site_hooks(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    return import_module("site_hooks")


def test_links_between_files_become_links_between_pages(site_hooks):
    def moved(page, markdown):
        return site_hooks.on_page_markdown(markdown, SimpleNamespace(file=SimpleNamespace(src_uri=page)), None, None)

    assert moved("how-to/export.md", "[x](../../examples/node/README.md)") == "[x](node.md)"
    assert moved("models.md", "[x](../CONTRIBUTING.md#style) [y](#z)") == "[x](contributing.md#style) [y](#z)"
    assert moved("changelog.md", "[x](docs/data.md) [y](https://a.org)") == "[x](data.md) [y](https://a.org)"
    assert moved("reference/files.md", "[x](../how-to/live.md)") == "[x](../how-to/live.md)"


def test_a_page_that_asks_another_server_is_refused(site_hooks):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    kept = '<a href="https://a.org">read</a><script src="assets/a.js"></script>'
    assert site_hooks.on_post_page(kept, page, None) == kept
    with pytest.raises(Exception, match="asks another server"):
        site_hooks.on_post_page('<link rel="stylesheet" href="https://fonts.org/a.css">', page, None)


def test_tables_are_those_of_the_results():
    subprocess.run([sys.executable, str(DOCS / "make_tables.py"), "--check"], check=True)


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
