"""Whatever ends ``prepare``, the next run ends with the store of an undisturbed one."""

import hashlib
import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pytest

import actionfusion
from actionfusion.data.prepare import prepare
from actionfusion.video.flow import FlowRecipe

NUM_VIDEOS = 16
RECIPE = FlowRecipe("farneback", 10.0, 112)


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Videos that take a while: a moving pattern, 16 frames each."""
    root = tmp_path_factory.mktemp("root")
    names = [f"class {number % 2}/v_{number:02d}.avi" for number in range(NUM_VIDEOS)]
    for number, name in enumerate(names):
        pattern = np.random.default_rng(number).integers(0, 255, (12, 20, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="avi") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
            for index in range(16):
                picture = np.roll(pattern, 2 * index, axis=1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(buffer.getvalue())
    return [(root / name, name) for name in names]


def contents(store):
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(items, tmp_path_factory):
    """What the store is to hold at the end."""
    store = tmp_path_factory.mktemp("undisturbed")
    prepare(items, store, RECIPE, workers=0)
    return contents(store)


SCRIPT = """
import json, sys
from actionfusion.data.prepare import prepare
from actionfusion.video.flow import FlowRecipe

def main():
    items, store, recipe, stop_at = json.loads(sys.argv[1])

    def tell(done, *_):
        print(done, flush=True)
        if done == stop_at:
            sys.stdin.readline()

    print("begun", flush=True)
    report = prepare(items, store, FlowRecipe(**recipe), workers=2, progress=tell)
    print("made", report.made)
"""
GUARDED = SCRIPT + "\nif __name__ == '__main__':\n    main()\n"


@pytest.fixture
def start(items, tmp_path):
    """Starts ``prepare`` with two workers in a process group of its own, as a terminal does."""
    started = []

    def start(script=GUARDED, stop_at=None):
        file = tmp_path / "script.py"
        file.write_text(script)
        arguments = [[(str(path), name) for path, name in items], str(tmp_path / "store"), asdict(RECIPE), stop_at]
        process = subprocess.Popen(
            [sys.executable, file, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(actionfusion.__file__).parents[1])},
            start_new_session=True,
        )
        started.append(process)
        # Before that, an interrupt is for Python's imports to tell of.
        assert process.stdout.readline() == "begun\n"
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


def wait_for_videos(process, count):
    """Read the progress until so many videos are done, or all."""
    for line in process.stdout:
        if not line.strip().isdigit() or int(line) >= count:
            return


@pytest.mark.slow
def test_killed_at_any_moment_the_store_ends_equal(items, undisturbed, tmp_path, start):
    moments = random.Random(3)
    reached = [0]
    while reached[-1] < NUM_VIDEOS - 4 and len(reached) < 5:
        process = start()
        wait_for_videos(process, reached[-1] + moments.randint(1, 4))
        time.sleep(moments.random() * 0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        whole = {name: digest for name, digest in contents(tmp_path / "store").items() if name.endswith(".zip")}
        assert whole.items() <= undisturbed.items()
        reached.append(len(whole))
    assert reached[1] < NUM_VIDEOS
    report = prepare(items, tmp_path / "store", RECIPE, workers=0)
    assert (report.kept, report.made) == (reached[-1], NUM_VIDEOS - reached[-1])
    assert contents(tmp_path / "store") == undisturbed


def stop_workers(process):
    """Freeze them in the middle of what they are at."""
    for child in map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()):
        if "resource_tracker" not in Path(f"/proc/{child}/cmdline").read_text():
            os.kill(child, signal.SIGSTOP)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in Linux's /proc")
def test_ctrl_c_leaves_nothing_but_whole_entries(items, undisturbed, tmp_path, start):
    process = start(stop_at=3)
    wait_for_videos(process, 3)
    # With its workers frozen it waits for them, however fast or slow this machine is.
    stop_workers(process)
    process.stdin.write("go on\n")
    process.stdin.flush()
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1  # the script's own, and none of the workers'
    assert "_serve" not in errors
    made = {name: digest for name, digest in contents(tmp_path / "store").items() if name.endswith(".zip")}
    assert 3 <= len(made) <= 5
    assert contents(tmp_path / "store") == made
    assert made.items() <= undisturbed.items()
    assert prepare(items, tmp_path / "store", RECIPE, workers=0).kept == len(made)
    assert contents(tmp_path / "store") == undisturbed


def test_ctrl_c_while_workers_start_is_as_quiet(undisturbed, tmp_path, start):
    process = start()
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert errors.count("Traceback") <= 1
    assert "_serve" not in errors
    assert not list(tmp_path.rglob("*.partial"))


def test_two_at_once_share_the_work(undisturbed, tmp_path, start):
    processes = [start(), start()]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [errors for _, errors in outputs] == ["", ""]
    # Nothing was done twice.
    assert sum(int(output.split()[-1]) for output, _ in outputs) == NUM_VIDEOS
    assert contents(tmp_path / "store") == undisturbed


def test_workers_end_with_their_parent(undisturbed, tmp_path, start):
    process = start()
    wait_for_videos(process, 2)
    process.kill()
    # Its output ends when nobody holds it any more, the workers among them.
    process.communicate(timeout=60)
    made = contents(tmp_path / "store")
    assert {name: digest for name, digest in made.items() if name.endswith(".zip")}.items() <= undisturbed.items()


def test_a_worker_that_is_killed_costs_one_video(items, undisturbed, tmp_path):
    killed = []

    def kill_one(*_):
        if not killed:
            killed.extend(multiprocessing.active_children()[:1])
            killed[0].kill()
            killed[0].join()

    report = prepare(items, tmp_path, RECIPE, workers=2, progress=kill_one)
    assert report.made + len(report.failures) == NUM_VIDEOS
    # Killed between two videos, it costs none.
    assert len(report.failures) <= 1
    for failure in report.failures:
        assert failure.kind == "video"
        assert "died (Killed)" in failure.message
    assert prepare(items, tmp_path, RECIPE, workers=0).failures == ()
    assert contents(tmp_path) == undisturbed


def test_a_script_without_a_guard_is_told(start):
    process = start(SCRIPT + "\nmain()\n")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert '`if __name__ == "__main__":`' in errors
