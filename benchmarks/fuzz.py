"""Change files of every kind that is read, at random, and see that reading them ends well.

    python benchmarks/fuzz.py --inputs 100000 [--real DATA] [--seed 1]

Each input is one changed file, read in a child process.  It is a find if the child ends by a signal, if it takes over
20 s or over 1 GiB more memory than before, if an exception of another family comes, or if a video still decodes and
gives other frames than FFmpeg alone.  Results are written now and then, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import cv2

from actionfusion.data.shapes_files import make_shapes
from actionfusion.errors import ActionFusionError
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.files import write_atomically
from actionfusion.training.recipe import load_recipe
from actionfusion.training.stages import Stage
from actionfusion.training.train import train
from fuzz_kinds import UNDETERMINED, Kind, kinds, make_material
from fuzz_mutations import mutate
from measuring import made_by

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
SECONDS = 20.0
MEMORY = 1 << 30
_EVERY = 500
# Address space beyond that of a child that has read nothing yet, after which a call fails: a net below the one above.
_NET = 4 << 30


@dataclass
class Findings:
    """Counts of inputs by kind and outcome, and what was found.

    Attributes:
        done: inputs so far; the next has this number.
        seconds: that they took.
        outcomes: by kind: refused, answered, or how a find ended.
        finds: the inputs that ended otherwise, by number.
    """

    done: int = 0
    seconds: float = 0.0
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    finds: list[dict[str, Any]] = field(default_factory=list)

    def add(self, number: int, kind: str, outcome: str, detail: str, file: str) -> None:
        """Count an input."""
        self.done = number + 1
        counts = self.outcomes.setdefault(kind, {})
        counts[outcome] = counts.get(outcome, 0) + 1
        if outcome not in ("refused", "answered", UNDETERMINED):
            self.finds.append({"number": number, "kind": kind, "file": file, "outcome": outcome, "detail": detail})


def changed(folder: Path, known: list[Kind], seed: int, number: int) -> tuple[Kind, str, bytes]:
    """Make an input: its kind, the file that is changed, and its new bytes."""
    chance = random.Random(f"{seed} {number}")
    kind = chance.choices(known, [each.share for each in known])[0]
    name = chance.choice(kind.files)
    return kind, name, mutate((folder / name).read_bytes(), chance, text=kind.text)


def read_input(folder: Path, kind: Kind, name: str, data: bytes) -> tuple[str, str]:
    """Read a changed file in its place, and put the old one back: how it ended, and details of a find."""
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(data)
    before = _reset_peak()
    try:
        answer = kind.read(folder, name)
        outcome, detail = UNDETERMINED if isinstance(answer, str) else "answered", ""
    except ActionFusionError as error:
        outcome, detail = "refused", ""
        str(error)
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        outcome, detail = type(error).__name__, " ".join(str(error).split())[:300]
    finally:
        path.write_bytes(whole)
    more = _peak() - before
    return ("memory", f"{more >> 20} MiB") if more > MEMORY else (outcome, detail)


def _reset_peak() -> int:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return _peak()


def _peak() -> int:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return int(text.split("VmHWM:")[1].split()[0]) << 10


def child(folder: Path, seed: int, start: int, stop: int) -> None:
    """Read inputs one after the other; a line for each on standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is read may print something
    cv2.setNumThreads(1)
    known = kinds(folder)
    for kind in known:  # loads what is loaded once
        read_input(folder, kind, kind.files[0], (folder / kind.files[0]).read_bytes())
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + _NET, size + _NET))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", file=answers, flush=True)
    for number in range(start, stop):
        kind, name, data = changed(folder, known, seed, number)
        outcome, detail = read_input(folder, kind, name, data)
        print(json.dumps([number, kind.name, outcome, detail, name]), file=answers, flush=True)


def run(folder: Path, seed: int, stop: int, found: Findings) -> Iterator[None]:
    """Read inputs in children up to a number, and yield after each."""
    known = kinds(folder)
    while found.done < stop:
        words = [sys.executable, __file__, "--child", str(folder), str(seed), str(found.done), str(stop)]
        with (
            tempfile.TemporaryFile() as said,
            subprocess.Popen(words, stdout=subprocess.PIPE, stderr=said) as process,
        ):
            lines = _lines(process)
            if next(lines, None) != "ready":
                said.seek(0)
                raise SystemExit(f"a child does not begin:\n{said.read().decode()}")
            for line in lines:
                if line is None:
                    process.kill()
                    break
                number, kind, outcome, detail, name = json.loads(line)
                found.add(number, kind, outcome, detail, name)
                yield
            code = process.wait()
            if found.done < stop:
                each, name, data = changed(folder, known, seed, found.done)
                (folder / name).write_bytes(_whole(folder, name))
                said.seek(0)
                outcome = "time" if code == -9 else f"ends with {code}"
                found.add(found.done, each.name, outcome, said.read()[-300:].decode("utf-8", "replace"), name)
                del data
                yield


def _whole(folder: Path, name: str) -> bytes:
    return (folder.with_name(f"{folder.name}-whole") / name).read_bytes()


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str | None]:
    """Yield what a child prints; None where it prints nothing for too long."""
    assert process.stdout is not None
    rest, limit = b"", 300.0  # it loads PyTorch first
    while True:
        if not select.select([process.stdout], [], [], limit)[0]:
            yield None
            return
        block = os.read(process.stdout.fileno(), 1 << 16)
        if not block:
            return
        *lines, rest = (rest + block).split(b"\n")
        yield from (line.decode() for line in lines)
        limit = SECONDS


def write_results(path: Path, seed: int, found: Findings) -> None:
    """Write what was found so far."""
    totals: Counter[str] = Counter()
    for counts in found.outcomes.values():
        totals.update(counts)
    about = made_by(f"python benchmarks/fuzz.py --seed {seed}")
    about["versions"] |= {"av": av.__version__, "opencv": cv2.__version__}
    about["versions"] |= {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    limits = {"seconds": SECONDS, "bytes": MEMORY}
    write_atomically(
        path, json.dumps(about | {"seed": seed, "limits": limits, "totals": totals} | asdict(found), indent=1)
    )


def lay_out(folder: Path, make: Callable[[Path], None]) -> Path:
    """Give a folder of material, made anew from a copy that is made once."""
    target, whole = folder / "material", folder / "material-whole"
    if not whole.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        make(target)
        shutil.move(target, whole)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(whole, target)
    return target


def train_and_make(folder: Path, real: Path | None) -> None:
    """Make the material, with a run of one epoch."""
    clips = make_shapes(folder.parent / "clips", train_per_class=2, val_per_class=0, test_per_class=1, seed=7)
    recipe = load_recipe("tiny")
    data = replace(recipe.data, dataset="folder", root=clips, split="folders", validation="test")
    training = replace(recipe.training, stages=(Stage(1e-3, 1, 1),), batch_size=8, workers=0)
    trained = train(recipe.changed(data=data, training=training), out=folder.parent / "trained")
    evaluate(trained, root=clips)
    make_material(folder, trained, clips, real)


def main() -> None:
    """Go on with what was begun with the same seed, or begin."""
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), *map(int, sys.argv[3:]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="in all, with those of earlier calls")
    parser.add_argument("--minutes", type=float, default=1e9, help="after which it stops")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", type=Path, help="a folder of real videos, of which small ones are taken")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "actionfusion-fuzz")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    folder = lay_out(given.work, lambda target: train_and_make(target, given.real))
    found = Findings()
    if given.out.is_file() and (before := json.loads(given.out.read_text()))["seed"] == given.seed:
        found = Findings(**{name: before[name] for name in ("done", "seconds", "outcomes", "finds")})
    began, earlier = time.monotonic(), found.seconds
    for _ in run(folder, given.seed, given.inputs, found):
        found.seconds = round(earlier + time.monotonic() - began, 1)
        if found.done % _EVERY == 0:
            write_results(given.out, given.seed, found)
        if time.monotonic() - began > 60 * given.minutes:
            break
    write_results(given.out, given.seed, found)
    shown: defaultdict[str, int] = defaultdict(int)
    for find in found.finds:
        shown[f"{find['kind']}: {find['outcome']}: {find['detail'][:120]}"] += 1
    for text, count in sorted(shown.items(), key=lambda item: -item[1]):
        print(f"{count:6d}  {text}")
    print(f"{found.done} inputs, {len(found.finds)} finds")


if __name__ == "__main__":
    main()
