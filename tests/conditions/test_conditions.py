"""All commands under conditions that a disk, a terminal, a batch system or a container makes; see ``table.py``.

Each ends with 0, 1 or 2, without a traceback, with what was there whole, and can be gone on with.
``CONDITIONS_ROUNDS=20`` sends signals at that many times as many moments.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml

import actionfusion
from actionfusion.commands import COMMANDS

if sys.platform == "win32":
    pytest.skip("forks, and sends POSIX signals", allow_module_level=True)

HERE = Path(__file__).parent
spec = spec_from_file_location("conditions_table", HERE / "table.py")
table = module_from_spec(spec)
spec.loader.exec_module(table)
CASES = table.CASES
WRITING = [name for name, case in CASES.items() if case.name]
# These take seconds of work, so they meet fewer of the conditions that no line of their own decides.
LONG = {"train", "protocol", "export", "explain", "benchmark", "demo"}
SHOWING = ["evaluate", "versus", "predict", "predict --segments", "stream"]
QUICK = [name for name in CASES if name not in LONG]
SECONDS = 240
ROUNDS = int(os.environ.get("CONDITIONS_ROUNDS", "1"))


class Server:
    """The process that ``command_server.py`` is."""

    def __init__(self, folder):
        environment = {**os.environ, "PYTHONPATH": str(Path(actionfusion.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, HERE / "command_server.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        self._folder, self._count = folder, 0
        self.begun = time.time()

    def ask(self, **request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, words, folder, *, out=True, err=True, **more):
        """Start a command; a stream is a pipe if true, else a path, or None if it is closed."""
        self._count += 1
        told, threads, places = {}, [], ["/dev/null"]
        for name, kind in (("out", out), ("err", err)):
            if kind is True:
                kind = str(self._folder / f"{name}{self._count}")  # noqa: PLW2901
                os.mkfifo(kind)
                threads.append(threading.Thread(target=_read, args=(kind, told, name), daemon=True))
                threads[-1].start()
            places.append(kind)
        request = {"words": list(map(str, words)), "folder": str(folder), "streams": places} | more
        return self.ask(start=request), told, threads

    def wait(self, started):
        process, told, threads = started
        code = self.ask(wait=process, seconds=SECONDS)
        for thread in threads:
            thread.join(SECONDS)
        return Ended(code, told.get("out", ""), told.get("err", ""))

    def run(self, words, folder, **more):
        return self.wait(self.start(words, folder, **more))

    def end(self):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def _read(place, told, name):
    told[name] = Path(place).read_bytes().decode("utf-8", "replace")


class Ended:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return f"exit code {self.code}\n{self.out}\n{self.err}"

    @property
    def errors(self):
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    def is_clean(self, *codes):
        return self.code in codes and "Traceback" not in self.out + self.err and "ignored in" not in self.err

    def failed_in_a_line(self):
        """One line of error, and it is the last."""
        return self.is_clean(1) and len(self.errors) == 1 and self.err.splitlines()[-1] == self.errors[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("streams"))
    yield server
    server.end()


@pytest.fixture(scope="module")
def given(tmp_path_factory, server):
    """What the words of the table stand for."""
    from actionfusion.data.shapes_files import make_shapes
    from actionfusion.recipes import find_recipe

    folder = tmp_path_factory.mktemp("given")
    clips = make_shapes(folder / "clips", train_per_class=2, val_per_class=0, test_per_class=1, seed=7)
    for unused in [label for part in ("train", "test") for label in (clips / part).iterdir()]:
        if unused.name not in {"motion_up", "motion_down"}:
            shutil.rmtree(unused)
    (clips / "clips.json").unlink(missing_ok=True)
    video = folder / "clip.mp4"
    shutil.copy(next((clips / "test").rglob("*.mp4")), video)
    data = {"dataset": "folder", "root": str(clips), "split": "folders", "validation": "none"}
    stages = [{"learning_rate": 0.001, "max_epochs": 1, "patience": None}]
    training = {"batch_size": 2, "workers": 0, "stages": stages}
    recipe = yaml.safe_load(find_recipe("tiny").read_text()) | {"data": data, "training": training}
    recipe["clip"]["frames"] = 2  # to count the operations of more takes longer than all else
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    paths = {"run": folder / "trained", "other": folder / "other", "clips": clips, "video": video}
    paths["recipe"] = folder / "recipe.yaml"
    outputs = {"train": paths["run"], "evaluate": paths["run"] / "evaluation_test.json"}
    warm = [words_of(CASES[name], paths, outputs.get(name, "")) for name in ("train", "predict", "evaluate")]
    assert server.ask(warm=warm) == 1, "threads would be lost in a fork"
    shutil.copytree(paths["run"], paths["other"])
    return paths


def words_of(case, given, out, words=None):
    return [case.command, *(str(word).format(**given, out=out) for word in (words or case.words).split())]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def gone_on_with(server, case, given, out, folder):
    """Go on with the work as the page says; true if that ends it."""
    first = case.resume if case.resume and (out / "config.yaml").is_file() else case.words
    ended = server.run(words_of(case, given, out, first), folder)
    left = [path.name for path in folder.rglob("*") if path.name.endswith((".partial", ".lock"))]
    assert ended.is_clean(0), ended
    assert left == []
    assert not case.name or (out / case.whole).exists()


def test_the_table_has_all_commands():
    assert {case.command for case in (CASES | table.ENDLESS).values()} == COMMANDS.keys()


def test_the_page_shows_the_table():
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.filled(page) == page, "python tests/conditions/table.py"
    for rows in table.tables().values():
        assert rows in page


OBSTACLES = ["below a file", "of the other kind", "not to be written"]


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_an_output_that_cannot_be_is_refused_first(name, obstacle, server, given, tmp_path):
    case = CASES[name]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    # Not even root writes into a process's own folder.
    out = {
        "below a file": tmp_path / "file" / case.name,
        "of the other kind": tmp_path / ("file" if case.folder else "folder"),
        "not to be written": Path("/proc/self") / case.name,
    }[obstacle]
    if obstacle == "of the other kind" and name == "check":
        out = tmp_path / "folder.csv"
        (tmp_path / "folder").rename(out)
    before = contents(tmp_path)
    ended = server.run(words_of(case, given, out), tmp_path)
    assert ended.failed_in_a_line(), ended
    assert contents(tmp_path) == before


# To export takes eight seconds before its first write.
@pytest.mark.parametrize("name", [name for name in WRITING if name != "export" or ROUNDS > 1])
def test_a_full_disk_leaves_what_was_there(name, server, given, tmp_path):
    case, out = CASES[name], tmp_path / CASES[name].name
    keeps = not case.folder and name != "check"  # whose journal is written first
    if keeps:
        assert server.run(words_of(case, given, out), tmp_path).is_clean(0)
        earlier = out.read_bytes()
    # A limit of the process is a full disk for any user; files of locks fit.
    ended = server.run(words_of(case, given, out), tmp_path, limits={"RLIMIT_FSIZE": 300})
    assert ended.failed_in_a_line() or (name == "prepare" and ended.is_clean(1)), ended
    if keeps:
        assert out.read_bytes() == earlier
    if name in {"evaluate", "versus"}:
        assert "top-1" in ended.out
    if name not in LONG - {"train"}:
        gone_on_with(server, case, given, out, tmp_path)


STREAMS = {
    "output closed": {"out": None},
    "output full": {"out": "/dev/full"},
    "not UTF-8": {"encoding": "ascii", "environment": {"COLUMNS": "80"}},
    "narrow": {"environment": {"COLUMNS": "3"}},
    "errors full": {"err": "/dev/full"},
    "all closed": {"out": None, "err": None},
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in SHOWING for kind in STREAMS),
        *((name, kind) for name in QUICK if name not in SHOWING for kind in ("narrow", "errors full", "all closed")),
        ("train", "errors full"),
    ],
)
def test_no_stream_ends_a_command_badly(name, kind, server, given, tmp_path):
    case, out = CASES[name], tmp_path / "é \u2028"
    out = out.with_suffix(Path(case.name).suffix)
    ended = server.run(words_of(case, given, out), tmp_path, **STREAMS[kind])
    if kind == "output full":
        assert ended.errors == [
            "error: standard output: cannot be written (No space left on device); send it elsewhere."
        ]
        assert ended.is_clean(1), ended
    else:
        assert ended.is_clean(0), ended
    if case.name and kind != "output full":
        assert (out / case.whole).exists()


def moments():
    """A moment for each command, with all signals and targets among them; more in a longer run."""
    chance = random.Random(5)
    ways = [(number, group) for number in ("SIGINT", "SIGTERM", "SIGHUP") for group in (False, True)]
    for one in range(ROUNDS):
        for index, name in enumerate(CASES):
            number, group = ways[(index + one) % len(ways)]
            yield name, number, group, chance.random()


@pytest.mark.parametrize(("name", "number", "group", "share"), list(moments()))
def test_a_signal_at_any_moment_stops_cleanly(name, number, group, share, server, given, tmp_path):
    case, out = CASES[name], tmp_path / CASES[name].name
    typical = {"demo": 5.0, "export": 7.0, "protocol": 0.8, "train": 0.6, "explain": 1.7}.get(name, 0.3)
    after = 0.03 + share * typical
    sent = {"number": getattr(signal, number), "group": group, "after": after}
    ended = server.run(words_of(case, given, out), tmp_path, signal=sent)
    assert ended.is_clean(0, 1), ended
    assert ended.code == 0 or ended.err.splitlines()[-1] == "stopped"
    # A folder that was finished before the signal came is not written over.
    is_whole = name in {"average", "explain"} and (out / case.whole).exists()
    if is_whole:
        again = server.run(words_of(case, given, out), tmp_path)
        assert again.is_clean(1), again
        assert "exists already" in again.err
    elif name not in {"demo", "export"}:
        gone_on_with(server, case, given, out, tmp_path)


def test_a_kill_leaves_nothing_that_the_next_start_does_not_remove(server, given, tmp_path):
    case, out = CASES["explain"], tmp_path / "explanation"
    kill = {"number": signal.SIGKILL, "group": True, "after": 0.5}
    assert server.run(words_of(case, given, out), tmp_path, signal=kill).is_clean(-signal.SIGKILL, 0)
    shutil.rmtree(out, ignore_errors=True)
    (tmp_path / f".{'a' * 32}.partial").mkdir()
    (tmp_path / f".{'a' * 32}.partial" / "model.onnx").write_text("left by a kill")
    (tmp_path / f".{'a' * 32}.lock").touch()
    gone_on_with(server, case, given, out, tmp_path)


@pytest.mark.parametrize("name", [*QUICK, "train"])
def test_64_descriptors_and_no_home_are_enough(name, server, given, tmp_path):
    case = CASES[name]
    more = ["--training.workers", "2"] if name == "train" else []
    words = [*words_of(case, given, tmp_path / case.name), *more]
    nobody = {"environment": {"HOME": None, "USER": None, "LOGNAME": None}, "nobody": True}
    ended = server.run(words, tmp_path, limits={"RLIMIT_NOFILE": 64}, **nobody)
    assert ended.is_clean(0), ended
    if more:
        assert "batches come through a pipe" in ended.err


@pytest.mark.slow
def test_little_shared_memory_gives_the_same_run(server, given, tmp_path):
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("only root makes a small /dev/shm")
    ways = {None: "", "1m": "batches come through a pipe", "64k": "are read in this process"}
    runs = []
    for size, told in ways.items():
        out = tmp_path / f"run {size}"
        words = [*words_of(CASES["train"], given, out), "--training.workers", "2", "--clip.frames", "16"]
        ended = server.run(words, tmp_path, shm=size)
        if ended.code == 77:
            pytest.skip("this root may not mount")
        assert ended.is_clean(0), ended
        assert told in ended.err
        runs.append((out / "model.safetensors").read_bytes())
    assert runs[0] == runs[1] == runs[2]


def test_spawned_workers_do(server, given, tmp_path):
    words = words_of(CASES["train"], given, tmp_path / "run")
    ended = server.run([*words, "--training.workers", "1"], tmp_path, start_method="spawn")
    assert ended.is_clean(0), ended


@pytest.mark.parametrize("name", [*QUICK, "train"])
def test_twice_at_once(name, server, given, tmp_path):
    case, out = CASES[name], tmp_path / CASES[name].name
    both = [server.start(words_of(case, given, out), tmp_path) for _ in range(2)]
    ends = [server.wait(started) for started in both]
    assert all(ended.is_clean(0, 1) for ended in ends), ends
    assert sorted(ended.code for ended in ends)[0] == 0
    for ended in ends:
        assert ended.code == 0 or ended.failed_in_a_line(), ended
    if case.name:
        assert (out / case.whole).exists()
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".partial", ".lock"))]


def test_a_python_without_docstrings_and_asserts_in_a_plain_locale(given, tmp_path):
    words = [*words_of(CASES["predict"], given, tmp_path), "--runtime", "torch"]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-OO", "-m", "actionfusion", *words],
        env={**os.environ, "PYTHONPATH": str(Path(actionfusion.__file__).parents[1]), **plain},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert Ended(done.returncode, done.stdout, done.stderr).is_clean(0), done.stderr


def test_no_name_steers_the_terminal(server, given, tmp_path):
    bad = "up\x1b]0;owned\x07\u202e\x9b31m\u2028"
    run, video = Path(shutil.copytree(given["run"], tmp_path / "run")), tmp_path / f"{bad}.mp4"
    shutil.copy(given["video"], video)
    evaluation = (run / "evaluation_test.json").read_text()
    (run / "labels.txt").write_text(f"motion_down\n{bad}\n")
    (run / "evaluation_test.json").write_text(evaluation.replace('"motion_up"', json.dumps(bad)))
    other = Path(shutil.copytree(run, tmp_path / "other"))
    names = given | {"run": run, "other": other, "video": video}
    for name in QUICK:
        ended = server.run(words_of(CASES[name], names, tmp_path / f"{bad}{CASES[name].name}"), tmp_path)
        assert ended.is_clean(0, 1), ended
        told = (ended.out + ended.err).replace("\n", "")
        assert all(sign.isprintable() for sign in told), ascii(told)


def test_the_package_is_left_alone(server):
    package = Path(actionfusion.__file__).parent
    newest = max(path.stat().st_mtime for path in package.rglob("*") if "__pycache__" not in path.parts)
    assert newest < server.begun
