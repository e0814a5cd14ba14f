"""Tasks on a Ray cluster reach their results whatever becomes of a process or a machine."""

import hashlib
import math
import multiprocessing
import operator
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

import actionfusion
from actionfusion.__main__ import main
from actionfusion.data import prepare as prepare_module
from actionfusion.data import ray_driver, ray_pool
from actionfusion.data.check import check
from actionfusion.data.pools import open_pool
from actionfusion.data.prepare import prepare
from actionfusion.data.ray_pool import RayPool
from actionfusion.data.shared_folders import landmarks, where_seen
from actionfusion.data.store import check_quality
from actionfusion.data.workers import WorkerDied
from actionfusion.errors import ClusterError, SettingsError
from actionfusion.version import __version__
from actionfusion.video.flow import FlowRecipe

RECIPE = FlowRecipe("farneback", 10.0, 32)
SLOW_RECIPE = FlowRecipe("farneback", 10.0, 96)  # slow enough that a kill finds a video at work

NO_RAY = 'needs the package ray: pip install "actionfusion[ray]"'
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason=NO_RAY)

# In a process of its own, so that everything that Ray starts is of one session, and ends with it.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

node = {"num_cpus": 1, "object_store_memory": 80_000_000}
few = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True, "dashboard_agent_listen_port": 0}
cluster = Cluster(True, head_node_args={**node, **few})
second = cluster.add_node(**node)
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(second, allow_graceful=False)
    print("killed", flush=True)
"""

TASKS = """
import os, time

def alone(folder):
    os.mkdir(folder)
    time.sleep(0.02)
    os.rmdir(folder)
"""


class Cluster:
    """Two machines of one CPU each, on this one."""

    def __init__(self, folder):
        (folder / "modules").mkdir()
        (folder / "modules" / "cluster_tasks.py").write_text(TASKS)
        (folder / "cluster.py").write_text(CLUSTER)
        self.modules = folder / "modules"
        self._own = tempfile.mkdtemp(prefix="af")  # Ray's sockets lie in it, and their names must be short.
        paths = [str(Path(actionfusion.__file__).parents[1]), str(self.modules)]
        self._process = subprocess.Popen(
            [sys.executable, folder / "cluster.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(paths), "RAY_TMPDIR": self._own, "RAY_USAGE_STATS_ENABLED": "0"},
            start_new_session=True,
        )
        self.session = self._process.pid
        self.address = self._process.stdout.readline().strip()

    def kill_second_machine(self):
        self._process.stdin.write("kill\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "killed\n"

    def processes(self):
        """All of its session, each with its parent."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.session and fields[0] != "Z":
                found[int(path.parent.name)] = int(fields[1])
        return found

    def workers(self):
        """The processes that work through tasks, each with its machine's."""
        found = {}
        for process, parent in self.processes().items():
            with suppress(OSError):
                if Path(f"/proc/{process}/cmdline").read_text().startswith("ray::"):
                    found[process] = parent
        return found

    def end(self):
        deadline = time.monotonic() + 30
        while (left := self.processes()) and time.monotonic() < deadline:
            send(signal.SIGKILL, left)
            time.sleep(0.05)
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        shutil.rmtree(self._own, ignore_errors=True)


def send(number, processes):
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


@contextmanager
def started_cluster(folder):
    if find_spec("ray") is None:
        pytest.skip(NO_RAY)
    if sys.platform != "linux":
        pytest.skip("finds what Ray has started in Linux's /proc")
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.end()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with started_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def test_each_task_gives_one_result_whatever_becomes_of_its_process(cluster):
    with RayPool(cluster.address) as pool:
        assert sorted(pool.run(operator.neg, range(100))) == [(task, -task) for task in range(100)]
        assert pool.repeated == []
        results = dict(pool.run(operator.call, [time.time, os.abort, time.monotonic]))
        assert {task for task, result in results.items() if isinstance(result, WorkerDied)} == {os.abort}
        assert str(results[os.abort]) == "on a machine of the Ray cluster, 3 times"
        assert pool.repeated == [os.abort, os.abort]
        assert dict(pool.run(os.getsid, [0])) == {0: cluster.session}
        # Not even where the machine has many cores.
        assert dict(pool.run(operator.call, [cv2.getNumThreads])) == {cv2.getNumThreads: 1}
        assert list(pool.run(operator.neg, [])) == []
        with pytest.raises(RuntimeError, match="math domain error"):
            list(pool.run(math.sqrt, [-1.0]))
        with pytest.raises(SettingsError, match="0 is no JPEG quality"):
            list(pool.run(check_quality, [0]))
        assert dict(pool.run(math.sqrt, [4.0])) == {4.0: 2.0}
        # A run that is left in the middle disturbs none that comes after.
        assert next(pool.run(operator.neg, [1, 1, 1])) == (1, -1)
        assert dict(pool.run(operator.pos, [2, 3])) == {2: 2, 3: 3}
    assert multiprocessing.active_children() == []


def test_leaving_by_an_exception_ends_the_work_and_not_the_cluster(cluster, tmp_path, monkeypatch, capfd):
    (tmp_path / "here_alone.py").write_text("def task(_): pass")
    for folder in (cluster.modules, tmp_path):
        monkeypatch.syspath_prepend(folder)
    import cluster_tasks
    import here_alone

    def work():
        with RayPool(cluster.address) as pool:
            for task, _ in pool.run(time.sleep, [0, 600, 600]):
                assert task == 0
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert multiprocessing.active_children() == []
    # All CPUs are free again.  With one task at a time, no two ever meet.
    with open_pool(1, ray=cluster.address) as pool:
        folder = str(tmp_path / "occupied")
        assert list(pool.run(cluster_tasks.alone, [folder] * 30)) == [(folder, None)] * 30
        with pytest.raises(ClusterError, match=r"the work \(ModuleNotFoundError: No module named 'here_alone'\); the"):
            list(pool.run(here_alone.task, [1, 2, 3]))
        # What the connection dies of is said, whatever work was under way.
        work = pool.run(time.sleep, [0, 600])
        next(work)
        multiprocessing.active_children()[0].kill()
        with pytest.raises(ClusterError, match=r"the connection to the cluster was lost \(Killed\); see that it runs"):
            next(work)
    assert capfd.readouterr() == ("", "")


def contents(store):
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.rglob("*")
        if path.is_file()
    }


@contextmanager
def watched(store):
    """Every file that each entry has been, as long as the block lasts."""
    seen = defaultdict(set)
    over = threading.Event()

    def watch():
        while not over.wait(0.005):
            for path in store.rglob("*.zip"):
                status = path.stat()
                seen[path.relative_to(store).as_posix()].add((status.st_ino, status.st_ctime_ns))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
def test_a_machine_killed_during_prepare_costs_nothing(cluster, shapes_root, tmp_path, monkeypatch):
    items = [(path, path.relative_to(shapes_root).as_posix()) for path in sorted(shapes_root.rglob("*.mp4"))[::8]]
    pools, told, killed = [], [], []

    def both_at_work():
        return len(list((tmp_path / "store").rglob(".*.partial"))) == 3  # one a machine, and the landmark

    def open_and_keep(*arguments):
        pools.append(open_pool(*arguments))
        return pools[0]

    def kill_in_the_middle(done, total, name):
        told.append(name)
        if killed:
            return
        deadline = time.monotonic() + 2
        # Frozen, a machine cannot come to the end of its task before it is killed.
        while send(signal.SIGSTOP, workers := cluster.workers()) or not both_at_work():
            send(signal.SIGCONT, workers)
            if time.monotonic() > deadline:  # both were done with what they had, on a busy machine; there is more
                return
            time.sleep(0.01)
        cluster.kill_second_machine()
        alive = cluster.processes()
        killed.extend(process for process, machine in workers.items() if machine not in alive)
        send(signal.SIGKILL, killed)
        send(signal.SIGCONT, workers)

    monkeypatch.setattr(prepare_module, "open_pool", open_and_keep)
    with watched(tmp_path / "store") as seen:
        report = prepare(items, tmp_path / "store", SLOW_RECIPE, ray=cluster.address, progress=kill_in_the_middle)
    assert len(pools[0].repeated) >= 1
    assert (report.made, report.kept, report.failures) == (len(items), 0, ())
    assert sorted(told) == sorted(name for _, name in items)
    monkeypatch.undo()
    prepare(items, tmp_path / "undisturbed", SLOW_RECIPE, workers=0)
    assert contents(tmp_path / "store") == contents(tmp_path / "undisturbed")
    assert {name: len(files) for name, files in seen.items()} == {f"{name}.zip": 1 for _, name in items}


def test_check_finds_on_a_cluster_what_it_finds_here(cluster, shapes_root, tmp_path):
    root = shutil.copytree(shapes_root / "test", tmp_path / "clips")
    (root / "order_back" / "broken.mp4").parent.mkdir(exist_ok=True)
    (root / "order_back" / "broken.mp4").write_bytes(b"no video")
    there = check("folder", root, out=tmp_path / "there.csv", ray=cluster.address)
    here = check("folder", root, out=tmp_path / "here.csv", workers=0)
    assert len(there.faults) == 1
    assert there.rows == here.rows
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


def test_the_command_works_in_its_own_folder_and_names_what_fails(cluster, shapes_root, tmp_path, monkeypatch, capfd):
    for number, path in enumerate(sorted((shapes_root / "test").rglob("*.mp4"))[:4]):
        (tmp_path / "clips" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "clips" / path.parent.name / f"{number}.mp4")
    broken = tmp_path / "clips" / path.parent.name / "broken.mp4"
    broken.write_bytes(b"no video")
    monkeypatch.chdir(tmp_path)
    words = ["prepare", "folder", "clips", "--store", "store", "--config", "tiny", "--ray", cluster.address]
    assert main(words) == 1
    out, errors = capfd.readouterr()
    assert out == ""
    assert f"left out: {broken}: " in errors
    assert "4 made, 0 there already, 1 left out" in errors
    assert len(contents(tmp_path / "store")) == 4
    broken.unlink()
    assert main(words) == 0
    assert "0 made, 4 there already, 0 left out" in capfd.readouterr().err


def test_an_entry_that_a_lost_machine_made_counts_as_made(shapes_root, tmp_path, monkeypatch):
    class Forgetful:
        """A machine that goes away when it has done its second task, which is begun again."""

        repeated = ()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def run(self, function, tasks):
            if tasks and getattr(function, "args", ()) and function.args[-1] is prepare_module.prepare_video:
                self.repeated = (tasks[1],)
                function(tasks[1])
            return ((task, function(task)) for task in tasks)

    items = [(path, path.relative_to(shapes_root).as_posix()) for path in sorted(shapes_root.rglob("*.mp4"))[:3]]
    monkeypatch.setattr(prepare_module, "open_pool", lambda *_: Forgetful())
    report = prepare(items, tmp_path, RECIPE, ray="auto")
    assert (report.made, report.kept, report.failures) == (3, 0, ())
    again = prepare(items, tmp_path, RECIPE, ray="auto")
    assert (again.made, again.kept) == (0, 3)


def test_a_machine_without_the_shared_disk_is_named(tmp_path):
    video, store = tmp_path / "a.avi", tmp_path / "store"
    video.touch()
    store.mkdir()
    with landmarks([tmp_path / "absent.avi", video], store) as to_see:
        assert where_seen(to_see, operator.neg, 1) == -1
        store.rename(tmp_path / "elsewhere")
        store.mkdir()  # as a machine has it that makes the folders it lacks
        with pytest.raises(ClusterError, match="does not see it; give all its machines the same files") as caught:
            where_seen(to_see, operator.neg, 1)
        assert caught.value.subject == str(store)
        store.rmdir()
        (tmp_path / "elsewhere").rename(store)
        video.unlink()
        with pytest.raises(ClusterError, match=r"a\.avi"):
            where_seen(to_see, operator.neg, 1)
    assert list(store.iterdir()) == []


@needs_ray
def test_no_cluster_is_said_in_one_line(monkeypatch, capfd):
    def connect(address):
        with pytest.raises(ClusterError) as caught, RayPool(address):
            pass
        return str(caught.value)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = "{}:{}".format(*silent.getsockname())
        monkeypatch.setattr(ray_pool, "_CONNECT_SECONDS", 1.0)
        assert f"{address}: no Ray cluster answers within 1 seconds; " in connect(address)
    assert f"{address}: there is no Ray cluster (Connection refused); " in connect(address)
    assert "ray://HOST:10001" in connect(f"ray://{address}")
    assert multiprocessing.active_children() == []
    assert capfd.readouterr() == ("", "")


@needs_ray
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"ray": "gar:bage"}, "'gar:bage' is no address"),
        ({"ray": "local"}, "'local' is no address"),
        ({"ray": ""}, "'' is no address"),
        ({"ray": "auto", "workers": 0}, "0 tasks at once"),
    ],
)
def test_settings_that_cannot_be(settings, told):
    with pytest.raises(SettingsError, match=told):
        open_pool(**settings)


def test_a_machine_with_another_version_does_nothing():
    assert ray_driver._work(__version__, operator.neg, 1) == ("done", -1)
    with pytest.raises(RuntimeError, match=f"has actionfusion {__version__}, but 0.0 is needed"):
        ray_driver._work("0.0", operator.neg, 1)


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setattr(ray_pool, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r'pip install "actionfusion\[ray\]"'):
        open_pool(ray="auto")


class FakeRay:
    """A cluster whose tasks end as they are told to, one at each look."""

    exceptions = SimpleNamespace(
        **{
            name: type(name, (Exception,), {})
            for name in ("WorkerCrashedError", "OutOfMemoryError", "NodeDiedError", "ObjectLostError")
        }
    )

    def __init__(self, cpus):
        self.cpus, self.running, self.most = cpus, [], 0

    def remote(self, **options):
        return lambda _: SimpleNamespace(remote=self.begin)

    def begin(self, _, function, task):
        self.running.append((object(), task))
        self.most = max(self.most, len(self.running))
        return self.running[-1]

    def wait(self, references, *, num_returns, timeout):
        return references[:1], references[1:]

    def get(self, reference):
        self.running.remove(reference)
        if isinstance(reference[1], str):
            raise getattr(self.exceptions, reference[1])
        return "done", reference[1]

    def cluster_resources(self):
        return {"CPU": float(self.cpus)} if self.cpus else {}

    def cancel(self, reference, *, force):
        self.running.remove(reference)


def work_through(ray, tasks, workers=None):
    room = ray_driver._Room(ray, workers)
    return list(ray_driver._work_through(ray, operator.neg, tasks, room, lambda: False))


@pytest.mark.parametrize(("cpus", "workers", "most"), [(100, None, 200), (2, None, 16), (100, 7, 7)])
def test_the_cluster_never_has_many_more_tasks_than_cpus(cpus, workers, most):
    ray = FakeRay(cpus)
    assert len(work_through(ray, range(1000), workers)) == 1000
    assert (ray.most, ray.running) == (most, [])


@pytest.mark.parametrize(
    ("error", "tries", "told"),
    [
        ("WorkerCrashedError", 3, "on a machine of the Ray cluster, 3 times"),
        ("OutOfMemoryError", 3, "that ran out of memory, 3 times"),
        ("NodeDiedError", 5, "with its machine of the Ray cluster, 5 times"),
        ("ObjectLostError", 5, "with its machine of the Ray cluster, 5 times"),
    ],
)
def test_tries_are_bounded(error, tries, told):
    messages = work_through(FakeRay(1), [1, error, 2])
    assert messages.count(("again", 1, None)) == tries - 1
    ended = {number: (outcome, value) for outcome, number, value in messages if outcome != "again"}
    assert (ended[0], ended[2]) == (("done", 1), ("done", 2))
    assert ended[1][0] == "died"
    assert str(ended[1][1]).endswith(told)


def test_a_cluster_without_cpus_is_given_up(monkeypatch):
    clock = iter(range(0, 10**6, 60))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    room = ray_driver._Room(FakeRay(0), None)
    with pytest.raises(TimeoutError, match="no CPU for 10 minutes"):
        [room.tasks() for _ in range(100)]
