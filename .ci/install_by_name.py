"""Build the wheel and the sdist, and use the wheel in an environment of its own, with the source out of reach.

python .ci/install_by_name.py  # the packages that the wheel asks for are linked from this environment: quick
python .ci/install_by_name.py --install --python python3.12  # pip installs them there, by constraints.txt
python .ci/install_by_name.py --out dist                     # keeps both files

Only what the wheel's own metadata asks for is in the environment, so a package that it forgets to name is missed.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
DATA = re.compile(r"actionfusion/(py\.typed|recipes/[\w-]+\.yaml|reporting/templates/[\w.]+|serving/page/[\w.]+)$")


def build(folder: Path) -> tuple[Path, Path]:
    """Build both files from the files that git knows, in a copy, so that nothing left over is in them."""
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    for kind in ("wheel", "sdist"):
        run(sys.executable, "-c", f"from setuptools.build_meta import *; build_{kind}({str(folder)!r})", cwd=source)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def check_contents(wheel: Path, sdist: Path) -> None:
    """See that the wheel holds every file of the package that is needed, and nothing else."""
    with zipfile.ZipFile(wheel) as file:
        inside = {name for name in file.namelist() if ".dist-info/" not in name}
    package = ROOT / "src"
    wanted = {path.relative_to(package).as_posix() for path in package.glob("actionfusion/**/*") if path.is_file()}
    wanted = {name for name in wanted if name.endswith(".py") or DATA.match(name)}
    assert inside == wanted, f"the wheel differs from the package: {sorted(inside ^ wanted)}"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "src/actionfusion/py.typed"} <= names


def needed(requirements: list[str], extra: str = "") -> dict[str, Distribution]:
    """Find the packages here that requirements ask for, and what those ask for in turn."""
    found: dict[str, Distribution] = {}
    todo = [(text, extra) for text in requirements]
    while todo:
        text, of_extra = todo.pop()
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": of_extra}):
            continue
        package = distribution(requirement.name)
        assert requirement.specifier.contains(package.version, prereleases=True), f"{text}, not {package.version}"
        key = requirement.name.lower()
        if key not in found or requirement.extras:
            found[key] = package
            todo += [(text, one) for text in package.requires or [] for one in (requirement.extras or {""})]
    return found


def link(packages: dict[str, Distribution], site: Path) -> None:
    """Link the files of packages into an environment."""
    for package in packages.values():
        tops = {file.parts[0] for file in package.files or [] if file.parts[0] not in {"..", "__pycache__"}}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(package.locate_file(top))))


def commands_of_start_page() -> list[list[str]]:
    """Read the commands of the part of the start page that needs no clips of one's own."""
    part = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").partition("## See it work")[2].partition("\n## ")[0]
    return [shlex.split(line) for line in re.findall(r"^actionfusion .*$", part, re.MULTILINE)]


def main() -> None:
    """Build, install, use."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--install", action="store_true", help="let pip install what the wheel asks for")
    parser.add_argument("--python", default=sys.executable, help="the Python of the environment, with --install")
    parser.add_argument("--out", type=Path, help="keep both files in this folder")
    given = parser.parse_args()
    out = given.out and given.out.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel, sdist = build(folder)
        check_contents(wheel, sdist)
        if out:
            out.mkdir(parents=True, exist_ok=True)
            shutil.copy(wheel, out)
            shutil.copy(sdist, out)
        environment = folder / "empty"
        run(given.python, "-m", "venv", environment, *([] if given.install else ["--without-pip"]))
        python = environment / "bin" / "python"
        pip = [python if given.install else sys.executable, "-m", "pip", "--disable-pip-version-check"]
        if given.install:
            run(*pip, "install", "--quiet", "-c", ROOT / "constraints.txt", f"{wheel}[lite]")
        else:
            run(*pip, "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
            metadata = next((environment / "lib").glob("python*/site-packages/actionfusion-*.dist-info"))
            link(needed(Distribution.at(metadata).requires or []), metadata.parent)
        use(environment, folder / "work", wheel)
    print("installed by name: the wheel works in an empty environment")  # noqa: T201


def use(environment: Path, work: Path, wheel: Path) -> None:
    """Follow the start page with the installed package."""
    work.mkdir()
    python, command = environment / "bin" / "python", environment / "bin" / "actionfusion"
    names = "import actionfusion; [getattr(actionfusion, name) for name in actionfusion.__all__]"
    where = run(python, "-c", f"{names}; print(actionfusion.__file__)", cwd=work)
    assert Path(where.strip()).is_relative_to(environment), f"imported from {where}"
    assert "predict" in run(command, "--help", cwd=work)
    for words in commands_of_start_page():
        few = ["--train_per_class", "4", "--test_per_class", "1"] if words[1] == "demo" else []
        run(command, *words[1:], *few, cwd=work)
    for tool, start in {"uvx": ["uvx", "--from"], "pipx": ["pipx", "run", "--spec"]}.items():
        if shutil.which(tool) is None:
            print(f"skipped: {tool} is not on this machine")  # noqa: T201
        else:
            assert "predict" in run(*start, wheel, "actionfusion", "--help", cwd=work)


def run(*words: object, cwd: Path | None = None) -> str:
    """Run a command away from the source and give what it prints; what it says is shown if it fails."""
    clean = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
