"""Runs command lines in forks of one warm process, since a start of Python with PyTorch takes seconds.

Reads a request a line from standard input and answers a line: ``{"start": {...}}`` gives the process id, ``{"wait": id,
"seconds": s}`` its exit code, or null after killing it; ``{"warm": [...]}`` runs command lines in the process itself,
and gives its threads.
"""

import contextlib
import ctypes
import gc
import io
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
import time
from importlib import import_module

from actionfusion import command_line


def warm_up():
    import jsonargparse  # noqa: F401
    import matplotlib.backends.backend_agg  # noqa: F401
    import onnxscript  # noqa: F401
    import rich.live  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch._dynamo  # noqa: F401

    from actionfusion.commands import COMMANDS
    from actionfusion.inference.speed import benchmark
    from actionfusion.inference.timelines import picture  # noqa: F401
    from actionfusion.training import recipe  # noqa: F401

    for name, command in COMMANDS.items():
        import_module(command.module)
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
            command_line.run([name, "--help"])
    # What the machine can do takes seconds to measure, and no condition changes it.
    benchmark.machine_peaks = lambda _: {"fp32": 1e12}


def attach(number, place):
    """Let a standard stream lead to a file, or close it."""
    if place is None:
        os.close(number)
    else:
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | (0 if place == "/dev/full" else os.O_APPEND)
        file = os.open(place, flags, 0o644)
        os.dup2(file, number)
        os.close(file)


def small_shared_memory(size):
    """Give this fork a /dev/shm of its own, of this size."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, private, recursive = 0x20000, 1 << 18, 1 << 14
    if (
        libc.unshare(new_namespace)
        or libc.mount(b"none", b"/", None, private | recursive, None)
        or libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, f"size={size}".encode())
    ):
        os._exit(77)


def send_later(number, after, *, group):
    """Send a signal from another process, as a batch system does."""
    target = os.getpid()
    if not os.fork():
        os.setsid()
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(target, number)
        os._exit(0)


def begin(request):
    """Turn this fork into the process that the request describes."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.chdir(request["folder"])
    os.umask(0o022)
    for name, value in request.get("environment", {}).items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
    encoding = request.get("encoding", "utf-8")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        place = request["streams"][number]
        attach(number, place)
        mode = "w" if number else "r"
        setattr(sys, name, None if place is None else os.fdopen(number, mode, encoding=encoding, closefd=False))
    for name, value in request.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if request.get("start_method"):
        multiprocessing.set_start_method(request["start_method"], force=True)
    if request.get("shm"):
        small_shared_memory(request["shm"])
    if request.get("nobody"):
        import pwd

        def no_entry(_):
            raise KeyError("getpwuid(): uid not found")

        pwd.getpwuid = no_entry
    if request.get("signal"):
        send_later(**request["signal"])
    sys.argv = ["actionfusion", *request["words"]]
    random.seed()


def serve():
    """Answer requests; give the request to become in a fork."""
    for line in sys.stdin:
        request = json.loads(line)
        if "warm" in request:
            for words in request["warm"]:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    command_line.run(words)
            gc.collect()
            gc.freeze()  # or each fork would copy what it only counts
            answer = threading.active_count()
        elif "start" in request:
            child = os.fork()
            if not child:
                return request["start"]
            answer = child
        else:
            answer = wait_for(request["wait"], request["seconds"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return None


def wait_for(child, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    warm_up()
    wanted = serve()
    if wanted is not None:
        begin(wanted)
        from actionfusion.__main__ import main
        from actionfusion.process import leave

        code = main()
        if wanted.get("signal"):
            sys.exit(code)  # as Python ends
        leave(code)  # half a second sooner
