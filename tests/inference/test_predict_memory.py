"""A film takes no more memory than a clip."""

import json
import subprocess
import sys

import av
import numpy as np
import pytest

from actionfusion.video.seeking import scan_packets

_PREDICT = """
import json, sys
from resource import RUSAGE_SELF, getrusage
from actionfusion import Recognizer
recognizer = Recognizer.load(sys.argv[1], runtime="torch", device="cpu")
peaks = []
for video in sys.argv[2:]:
    recognizer.predict(video)
    peaks.append(getrusage(RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "linux" else 1024))
print(json.dumps(peaks))
"""


def _write(path, frames, codec, options):
    texture = np.random.default_rng(0).integers(0, 256, (48, 128, 3), np.uint8)
    moving = [
        av.VideoFrame.from_ndarray(np.ascontiguousarray(texture[:, at : at + 64])).reformat(format="yuv420p")
        for at in range(64)
    ]
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(frames):
            frame = moving[number % 64]
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.slow
def test_the_peak_for_a_film_is_that_for_a_clip(tiny_run, tmp_path):
    """A process's peak never falls: after 10-second clips, films of 13 minutes must not raise it."""
    h264 = {"preset": "ultrafast", "g": "99", "crf": "51"}
    videos = []
    for frames in (300, 24_000):
        videos += [
            _write(tmp_path / f"decoded-{frames}.avi", frames, "mpeg4", {}),
            _write(tmp_path / f"sought-{frames}.mp4", frames, "libx264", h264),
        ]
    indices = [scan_packets(video).index for video in videos]
    assert [index is not None and index.pays([9000, 20_000]) for index in indices] == [False, False, False, True]
    command = [sys.executable, "-c", _PREDICT, tiny_run, *videos[:2], *videos]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    *_, before, film, sought_film = json.loads(done.stdout)
    # All frames at the stored size would be 221 MB.  FFmpeg keeps a container's table of packets.
    assert film - before < 12_000
    assert sought_film - before < 12_000
