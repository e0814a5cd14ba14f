"""Put a server under load for a while: good and bad files, cancelled uploads, kills of its decoders.

    python benchmarks/serving_soak.py RUN CLIP [CLIP ...] [--odd FOLDER] [--minutes 30] [--clients 20] [--out FILE]

Every request is to be answered, good videos as ``predict`` answers them, bad ones by an error of their own; what a
client cancels needs no answer.  Memory and file descriptors of the server and its decoders are read every few seconds.
Latencies are those of one client alone, and of all together, beside ``predict``'s in this process; good videos are
small enough that sending them takes no time.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from actionfusion.files import write_atomically
from actionfusion.inference.recognizer import Recognizer
from measuring import made_by, rounded

RESULTS = Path(__file__).parent / "results" / "serving_soak.json"
ALONE = 20
READ_EVERY = 5.0
KILL_EVERY = 7.0
TIMEOUT = 180
ROUTES = {"/api/predict": 8, "/api/timeline": 1, "/api/explain": 1}


@dataclass
class Tally:
    """What happened, from any thread."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: str) -> None:
        """Count something."""
        with self.lock:
            self.counts[what] += 1

    def fault(self, text: str) -> None:
        """Note what must not be."""
        with self.lock:
            self.counts["faults"] += 1
            self.faults.append(text[:300])


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    port: int

    def ask(self, route: str, body: bytes) -> tuple[int, bytes]:
        """Send a video, and give the status and the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            connection.request("POST", route, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def start(run: Path, folder: str) -> Server:
    """Start a server whose uploads are in a folder of ours."""
    words = [sys.executable, "-m", "actionfusion", "serve", str(run), "--port", "0", "--runtime", "torch"]
    words += ["--device", "cpu"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": folder})
    assert process.stdout is not None
    found = re.search(r":(\d+)$", process.stdout.readline())
    assert found is not None, "the server did not start"
    return Server(process, int(found[1]))


class Soak:
    """Clients of a server.

    Args:
        server: it.
        good: videos with the answers that `predict` gives.
        bad: what is no good video.
        until: time on the clock at which clients stop.
    """

    def __init__(self, server: Server, good: dict[bytes, list[str]], bad: list[bytes], until: float) -> None:
        self.server, self.good, self.bad, self.until = server, good, bad, until
        self.tally, self.readings = Tally(), list[dict[str, float]]()

    def client(self, seed: int) -> None:
        """Do one thing after the other until the time is up."""
        chance = random.Random(seed)
        kinds: dict[Callable[[random.Random], None], int] = {self.ask_good: 6, self.ask_bad: 2, self.cancel: 2}
        while time.monotonic() < self.until:
            (kind,) = chance.choices(list(kinds), kinds.values())
            try:
                kind(chance)
            except Exception as error:  # noqa: BLE001  A lost answer is what is looked for.
                self.tally.fault(f"{kind.__name__}: {type(error).__name__}: {error}")

    def ask_good(self, chance: random.Random) -> None:
        """Ask for a good video, again where the server turns it away."""
        body = chance.choice(list(self.good))
        (route,) = chance.choices(list(ROUTES), ROUTES.values())
        began = time.monotonic()
        status, answer = self.server.ask(route, body)
        while status == 429 and time.monotonic() < self.until:
            self.tally.add("turned away, asked again")
            time.sleep(chance.uniform(0.5, 2))
            began = time.monotonic()
            status, answer = self.server.ask(route, body)
        if status == 429:
            return
        if status == 200:
            self.tally.add(f"good, {route}")
            if route == "/api/predict":
                self.tally.seconds.append(time.monotonic() - began)
                if [item["label"] for item in json.loads(answer)] != self.good[body]:
                    self.tally.fault("another answer than predict's")
        elif status == 422 and b"decoding it failed" in answer:
            self.tally.add("good, decoder killed twice")
        else:
            self.tally.fault(f"good video: {status} {answer[:200]!r}")

    def ask_bad(self, chance: random.Random) -> None:
        """Ask for what is no good video."""
        status, answer = self.server.ask("/api/predict", chance.choice(self.bad))
        if status not in (200, 400, 413, 415, 422, 429):
            self.tally.fault(f"bad video: {status} {answer[:200]!r}")
        self.tally.add(f"bad, {status}")

    def cancel(self, chance: random.Random) -> None:
        """Go while the video is sent, or worked on."""
        body = chance.choice(list(self.good))
        head = f"POST /api/predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        part = chance.choice((0.3, 1.0))
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=TIMEOUT) as line:
            line.sendall(head + body[: int(part * len(body))])
            time.sleep(chance.uniform(0, 0.3))
        self.tally.add("cancelled while sending" if part < 1 else "cancelled at work")

    def kill(self) -> None:
        """Kill a decoder now and then."""
        chance = random.Random(0)
        while time.monotonic() + KILL_EVERY < self.until:
            time.sleep(KILL_EVERY)
            if children := psutil.Process(self.server.process.pid).children():
                with suppress(psutil.NoSuchProcess):
                    chance.choice(children).send_signal(chance.choice((signal.SIGKILL, signal.SIGSEGV)))
                    self.tally.add("decoders killed")

    def read(self) -> None:
        """Read memory and descriptors now and then."""
        own, began = psutil.Process(self.server.process.pid), time.monotonic()
        while time.monotonic() < self.until:
            reading = {"at": rounded(time.monotonic() - began), "rss": own.memory_info().rss, "files": own.num_fds()}
            reading |= {"decoders": 0, "decoders_rss": 0}
            for child in own.children():
                with suppress(psutil.NoSuchProcess):
                    reading["decoders_rss"] += child.memory_info().rss
                    reading["decoders"] += 1
            self.readings.append(reading)
            time.sleep(READ_EVERY)


def beside(recognizer: Recognizer, server: Server, videos: list[bytes]) -> tuple[list[float], list[float]]:
    """Time ``predict`` and one client of the server in turn, after a first round that is not counted."""
    alone, served = list[float](), list[float]()
    for number in range(ALONE + len(videos)):
        body = videos[number % len(videos)]
        # A name of its own each time: a process does not count the frames of a file again that it has read whole.
        with tempfile.NamedTemporaryFile() as fresh:
            fresh.write(body)
            fresh.flush()
            began = time.monotonic()
            recognizer.predict(fresh.name)
            between = time.monotonic()
        status, _ = server.ask("/api/predict", body)
        assert status == 200, status
        alone.append(between - began)
        served.append(time.monotonic() - between)
    return alone[len(videos) :], served[len(videos) :]


def latencies(seconds: list[float]) -> dict[str, Any]:
    """Median and 95th percentile."""
    if len(seconds) < 2:
        return {"count": len(seconds)}
    parts = statistics.quantiles(seconds, n=20)
    return {"count": len(seconds), "median": rounded(statistics.median(seconds)), "p95": rounded(parts[-1])}


def bad_files(good: list[bytes], odd: Path | None) -> list[bytes]:
    """Make what is no good video."""
    files = [b"text", bytes(10_000), b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", good[0][: len(good[0]) // 2]]
    damaged = bytearray(good[0])
    for at in range(1000, len(damaged), 997):
        damaged[at] ^= 0x5A
    files.append(bytes(damaged))
    return files + [path.read_bytes() for path in sorted(odd.iterdir())] if odd else files


def main() -> None:
    """Soak, and write what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--odd", type=Path, help="a folder of further files, good or bad")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    recognizer = Recognizer.load(given.run, runtime="torch", device="cpu")
    good = {path.read_bytes(): [item.label for item in recognizer.predict(path)] for path in given.clips}
    with tempfile.TemporaryDirectory() as folder:
        server = start(given.run, folder)
        alone, served = beside(recognizer, server, list(good))
        del recognizer
        soak = Soak(server, good, bad_files(list(good), given.odd), time.monotonic() + 60 * given.minutes)
        threads = [threading.Thread(target=soak.client, args=(seed,)) for seed in range(given.clients)]
        threads += [threading.Thread(target=soak.kill), threading.Thread(target=soak.read)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(60)
        left = [path.name for path in Path(folder).iterdir()]
    settled = soak.readings[len(soak.readings) // 5 :]
    halves = settled[: len(settled) // 2], settled[len(settled) // 2 :]
    flat = {
        name: [rounded(statistics.mean(reading[name] for reading in half)) for half in halves if half]
        for name in ("rss", "decoders_rss", "files")
    }
    result = {
        "made_by": made_by("python benchmarks/serving_soak.py RUN CLIP ..."),
        "minutes": given.minutes,
        "clients": given.clients,
        "clips": len(good),
        "counts": dict(sorted(soak.tally.counts.items())),
        "faults": soak.tally.faults[:20],
        "latency_seconds": {
            "predict": latencies(alone),
            "server, one client": latencies(served),
            f"server, {given.clients} clients": latencies(soak.tally.seconds),
        },
        "mean_of_first_and_second_half": flat,
        "most": {name: max(reading[name] for reading in soak.readings) for name in ("rss", "decoders_rss", "files")},
        "exit_code": code,
        "files_left": left,
    }
    write_atomically(given.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    sys.exit(1 if soak.tally.faults or code or left else 0)


if __name__ == "__main__":
    main()
