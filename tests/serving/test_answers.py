"""What a server answers is what the command line answers."""

import base64
import io
import json
import re
import threading

import numpy as np
import pytest
from PIL import Image

from actionfusion.inference.recognizer import Recognizer


@pytest.fixture(scope="module")
def recognizer(tiny_run):
    return Recognizer.load(tiny_run, runtime="torch", device="cpu")


def expected(recognizer, video, top_k=5):
    return [{"label": item.label, "score": item.probability} for item in recognizer.predict(video, top_k)]


def same(found, wanted):
    assert [item["label"] for item in found] == [item["label"] for item in wanted]
    np.testing.assert_allclose([item["score"] for item in found], [item["score"] for item in wanted], atol=1e-5)


@pytest.mark.parametrize("top_k", [1, 3, 100])
def test_a_raw_body_is_answered_as_predict_answers_the_file(server, recognizer, clip, top_k):
    reply = server.post(f"/api/predict?top_k={top_k}", clip.read_bytes())
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    same(reply.json, expected(recognizer, clip, top_k))


def test_a_form_is_answered_likewise(server, recognizer, clip):
    same(server.form("/api/predict", clip.read_bytes()).json, expected(recognizer, clip))


def test_a_form_may_come_in_any_pieces(server, recognizer, clip):
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\nContent-Type: video/mp4\r\n\r\n'
    body += clip.read_bytes() + b"\r\n--b--\r\n"
    pieces = (body[at : at + 999] for at in range(0, len(body), 999))
    head = {"content-type": "multipart/form-data; boundary=b", "transfer-encoding": "chunked"}
    same(server.ask("POST", "/api/predict", pieces, head).json, expected(recognizer, clip))


def test_progress_comes_line_by_line_and_ends_with_the_answer(server, recognizer, slow_video):
    lines = server.post("/api/predict", slow_video.read_bytes(), accept="application/x-ndjson").lines
    stages = [line["stage"] for line in lines[:-1]]
    assert set(stages) == {"decoding", "network"}
    assert stages[-1] == "network"
    counts = [line["done"] for line in lines[:-2] if line["of"]]
    assert max(counts, default=0) <= 390
    assert counts == sorted(counts)
    assert {line["of"] for line in lines[:-2]} <= {None, 390}
    same(lines[-1]["result"], expected(recognizer, slow_video))


def test_an_error_is_the_last_line_too(server):
    (line,) = server.post("/api/predict", b"text", accept="application/x-ndjson").lines[-1:]
    assert line["error"]["kind"] == "not_a_video"


def test_the_timeline_is_that_of_predict_segments(server, recognizer, slow_video):
    from actionfusion.inference.timelines.untrimmed import WindowSettings, find_segments

    found = server.post("/api/timeline?every=4", slow_video.read_bytes()).json
    wanted = find_segments(recognizer, slow_video, WindowSettings(4))
    assert found["method"] == wanted.method
    assert found["error"] is None
    assert [(part["start"], part["end"], part["label"]) for part in found["segments"]] == [
        (round(part.start, 3), round(part.end, 3), part.label) for part in wanted.segments
    ]
    assert found["seconds"] == found["segments"][-1]["end"]


def test_a_timeline_of_a_short_video_is_the_answer_to_the_whole(server, recognizer, clip):
    (part,) = server.post("/api/timeline?every=1000", clip.read_bytes()).json["segments"]
    assert part["label"] == recognizer.predict(clip)[0].label


def test_a_timeline_comes_as_subtitles(server, clip):
    reply = server.post("/api/timeline?every=2", clip.read_bytes(), accept="text/vtt")
    assert reply.headers["content-type"].startswith("text/vtt")
    assert reply.body.startswith(b"WEBVTT\n\n00:00:00.000 --> ")


def test_the_film_strip_has_a_row_for_frames_flow_and_heat(server, clip):
    reply = server.post("/api/explain", clip.read_bytes())
    assert reply.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(reply.body))
    assert picture.height == 3 * 186
    (line,) = server.post("/api/explain", clip.read_bytes(), accept="application/x-ndjson").lines[-1:]
    start, _, data = line["result"]["image"].partition(",")
    assert start == "data:image/png;base64"
    assert base64.b64decode(data) == reply.body


def test_the_model_is_described(server, recognizer):
    about = server.get("/api/model").json
    assert about["labels"] == list(recognizer.labels)
    assert about["streams"] == ["rgb", "flow"]
    assert about["limits"]["bytes"] == 4_000_000
    assert about["streaming"] == "exact state"
    assert about["token"] is False


def test_metrics_count_requests_and_errors_without_what_was_sent(server, clip):
    def value(name):
        text = server.get("/metrics").body.decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    good = 'actionfusion_requests_total{route="/api/predict",status="200"}'
    bad = 'actionfusion_errors_total{kind="not_a_video"}'
    before = value(good), value(bad)
    server.post("/api/predict", clip.read_bytes())
    server.post("/api/predict?secret-of-a-client=1", b"no video")
    server.get("/secret-of-a-client")
    assert (value(good), value(bad)) == (before[0] + 1, before[1] + 1)
    assert value("actionfusion_request_seconds_count" + '{route="/api/predict"}') >= 2
    assert b"secret-of-a-client" not in server.get("/metrics").body


@pytest.mark.parametrize("query", ["top_k=0", "top_k=x", "top_k=1e9"])
def test_settings_that_make_no_sense_are_named(server, clip, query):
    reply = server.post(f"/api/predict?{query}", clip.read_bytes())
    assert (reply.status, reply.error["kind"]) == (422, "settings")
    assert "top_k" in reply.error["message"]


def test_a_stride_that_leaves_gaps_is_refused(server, clip):
    assert server.post("/api/timeline?stride=5000", clip.read_bytes()).error["kind"] == "settings"


def test_videos_that_wait_are_answered_together_and_as_alone(running, tiny_run, tmp_path, shapes_root, recognizer):
    """Of eight that wait for the network, the last seven must share runs, and each has the answer that it has alone."""
    from actionfusion.serving.limits import ServingLimits

    videos = sorted(shapes_root.glob("test/*/*.mp4"))[:8]
    gate, begun = threading.Event(), threading.Event()

    def change(served):
        served.answers.network.batch = 8
        whole = served.answers.recognizer.probabilities

        def held(clips):
            begun.set()
            gate.wait(30)
            return whole(clips)

        served.answers.recognizer.probabilities = held

    limits = ServingLimits(decoders=2, batch=1)
    with running(tiny_run, tmp_path, limits=limits, change=change) as server:
        found = {}

        def ask(video):
            found[video] = server.post("/api/predict?top_k=100", video.read_bytes()).json

        threads = [threading.Thread(target=ask, args=(video,)) for video in videos]
        for number, thread in enumerate(threads):
            thread.start()
            if number == 0:  # two that come at once would share the first run
                assert begun.wait(30)
        tasks = server.answers.network._tasks
        for _ in range(1000):
            if len(tasks) == 7:
                break
            threading.Event().wait(0.02)
        gate.set()
        for thread in threads:
            thread.join()
        assert server.answers.network.batches == {1: 1, 7: 1}
    for video in videos:
        same_scores(found[video], expected(recognizer, video, 100))


def same_scores(found, wanted):
    scores = {item["label"]: item["score"] for item in found}
    for item in wanted:
        assert scores[item["label"]] == pytest.approx(item["score"], abs=1e-5)


def test_openapi_describes_the_routes_with_examples(server):
    document = json.loads(server.get("/openapi.json").body)
    assert set(document["paths"]) == {
        "/api/explain", "/api/model", "/api/predict", "/api/timeline", "/health/live", "/health/ready", "/metrics",
    }  # fmt: skip
    good = document["paths"]["/api/predict"]["post"]["responses"]["200"]["content"]
    assert set(good) == {"application/json", "application/x-ndjson"}
    assert good["application/json"]["schema"]["items"] == {"$ref": "#/components/schemas/PredictionModel"}
    assert good["application/json"]["example"][0].keys() == {"label", "score"}
