"""Fail each write of each command once, by a full disk, a broken one and a kill, and see that nothing is lost.

    python benchmarks/faults.py [--commands train ...] [--every 1] [--work DIR]

After each fault: the command has ended with code 0 or 1 and one line that says what is wrong, or with the kill; files
that were there before are whole; and the command run again ends with the same files, byte by byte, as one that nothing
disturbed.  What may differ from run to run, such as times, is not compared.  See ``fault_driver.py``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actionfusion.data.shapes_files import make_shapes
from actionfusion.files import write_atomically
from actionfusion.run_folder import CHECKPOINT
from measuring import made_by

RESULTS = Path(__file__).parent / "results" / "faults.json"
KINDS = ("ENOSPC", "EIO", "kill")
# Their content tells times; all else is to be equal byte by byte.
TIMED = {
    "train.log",
    "metrics.csv",
    "resume.json",
    "report.html",
    "prepared.json",
    "protocol.html",
    "manifest.csv.journal",
    "cost.json",
    "comparison.json",
    "comparison.html",
}
_STAGE = "[{learning_rate: 0.001, max_epochs: 1, patience: null}]"


@dataclass(frozen=True)
class Place:
    """Where a command works.

    Attributes:
        clips: labelled videos, which nothing changes.
        out: holds what the command is to find, and takes what it makes.
    """

    clips: Path
    out: Path


Words = Callable[[Place], Sequence[str | Path]]


@dataclass(frozen=True)
class Command:
    """A command under test.

    Args:
        words: of the command.
        needs: names of commands whose results it is to find.
        again: words that go on after a fault, where they are others.
    """

    words: Words
    needs: tuple[str, ...] = ()
    again: Words | None = None


def _train(place: Place) -> Sequence[str | Path]:
    fixed = ("--training.workers", "0", "--training.stages", _STAGE, "--training.checkpoint_steps", "1")
    data = ("--data.root", place.clips, "--data.dataset", "folder", "--data.split", "folders")
    return ("train", "--config", "tiny", *data, "--data.validation", "none", *fixed, "--out", place.out / "run")


def _train_on(place: Place) -> Sequence[str | Path]:
    if (place.out / "run" / CHECKPOINT).exists():
        return ("train", "--resume", "--out", place.out / "run")
    return _train(place)


def _featured(words: Words) -> Words:
    def with_features(place: Place) -> Sequence[str | Path]:
        given = words(place)
        own = ("--features.folder", place.out / "features", "--features.views", "1")
        return given if "--resume" in given else (*given, *own)

    return with_features


def _explain(place: Place) -> Sequence[str | Path]:
    return ("explain", place.out / "run", _a_clip(place), "--out", place.out / "explained")


def _export(place: Place) -> Sequence[str | Path]:
    return ("export", place.out / "run", "--format", "onnx", "--out", place.out / "exported")


def _average(place: Place) -> Sequence[str | Path]:
    return ("average", place.out / "run", place.out / "run", "--out", place.out / "average")


def _whole(folder: Path) -> Sequence[str | Path]:
    """Words that do nothing, if the folder is there: it appears when it is complete, and is not written again."""
    return ("--help",) if folder.exists() else ()


COMMANDS: Mapping[str, Command] = {
    "check": Command(
        lambda place: ("check", "folder", place.clips, "--out", place.out / "manifest.csv", "--workers", "0")
    ),
    "prepare": Command(
        lambda place: (
            *("prepare", "folder", place.clips, "--store", place.out / "store", "--workers", "0"),
            *("--flow.engine", "dis", "--flow.size", "32"),
        )
    ),
    "train": Command(_train, again=_train_on),
    "train from features": Command(_featured(_train), again=_featured(_train_on)),
    "evaluate": Command(lambda place: ("evaluate", place.out / "run", "--root", place.clips), ("train",)),
    "report": Command(lambda place: ("report", place.out / "run", "--root", place.clips), ("train", "evaluate")),
    "explain": Command(_explain, ("train",), again=lambda place: _whole(place.out / "explained") or _explain(place)),
    "predict with a runtime": Command(
        lambda place: ("predict", place.out / "run", _a_clip(place), "--runtime", "onnx"), ("train",)
    ),
    "timeline": Command(
        lambda place: ("predict", place.out / "run", _a_clip(place), "--segments", "--out", place.out / "seen"),
        ("train",),
    ),
    "export": Command(_export, ("train",), again=lambda place: _whole(place.out / "exported") or _export(place)),
    "protocol": Command(
        lambda place: (
            *("protocol", "random-7:3", "--config", "tiny", "--data.root", place.clips, "--data.dataset", "folder"),
            *("--data.validation", "none", "--training.workers", "0"),
            *("--training.stages", _STAGE, "--out", place.out / "protocol"),
        )
    ),
    "average": Command(_average, ("train",), again=lambda place: _whole(place.out / "average") or _average(place)),
    "compare": Command(
        lambda place: (
            *("compare", "folder", place.clips, "--config", "tiny", "--models", "probe", "--reference", "probe"),
            *("--protocol", "folders", "--out", place.out / "compared"),
        )
    ),
}


def _a_clip(place: Place) -> Path:
    return min(place.clips.rglob("*.mp4"))


class Driver:
    """The process that runs commands in children of its own."""

    def __init__(self) -> None:
        program = Path(__file__).with_name("fault_driver.py")
        self._process = subprocess.Popen(
            [sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, words: Sequence[str | Path], folder: Path, kind: str | None = None, number: int = 0
    ) -> dict[str, Any]:
        """Run a command; the writes below the folder count."""
        fault = {"kind": kind, "number": number}
        case = {"words": [str(word) for word in words], "folder": str(folder), "fault": fault}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextmanager
def driver() -> Iterator[Driver]:
    """Start the process, and end it with the block."""
    started = Driver()
    try:
        yield started
    finally:
        started.close()


class Bench:
    """A command with all that it finds, and with what it makes where nothing disturbs it.

    Args:
        name: of the command.
        clips: labelled videos.
        work: folder for all of it.
        commands: runs them.
    """

    def __init__(self, name: str, clips: Path, work: Path, commands: Driver) -> None:
        self.command, self._driver = COMMANDS[name], commands
        self._found, self._place = work / "found", Place(clips, work / "out")
        shutil.rmtree(work, ignore_errors=True)
        self._place.out.mkdir(parents=True)
        for need in self.command.needs:
            ended = commands.run(COMMANDS[need].words(self._place), self._place.out)
            assert ended["code"] == 0, ended
        shutil.copytree(self._place.out, self._found)
        ended = commands.run(self.command.words(self._place), self._place.out)
        assert ended["code"] == 0, ended
        self.writes: int = ended["writes"]
        self.made = contents(self._place.out)

    def faults_of(self, kind: str, number: int) -> list[str]:
        """Fail one write and run the command again; say what is wrong with how that ended."""
        out = self._place.out
        shutil.rmtree(out)
        shutil.copytree(self._found, out)
        before = contents(out)
        ended, wrong = self._driver.run(self.command.words(self._place), out, kind, number), list[str]()
        said = [line for line in ended["error"].splitlines() if line.startswith("error: ")]
        if kind == "kill":
            if ended["code"] != -9:
                wrong.append(f"ended with {ended['code']} in place of the kill")
        elif "Traceback" in ended["error"] or ended["code"] not in {0, 1}:
            wrong.append(f"ended with {ended['code']}: {ended['error'][-2000:]}")
        elif ended["code"] == 1 and len(said) != 1:
            wrong.append(f"said {said or ended['error'][-2000:]}")
        after = contents(out)
        lost = [name for name in before if after.get(name) not in {before[name], self.made.get(name)}]
        wrong += [f"{lost} were there and are no longer"] if lost else []
        again = self._driver.run((self.command.again or self.command.words)(self._place), out)
        if again["code"] != 0:
            return [*wrong, f"again ended with {again['code']}: {again['error'][-2000:]}"]
        now = contents(out)
        if now != self.made:
            names = sorted(now.keys() | self.made.keys())
            wrong.append(f"differs in {[name for name in names if now.get(name) != self.made.get(name)]}")
        return wrong


def contents(folder: Path) -> dict[str, bytes]:
    """All files that the user sees, by their names; of those that tell times the name alone."""
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: b"" if path.name in TIMED else _lasting(path)
        for name, path in named.items()
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def _lasting(path: Path) -> bytes:
    """Read a file, of a checkpoint the tensors: what is said of the training beside them tells times."""
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :] if path.name == CHECKPOINT else content


def clips_in(folder: Path) -> Path:
    """Make four generated clips: of two classes one to learn from and one to test."""
    made = make_shapes(folder, train_per_class=1, val_per_class=0, test_per_class=1, seed=7)
    for part in ("train", "test"):
        for label in sorted((made / part).iterdir())[2:]:
            shutil.rmtree(label)
    return made


def main() -> None:
    """Fail every write, or every k-th, and write down how many faults ended well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/faults"))
    arguments = parser.parse_args()
    clips = clips_in(arguments.work / "clips")
    with driver() as commands:
        for name in arguments.commands:
            bench, wrong = Bench(name, clips, arguments.work / name.replace(" ", "_"), commands), list[str]()
            numbers = range(1, bench.writes + 1, arguments.every)
            for number in numbers:
                for kind in KINDS:
                    found = bench.faults_of(kind, number)
                    wrong += [f"{kind} at write {number}: {each}" for each in found]
                    for each in found:
                        print(f"{name}, {kind} at write {number} of {bench.writes}: {each}", flush=True)
            row = {"writes": bench.writes, "faults": len(numbers) * len(KINDS), "ended_badly": len(wrong)}
            print(f"{name}: {row}", flush=True)
            _record(name, row)


def _record(name: str, row: dict[str, int]) -> None:
    before = json.loads(RESULTS.read_text(encoding="utf-8"))["commands"] if RESULTS.is_file() else {}
    result = {**made_by("python benchmarks/faults.py"), "kinds": list(KINDS), "commands": before | {name: row}}
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
