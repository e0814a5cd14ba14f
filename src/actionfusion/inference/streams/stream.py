"""The command ``stream``: labels as a video runs, from a file, a pipe, a camera or a server."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from actionfusion.errors import SettingsError, VideoDamaged, printable
from actionfusion.hub import open_named_run
from actionfusion.inference.intervals import usual_interval
from actionfusion.inference.recognizer import Recognizer, no_classes
from actionfusion.inference.runtimes.backend import PrecisionName, RuntimeName
from actionfusion.inference.stepping import StreamPrediction
from actionfusion.inference.streams.capture import Capture, Captured, OutageNote
from actionfusion.inference.streams.printing import Printer, StreamLine, StreamSummary, make_printer
from actionfusion.storage import PathLike
from actionfusion.terminal import Console, Text
from actionfusion.video.flow import UInt8Array
from actionfusion.video.samples import FrameCollector
from actionfusion.video.sources import find_source


def stream(
    run: Path,
    source: str,
    *,
    every: int | None = None,
    top_k: int = 3,
    json: bool = False,
    live: bool = False,
    wait: float | None = None,
    redirects: bool = False,
    device: str | None = None,
    runtime: RuntimeName = "auto",
    precision: PrecisionName | None = None,
    root: PathLike | None = None,
    store: PathLike | None = None,
) -> StreamSummary:
    """Name the action in a video while it runs, again with each sampled frame.

    Each answer is about the last samples, as many as a clip of the run has.  The flow of a sample needs some frames
    after it: `delay` says how many seconds.  A 3-D convolution over time looks one sample ahead; the answer does not
    wait for that sample, so it is final only up to `settled`, one sample before `time`.

    A model that can be read sample by sample keeps its reading of each (method "exact state"); any other runs the whole
    window again for each answer ("window again"), where a window of fewer samples repeats its last one.

    A camera or server that goes away is waited for, and the window restarts when it is back; a slow machine drops and
    counts samples; a frame that cannot be decoded is left out and counted, but in a file it is an error.

    Args:
        run: the run folder that ``train`` wrote.
        source: a file; - for standard input; a number or /dev/video0 for a camera; an address that begins with
            rtsp, rtsps, rtmp, rtmps, http, https, srt, udp or tcp.
        every: frames from one sample to the next; else the middle of what the run was trained on, or 6. They count
            at the rate of the run's training videos, where that is known and the source's is far from it.
        top_k: classes shown for each answer.
        json: print a JSON object a line (JSON Lines): for each answer its time and that of the window's first sample
            (start), settled, samples in the window, delay, predictions, latency_ms, dropped and method; and a line with
            an event for each outage.
        live: drop samples that come too fast instead of holding the source up, and play a file at its own pace;
            cameras are always live, and so are servers, except those that say how much they will send.
        wait: seconds that a camera or server which is away is waited for, each time; 0 for not at all. Without it for
            ever, but not for one that was never there.
        redirects: follow a server of http or https that leads to another address, which may be another host.
        device: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.
        runtime: auto, torch, openvino or onnx; auto takes the fastest there is and says which.
        precision: fp32, bf16 or int8; none is fp32.
        root: folder of the data set that the run was trained on, or its address, for int8 to be prepared with.
        store: folder of its prepared clips, or its address, likewise; none reads the videos themselves.

    Returns:
        Counts of frames, answers, drops and outages.

    Raises:
        RunFolderError, WeightsError: as ``predict``.
        SettingsError: settings or an address that make no sense; a video too short for a sample.
        VideoError: the source cannot be read, or went away and did not come back.
    """
    if top_k < 1:
        raise no_classes(top_k)
    if wait is not None and not wait >= 0:
        raise SettingsError("wait", f"nobody waits {wait} seconds", "take 0 or more")
    where = find_source(source, redirects=redirects)
    folder = open_named_run(run)
    clip = folder.clip
    interval = every if every is not None else usual_interval(folder)
    collector = FrameCollector(interval, clip.flow_length)
    recognizer = Recognizer.load(
        folder, runtime=runtime, precision=precision, device=device, root=root, store=store, first="step"
    )
    capture = Capture(where, collector, clip.decoded_size, live=live, wait=wait, rates=recognizer.rates)
    summary = StreamSummary(method=recognizer.stepper.method)
    session = StreamSession(recognizer, capture, summary, top_k)
    ended = _show(session, make_printer(json=json), endless=where.is_live or live)
    if ended and not summary.frames and not summary.outages:
        raise VideoDamaged(where.name, "not one frame of it can be decoded", "send it from a key frame on")
    if ended and not summary.samples and summary.frames:
        reason = f"no sample in {summary.frames} frames, because the first is frame {interval}"
        raise SettingsError(where.name, reason, f"take --every {summary.frames} or less")
    return summary


def _show(session: StreamSession, printer: Printer, *, endless: bool) -> bool:
    """Show the answers and the counts, and return False if Ctrl-C ended an endless source."""
    try:
        with closing(session.answers()) as answers:
            for entry in answers:
                if isinstance(entry, OutageNote):
                    printer.outage(entry)
                else:
                    printer.answer(entry)
    except KeyboardInterrupt:
        if not endless:
            raise
        return False
    finally:
        printer.close()
        summary = session.summary
        if summary.frames or summary.outages:
            text = f"{summary}; runtime: {session.recognizer.runtime}"
            Console(stderr=True).print(Text(printable(text)), soft_wrap=True)
    return True


@dataclass
class StreamSession:
    """Answers what a capture gives.

    Args:
        recognizer: whose answers.
        capture: not yet begun.
        summary: to count in.
        top_k: classes of each answer.
    """

    recognizer: Recognizer
    capture: Capture
    summary: StreamSummary
    top_k: int = 3

    def answers(self) -> Generator[StreamLine | OutageNote, None, None]:
        """Yield an answer for each sample that is not dropped, and notes of outages, until the source ends.

        Raises:
            VideoError: as `Capture`.
        """
        stepper, clip = self.recognizer.stepper, self.recognizer.clip_settings
        window, known, connection = stepper.start(), dict[int, UInt8Array](), 0
        try:
            with self.capture as capture:
                for entry in capture.buffer:
                    self._count()
                    if isinstance(entry, OutageNote):
                        yield entry
                        continue
                    if not connection and capture.pace.note:
                        Console(stderr=True).print(Text(f"note: {capture.pace.note}"), soft_wrap=True)
                    if entry.connection != connection:
                        # Flow and 3-D convolution across the gap would show what was never filmed.
                        window, known, connection = stepper.start(), {}, entry.connection
                    known = entry.group.codes(clip.flow, known)
                    (answer,), window = stepper.answer([entry.group.sample(known, clip)], window)
                    yield self._measure(entry, answer)
        finally:
            self._count()

    def _measure(self, entry: Captured, answer: StreamPrediction) -> StreamLine:
        latency = monotonic() - entry.at
        self.summary.samples += 1
        self.summary.latencies.append(latency)
        predictions = tuple(self.recognizer.best(answer.probabilities, self.top_k))
        delay = entry.newest - entry.group.time
        method, dropped = self.recognizer.stepper.method, self.summary.dropped
        return StreamLine(answer, predictions, delay, latency, dropped, self.summary.dropped_share, method)

    def _count(self) -> None:
        capture, summary = self.capture, self.summary
        summary.frames, summary.outages = capture.frames, capture.outages
        summary.dropped, summary.lost = capture.buffer.dropped, capture.losses.frames
