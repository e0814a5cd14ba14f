"""The process that decodes: the only one that looks into what a stranger has sent.

It reads jobs from standard input and writes answers to standard output (``messages``).  It has bounded memory, writes
no file, and is killed and replaced whenever a job does not end as it should.  It imports neither the network nor
PyTorch, so that it is small and quick to start.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, BinaryIO

import cv2
import numpy as np
import psutil

from actionfusion.errors import ActionFusionError, VideoDamaged, VideoError
from actionfusion.inference.given_videos import cut_paced, open_given, pace_of
from actionfusion.inference.timelines.video_samples import VideoSamples
from actionfusion.process import STOPS
from actionfusion.serving.messages import LENGTH, Array, packed, read_header
from actionfusion.settings import build
from actionfusion.video.clip import ClipSettings
from actionfusion.video.limits import ReadingLimits, limiting
from actionfusion.video.pictures import scaled_picture
from actionfusion.video.rates import FrameRates
from actionfusion.video.reading import Frame, count_frames
from actionfusion.video.samples import FrameCollector, FrameGroup, Sample
from actionfusion.video.still_pictures import decode_picture
from actionfusion.video.unforeseen import unforeseen_faults

# Seconds between two notes of progress.
_EVERY = 0.1
_FILES = 64


class Decoder:
    """Does one job after the other.

    Args:
        given: jobs come from here.
        channel: where answers go.
        setup: the first message: clip settings, frame rates and limits.
    """

    def __init__(self, given: BinaryIO, channel: BinaryIO, setup: Mapping[str, Any]) -> None:
        self._given, self._channel = given, channel
        self._clip = build(ClipSettings, setup["clip"], "clip")
        self._rates = None if setup["rates"] is None else build(FrameRates, setup["rates"], "rates")
        limits = setup["limits"]
        self._limits = ReadingLimits(
            limits["pixels"], limits["frames"], limits["seconds"], frozenset(limits["codecs"]), self._watch
        )
        self._told = 0.0
        self._expect(0)

    def run(self) -> None:
        """Do the jobs that come, until no more do."""
        self._send({"kind": "ready"})
        jobs: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "clip": self._cut,
            "samples": self._sample,
            "camera": self._follow,
        }
        while (job := receive(self._given)) is not None:
            cv2.setNumThreads(int(job["threads"]))
            path = str(job.get("path", "picture"))
            self._expect(0)
            try:
                with limiting(self._limits), unforeseen_faults(path):
                    jobs[job["task"]](job)
            except ActionFusionError as error:
                self._send({"kind": "error", **described(error, path)})
            self._send({"kind": "done"})

    def _cut(self, job: Mapping[str, Any]) -> None:
        source, pace = open_given(job["path"], self._clip, self._rates)
        self._expect(source.num_frames)
        clip = cut_paced(source, pace, self._clip)
        arrays: dict[str, Array] = {"rgb": clip.rgb, "times": clip.times, "positions": clip.positions.astype(np.int64)}
        if clip.flow is not None:
            arrays["flow"] = clip.flow
        self._send({"kind": "clip", "note": pace.note}, arrays)

    def _sample(self, job: Mapping[str, Any]) -> None:
        path = job["path"]
        pace = pace_of(path, self._rates)
        with suppress(VideoDamaged):  # the reading meets the same fault, after what can be read
            self._expect(count_frames(path))
        reading = VideoSamples(path, self._clip, pace.interval(job["every"]), None, pace)
        for sample in reading:
            self._send_sample(sample)
        fault = None if reading.error is None else described(reading.error, path)
        self._send({"kind": "end", "seconds": reading.end, "error": fault, "note": pace.note})

    def _follow(self, job: Mapping[str, Any]) -> None:
        """Collect the pictures of a camera, each a message of its own, and answer each."""
        collector, known = FrameCollector(job["every"], self._clip.flow_length), dict[int, Array]()
        index = 0
        while (head := receive(self._given)) and head["kind"] == "picture":
            data = _exactly(self._given, head["bytes"])
            picture = cv2.cvtColor(decode_picture(data, "picture"), cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
            frame = Frame(index, head["time"], scaled_picture(picture, self._clip.decoded_size))
            collector, group = collector.push(frame)
            index += 1
            if group is None:
                self._send({"kind": "none"})
                continue
            known = self._send_group(group, collector, known)

    def _send_group(self, group: FrameGroup, collector: FrameCollector, known: Mapping[int, Array]) -> dict[int, Array]:
        codes = group.codes(self._clip.flow, known)
        self._send_sample(group.sample(codes, self._clip))
        return collector.reusable(codes)

    def _send_sample(self, sample: Sample) -> None:
        arrays = {"rgb": sample.rgb} | ({} if sample.flow is None else {"flow": sample.flow})
        self._send({"kind": "sample", "time": sample.time, "position": sample.position}, arrays)

    def _expect(self, total: int) -> None:
        """Begin to count, of so many frames; 0 where they are not known yet."""
        self._total, self._before, self._last = total, 0, 0

    def _watch(self, count: int) -> None:
        if count <= self._last:  # the next part of a long video, of which not all is read
            self._before += self._last
        self._last = count
        now = time.monotonic()
        if now - self._told >= _EVERY:
            self._told, done = now, self._before + count
            done = min(done, self._total) if self._total else done
            self._send({"kind": "progress", "done": done, "of": self._total or None})

    def _send(self, header: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> None:
        for part in packed(header, arrays):
            self._channel.write(part)
        self._channel.flush()


def receive(given: BinaryIO) -> dict[str, Any] | None:
    """Read the header of the next message; None at the end."""
    length = given.read(LENGTH.size)
    if len(length) < LENGTH.size:
        return None
    return read_header(_exactly(given, LENGTH.unpack(length)[0]))


def _exactly(given: BinaryIO, count: int) -> bytes:
    data = given.read(count)
    if len(data) < count:
        raise EOFError
    return data


def described(error: ActionFusionError, path: str) -> dict[str, str]:
    """Describe an error for another process, without the path of the temporary file."""
    name = error.kind if isinstance(error, VideoError) else VideoError.kind
    reason = error.reason.replace(path, "the video")[:1000]
    return {"name": name, "reason": reason, "remedy": error.remedy[:1000]}


def confine(memory: int) -> None:
    """Bound what this process can take and do, as far as the system can."""
    for number in STOPS:  # they reach the whole group, and the server ends this process
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415  POSIX has it

    own = psutil.Process().memory_info()
    # No file is written, no crash is dumped, few files are open, and memory has an end.
    limits = {"RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0, "RLIMIT_NOFILE": _FILES, "RLIMIT_AS": own.vms + memory}
    limits["RLIMIT_DATA"] = getattr(own, "data", own.vms) + memory
    for name, most in limits.items():
        with suppress(OSError, ValueError, AttributeError):
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)  # noqa: PLW2901
            resource.setrlimit(kind, (most, most))
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415

        with suppress(OSError, AttributeError):
            control = ctypes.CDLL(None).prctl
            control(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: it ends with the server
            control(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS


def main() -> None:
    """Serve the process that started this one."""
    # What a library prints goes nowhere: standard output is the channel.
    channel = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    with suppress(BrokenPipeError, EOFError):
        setup = receive(sys.stdin.buffer)
        if setup is not None:
            confine(setup["limits"]["memory"])
            Decoder(sys.stdin.buffer, channel, setup).run()
    os._exit(0)  # nothing is left to be done


if __name__ == "__main__":
    main()
